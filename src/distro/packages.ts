import { Dkms2binError } from '../model/errors.js';
import { flavourOf } from './release.js';
import type { DistroRow, PackageSet } from './row.js';
import { fillKnown } from './templates.js';
import { compareReleases } from '../formats/versions.js';

/** Names of one kernel's packages, as the row's package manager takes them. */
export interface KernelPackages {
  /** Names of the image; the first that exists is the one. */
  image: string[];
  /** What must come with it. */
  modules: string[];
  /** What is taken where it exists. */
  extra: string[];
  /** What modules are built against, all of them. */
  headers: string[];
}

/** Values of every placeholder that apt rows' package names may have, to try them with. */
export const NAME_PROBE = aptNames('6.1.0-1-amd64', 'linux');

/**
 * The packages of a kernel release. `source` is the Source field of an apt row's image or headers package: Ubuntu's
 * common headers are called after it. Throws `usage` for a row without package names, `not-found` for a release whose
 * variant (`+debug`) the row does not know.
 */
export function kernelPackages(row: DistroRow, release: string, source = 'linux'): KernelPackages {
  const { set } = packageSetOf(row, release);
  const name = namer(row, release, source);
  return {
    image: set.image.map(name),
    modules: set.modules.map(name),
    extra: set.extra.map(name),
    headers: set.headers.map(name),
  };
}

/** What `uname -r` says after the architecture. */
const RPM_VARIANT = /(?<=\.(?:x86_64|aarch64))\+[a-z0-9-]+$/;

/** Which of the row's package sets a release is of. */
export function packageSetOf(row: DistroRow, release: string): { set: PackageSet; suffix: string } {
  const { packages } = row;
  if (!packages) throw new Dkms2binError('usage', `The catalogue has no package names for ${row.id}`);
  const variant = packages.variants.find(({ match }) => new RegExp(match).test(release));
  if (variant) return { set: variant, suffix: variant.suffix };
  const unknown = row.packageManager === 'dnf' && RPM_VARIANT.exec(release)?.[0];
  if (!unknown) return { set: packages, suffix: '' };
  throw new Dkms2binError(
    'not-found',
    `The catalogue has no package names for ${unknown} kernels of ${row.id}`,
    {
      hint: "Give the kernel's packages with --kernel-package.",
    },
  );
}

/** All sets of a row with the suffix that their releases have. */
export function packageSets(row: DistroRow): { set: PackageSet; suffix: string }[] {
  const { packages } = row;
  if (!packages) return [];
  return [...packages.variants.map((set) => ({ set, suffix: set.suffix })), { set: packages, suffix: '' }];
}

function namer(row: DistroRow, release: string, source: string): (template: string) => string {
  switch (row.packageManager) {
    case 'dnf': {
      // `uname -r` is version-release.arch, and a variant's suffix.
      const nevra = release.replace(RPM_VARIANT, '');
      return (template) => `${template}-${nevra}`;
    }
    case 'zypper':
      // The release lacks the build counter, which can differ between the packages: whoever installs them matches
      // versions by prefix.
      return (template) => template.replaceAll('{flavour}', flavourOf(release) ?? 'default');
    default: {
      const values = aptNames(release, source);
      return (template) => fillKnown(template, values);
    }
  }
}

/**
 * - `abi` is the release without its flavour, `series` its first two numbers;
 * - `source` is the source package without `-signed`, `linux-signed-hwe-6.8` is built of `linux-hwe-6.8`, and without an
 *   `-hwe` or `-edge` that no series follows: `linux-aws-hwe` has `linux-aws-headers-…`;
 * - `common` is Debian's name of the headers that flavours share. Real-time patches made them differ before 6.13;
 * - `kbuild` is what Debian's linux-kbuild is called after: the series, or since `+debNN` names the whole ABI.
 */
function aptNames(release: string, source: string): Record<string, string> {
  const flavour = flavourOf(release) ?? '';
  const abi = flavour === '' ? release : release.slice(0, -flavour.length - 1);
  const series = /^\d+\.\d+/.exec(release)?.[0] ?? abi;
  return {
    release,
    flavour,
    abi,
    series,
    source: source.replace('-signed', '').replace(/(?:-hwe)?(?:-edge)?$/, ''),
    common: /^rt(?:-|$)/.test(flavour) && compareReleases(series, '6.13') < 0 ? 'common-rt' : 'common',
    kbuild: abi.includes('+') ? abi : series,
  };
}

/**
 * The kernel release of a SUSE package's version: its last number is a build counter that `uname -r` does not show.
 */
export function suseRelease(version: string, rpmRelease: string, flavour: string): string {
  return `${version}-${rpmRelease.replace(/\.\d+$/, '')}-${flavour}`;
}

/** The beginning that versions of a SUSE release's packages have; a dot and the build counter follow. */
export function suseVersionPrefix(release: string): string {
  const flavour = flavourOf(release);
  return flavour === undefined ? release : release.slice(0, -flavour.length - 1);
}
