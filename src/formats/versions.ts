/** Order of one character in dpkg's scheme: `~` first, then the end, letters, everything else. */
function order(char: string | undefined): number {
  if (char === undefined) return 0;
  if (char === '~') return -1;
  return /[A-Za-z]/.test(char) ? char.charCodeAt(0) : char.charCodeAt(0) + 256;
}

/** dpkg's verrevcmp: alternating runs of non-digits and digits. Returns negative, 0 or positive. */
function compareParts(a: string, b: string): number {
  const [left, right] = [runs(a), runs(b)];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const [x = END, y = END] = [left[i], right[i]];
    const difference = compareText(x.text, y.text) || compareDigits(x.digits, y.digits);
    if (difference !== 0) return difference;
  }
  return 0;
}

interface Run {
  text: string;
  digits: string;
}
const END: Run = { text: '', digits: '' };

/** What is no digit, each time with the digits after it. */
function runs(version: string): Run[] {
  return [...version.matchAll(/([^0-9]*)([0-9]*)/g)].map(([, text = '', digits = '']) => ({ text, digits }));
}

function compareText(a: string, b: string): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = order(a[i]) - order(b[i]);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** As numbers, of any length. */
function compareDigits(a: string, b: string): number {
  const [x, y] = [a.replace(/^0+/, ''), b.replace(/^0+/, '')];
  if (x.length !== y.length) return x.length - y.length;
  if (x === y) return 0;
  return x < y ? -1 : 1;
}

/** Compares two Debian package versions `[epoch:]upstream[-revision]` as `dpkg --compare-versions` does. */
export function compareVersions(a: string, b: string): number {
  const split = (version: string): [number, string, string] => {
    const colon = version.indexOf(':');
    const rest = version.slice(colon + 1);
    const dash = rest.lastIndexOf('-');
    return [
      colon < 0 ? 0 : Number(version.slice(0, colon)),
      dash < 0 ? rest : rest.slice(0, dash),
      dash < 0 ? '' : rest.slice(dash + 1),
    ];
  };
  const [epochA, upstreamA, revisionA] = split(a);
  const [epochB, upstreamB, revisionB] = split(b);
  return epochA - epochB || compareParts(upstreamA, upstreamB) || compareParts(revisionA, revisionB);
}

/** Natural order of kernel releases: `6.1.0-9-amd64` before `6.1.0-10-amd64`. */
export function compareReleases(a: string, b: string): number {
  return compareParts(a, b);
}

/** Compares two parts of an RPM version as rpm's rpmvercmp does: `~` before the end, `^` after it, letters before digits. */
function compareRpmParts(a: string, b: string): number {
  const parts = (text: string): string[] => text.match(/\d+|[A-Za-z]+|[~^]/g) ?? [];
  const [left, right] = [parts(a), parts(b)];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = compareRpmPart(left[i], right[i]);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Kinds of parts, the older first; the end of a version is one, too. */
const RPM_ORDER = [/^~$/, /^$/, /^\^$/, /^[A-Za-z]/, /^\d/];

function compareRpmPart(a = '', b = ''): number {
  const [x, y] = [a, b].map((part) => RPM_ORDER.findIndex((kind) => kind.test(part)));
  if (x !== y) return (x ?? 0) - (y ?? 0);
  if (/^\d/.test(a)) return compareDigits(a, b);
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** Compares two RPM versions `[epoch:]version-release` as rpm does. Returns negative, 0 or positive. */
export function compareRpmVersions(a: string, b: string): number {
  const split = (text: string): [number, string, string] => {
    const [, epoch, version, release] = /^(?:(\d+):)?([^-]*)(?:-(.*))?$/.exec(text) ?? [];
    return [Number(epoch ?? 0), version ?? '', release ?? ''];
  };
  const [epochA, versionA, releaseA] = split(a);
  const [epochB, versionB, releaseB] = split(b);
  return epochA - epochB || compareRpmParts(versionA, versionB) || compareRpmParts(releaseA, releaseB);
}
