/**
 * A package URL: `pkg:deb/debian/gcc-12@12.2.0-14?arch=amd64&distro=debian-12`. `distro` is a catalogue id; its first part is
 * the vendor unless `vendor` says who else made the package. `version` is as its kind writes it, an epoch in front.
 */
export function packagePurl(
  type: 'deb' | 'rpm',
  name: string,
  version: string,
  { arch, distro, vendor }: { arch?: string; distro: string; vendor?: string },
): string {
  const namespace = vendor ?? distro.split('-')[0] ?? distro;
  // The specification has names of deb packages in lower case, and the epoch of rpm packages outside the version.
  const own = type === 'deb' ? name.toLowerCase() : name;
  const [, epoch, rest = version] = (type === 'rpm' && /^(\d+):(.*)$/.exec(version)) || [];
  const qualifiers = [
    ...(arch === undefined ? [] : [`arch=${encode(arch)}`]),
    `distro=${encode(distro)}`,
    ...(epoch === undefined || epoch === '0' ? [] : [`epoch=${epoch}`]),
  ];
  return `pkg:${type}/${encode(namespace.toLowerCase())}/${encode(own)}@${encode(rest)}?${qualifiers.join('&')}`;
}

/**
 * purl percent-encodes all but letters, digits, `.-_~` and the colon. packageurl-js does not keep to it: it leaves the plus of
 * Debian's versions as it is, and encodes the tilde of a qualifier.
 */
function encode(part: string): string {
  return encodeURIComponent(part).replace(/[!'()*]|%3A/g, (each) =>
    each === '%3A' ? ':' : `%${each.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** The version in a package URL, null without one. */
export function purlVersion(purl: string): string | null {
  const version = /@([^@?#]+)(?:[?#]|$)/.exec(purl)?.[1];
  try {
    return version === undefined ? null : decodeURIComponent(version);
  } catch {
    return null;
  }
}
