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
