/**
 * A package URL of type deb: `pkg:deb/debian/gcc-12@12.2.0-14?arch=amd64&distro=debian-12`. `distro` is a catalogue id;
 * its first part is the vendor unless `vendor` says who else made the package.
 */
export function debPurl(
  name: string,
  version: string,
  { arch, distro, vendor }: { arch?: string; distro: string; vendor?: string },
): string {
  const qualifiers = [...(arch === undefined ? [] : [`arch=${encode(arch)}`]), `distro=${encode(distro)}`];
  const namespace = vendor ?? distro.split('-')[0] ?? distro;
  return `pkg:deb/${encode(namespace.toLowerCase())}/${encode(name.toLowerCase())}@${encode(version)}?${qualifiers.join('&')}`;
}

/** purl percent-encodes all but letters, digits, `.-_~` and the colon. */
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
