import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';

/** The distro's own form of a kernel module's .rpm: Red Hat's and Fedora's kmod, or SUSE's KMP. */
export type RpmForm = 'kmod' | 'kmp';

/** What an .rpm of modules is called, and what it says of itself and of its kernel. */
export interface RpmNames {
  name: string;
  version: string;
  release: string;
  /** `NAME-VERSION-RELEASE.ARCH.rpm`, as rpmbuild names it. */
  file: string;
  /** The relations that tie it to its kernel. */
  requires: string[];
  provides: string[];
  conflicts: string[];
  obsoletes: string[];
  /** Folder of its modules below `/lib/modules/RELEASE`. */
  folder: string;
}

/** Counts the packagings of one version; every build of the same input gives the same package, so there is only one. */
const RELEASE = '1';

/** A module's version as rpm allows it, sorted as it is meant: `1.2-rc1` becomes `1.2~rc1`, `1.2-3` becomes `1.2_3`. */
export function rpmVersion(text: string): string {
  const clean = text
    .replace(/-(?=(?:alpha|beta|dev|pre|rc)\d*)/gi, '~')
    .replace(/[-:/]/g, '_')
    .replace(/[^A-Za-z0-9._+~^]+/g, '+')
    .replace(/^[^A-Za-z0-9]+/, '');
  if (clean === '') throw new Dkms2binError('module', `Not a module version: ${JSON.stringify(text)}`);
  return clean;
}

/** Name of the package with what a module needs beside it, the same for all kernels. */
export const rpmCommonName = (module: string): string => `${module}-kmod-common`;

/** The kernel that an image package belongs to: `kernel-rt` of `kernel-rt-core`. */
const kernelOfImage = (image: string): string => image.replace(/-core$/, '');

/** What tells an image package's kernels from the plain ones: `rt` of `kernel-rt-core`, '' for `kernel-core`. */
export const rpmVariant = (image: string): string => kernelOfImage(image).replace(/^kernel(-|$)/, '');

/** Name of the metapackage that brings a module for the kernels of an image package. */
export function rpmMetaName(module: string, image: string, form: RpmForm): string {
  const variant = rpmVariant(image);
  if (form === 'kmp') return `${module}-kmp-${variant}-meta`;
  return `kmod-${module}${variant === '' ? '' : `-${variant}`}`;
}

/** What of a kernel's packages is installed comes in the same version: a dependency on its image alone brings no more than that. */
export function rpmCompanions(image: string, release: string): string[] {
  const all = image.endsWith('-core') ? ['', '-modules', '-modules-extra'] : [];
  const names = all.map((each) => `${kernelOfImage(image)}${each}`);
  return names.map((name) => `(${name} = ${rpmKernelVersion(release, 'kmod')} if ${name})`);
}

/** Of a kernel's packages version and release: `5.14.0-503.el9` of `5.14.0-503.el9.x86_64+rt`. SUSE's go on with a build counter. */
export const rpmKernelVersion = (release: string, form: RpmForm): string =>
  form === 'kmp'
    ? suseRelease(release).version
    : release.replace(/\.(?:x86_64|aarch64)(?:\+[a-z0-9-]+)?$/, '');

/** What the package of another module for the same kernel can be required by. */
export function rpmModuleCapability(module: string, release: string, form: RpmForm): string {
  if (form === 'kmod') return `kmod-${module}-${release}`;
  const { version, flavour } = suseRelease(release);
  return `${module}-kmp-${flavour}-k${version.replaceAll('-', '_')}`;
}

/** What the package that has this .ko file for a kernel provides, and no other may be installed beside. */
export const rpmModuleFile = (file: string, release: string): string =>
  `module-file(${file.replaceAll('-', '_')}-${release})`;

/** Names of the package of one module for one kernel. Throws fault `usage` for a release that the form cannot express. */
export function rpmNames(
  of: { module: string; version: string; release: string; arch: Arch },
  form: RpmForm,
): RpmNames {
  const { module, release, arch } = of;
  const own = rpmVersion(of.version);
  const done = (names: Omit<RpmNames, 'file' | 'release'>): RpmNames => ({
    ...names,
    release: RELEASE,
    file: `${names.name}-${names.version}-${RELEASE}.${arch}.rpm`,
  });
  if (form === 'kmod') {
    // rpm compares VERSION-RELEASE: more than one dash cannot be told apart, and rpmbuild refuses it.
    if (release.split('-').length > 2) {
      throw new Dkms2binError(
        'usage',
        `No .rpm can require the kernel ${release}: it has more than one dash`,
      );
    }
    const name = `kmod-${module}-${release}`;
    return done({
      name,
      version: own,
      requires: [`kernel-uname-r = ${release}`],
      provides: [
        `${module}-kmod = ${own}-${RELEASE}`,
        `kmod-${module} = ${own}-${RELEASE}`,
        'installonlypkg(kernel-module)',
      ],
      conflicts: [],
      // dnf installs what is installonly beside its older version, whose files are the same: only this makes it go.
      obsoletes: [`${name} < ${own}-${RELEASE}`],
      folder: `extra/${module}`,
    });
  }
  const kernel = suseRelease(release);
  const built = `k${kernel.version.replaceAll('-', '_')}`;
  const name = `${module}-kmp-${kernel.flavour}`;
  const version = `${own}_${built}`;
  return done({
    name,
    version,
    // `uname -r` lacks the build counter of the kernel's package, which provides this as well.
    requires: [`kernel-${kernel.flavour} = ${kernel.version}`],
    provides: [
      `${module}-kmp = ${version}`,
      `${module}-kmod = ${own}-${RELEASE}`,
      `${name}-${built}`,
      'multiversion(kernel)',
    ],
    // Another version for the same kernel.
    conflicts: [`${name}-${built}`],
    obsoletes: [],
    folder: `updates/${module}`,
  });
}

/** `6.4.0-150600.23.25-default`: version and flavour. */
function suseRelease(release: string): { version: string; flavour: string } {
  const [, version, flavour] = /^([^-]+-[^-]+)-([a-z0-9_]+)$/.exec(release) ?? [];
  if (version === undefined || flavour === undefined) {
    throw new Dkms2binError('usage', `Not a kernel release of SUSE: ${JSON.stringify(release)}`, {
      hint: 'They end in a flavour, such as 6.4.0-150600.23.25-default.',
    });
  }
  return { version, flavour };
}
