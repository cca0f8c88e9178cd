/** Order of one character in dpkg's scheme: `~` first, then the end, letters, everything else. */
function order(char: string | undefined): number {
  if (char === undefined) return 0;
  if (char === '~') return -1;
  if (/[0-9]/.test(char)) return 0;
  return /[A-Za-z]/.test(char) ? char.charCodeAt(0) : char.charCodeAt(0) + 256;
}

/** dpkg's verrevcmp: alternating runs of non-digits and digits. Returns negative, 0 or positive. */
function compareParts(a: string, b: string): number {
  const digit = (s: string, i: number): boolean => i < s.length && /[0-9]/.test(s.charAt(i));
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    while ((i < a.length && !digit(a, i)) || (j < b.length && !digit(b, j))) {
      const difference = order(a[i]) - order(b[j]);
      if (difference !== 0) return difference;
      i++;
      j++;
    }
    while (a[i] === '0') i++;
    while (b[j] === '0') j++;
    let first = 0;
    while (digit(a, i) && digit(b, j)) {
      if (first === 0) first = a.charCodeAt(i) - b.charCodeAt(j);
      i++;
      j++;
    }
    if (digit(a, i)) return 1;
    if (digit(b, j)) return -1;
    if (first !== 0) return first;
  }
  return 0;
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
    const [x, y] = [left[i], right[i]];
    if (x === y) continue;
    if (x === '~' || y === '~') return x === '~' ? -1 : 1;
    if (x === undefined || y === undefined) {
      // The longer one is newer, `^` included.
      return x === undefined ? -1 : 1;
    }
    if (x === '^' || y === '^') return x === '^' ? -1 : 1;
    const [digitsX, digitsY] = [/^\d/.test(x), /^\d/.test(y)];
    if (digitsX !== digitsY) return digitsX ? 1 : -1;
    if (!digitsX) return x < y ? -1 : 1;
    const [p, q] = [x.replace(/^0+/, ''), y.replace(/^0+/, '')];
    if (p.length !== q.length) return p.length - q.length;
    if (p !== q) return p < q ? -1 : 1;
  }
  return 0;
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
