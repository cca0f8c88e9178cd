import {
  rpmCompanions,
  rpmKernelVersion,
  rpmMetaName,
  rpmModuleCapability,
  rpmNames,
  rpmVariant,
  rpmVersion,
  type RpmForm,
} from '../distro/rpm-names.js';
import { relationText, type RpmHeader } from '../formats/rpm-header.js';
import type { Arch } from '../model/cell.js';
import { MAINTAINER } from './deb.js';
import { makeRpm, type SmallRpm } from './rpm-file.js';

/** One version of a metapackage for dnf or zypper: it brings the module's package for one kernel, and that kernel. */
export interface RpmFollowing {
  form: RpmForm;
  module: string;
  moduleVersion: string;
  arch: Arch;
  /** The package of the kernel's image: `kernel-core`, `kernel-default`. */
  image: string;
  release: string;
  /** Packages of older modules for that kernel, whose place its package takes: `foo-kmp-default = 1.2_k6.4.0_150600.23.25-1`. */
  replaced: readonly string[];
}

/** The relation to the package of a module's version that a newer one takes the place of. */
export function replacedRpm({
  module,
  moduleVersion: version,
  arch,
  release,
  form,
}: Omit<RpmFollowing, 'replaced'>): string {
  const names = rpmNames({ module, version, release, arch }, form);
  return `${names.name} = ${names.version}-${names.release}`;
}

/** The metapackage of a module for one kernel. Its version is the kernel's: each new kernel's is an upgrade, which brings kernel and module. */
export function makeRpmMetapackage(
  following: RpmFollowing,
  { hold, mtime }: { hold: boolean; mtime: number },
): { file: string; bytes: Buffer } {
  const { form, module, moduleVersion, arch, image, release } = following;
  const name = rpmMetaName(module, image, form);
  const version = rpmVersion(rpmKernelVersion(release, form));
  const packageRelease = rpmVersion(moduleVersion);
  const modules = rpmNames({ module, version: moduleVersion, release, arch }, form);
  const held = hold ? HOLDING[form](following, name) : NOT_HELD;
  const bytes = makeRpm({
    ...{ name, version, release: packageRelease, architecture: arch, packager: MAINTAINER, mtime },
    summary: `${module} kernel module for the kernels of ${image}`,
    description: [
      `Brings the module's package for the newest kernel of ${image} that there is one`,
      ...['for, and with it that kernel.', ...held.words],
      ...['', `Module version: ${moduleVersion}`, `Kernel: ${release}`],
    ].join('\n'),
    requires: [
      ...[...modules.requires, `${modules.name} >= ${modules.version}-${modules.release}`],
      ...(form === 'kmp' ? [rpmModuleCapability(module, release, form)] : rpmCompanions(image, release)),
    ],
    ...{ recommends: held.recommends, conflicts: held.conflicts, files: held.files },
    provides: [`${FOLLOWS}(${module}:${release})`],
    // zypper keeps packages side by side whatever obsoletes them, unless it is one that it does not keep so.
    obsoletes: form === 'kmp' ? following.replaced : [],
  });
  return { file: `${name}-${version}-${packageRelease}.${arch}.rpm`, bytes };
}

type Held = Pick<SmallRpm, 'recommends' | 'conflicts' | 'files'> & { words: string[] };

const NOT_HELD: Held = { words: [], recommends: [], conflicts: [], files: [] };

/** How a kernel that there is no module for is kept back. */
const HOLDING: Record<RpmForm, (following: RpmFollowing, name: string) => Held> = {
  // EPEL's plugin takes from dnf's sight the kernels that no version of the metapackage is for. No Conflicts: where dnf
  // wants the best, the whole upgrade then fails.
  kmod({ image }, name) {
    // The plugin knows no other images.
    if (!image.endsWith('-core')) return NOT_HELD;
    const variant = rpmVariant(image);
    const lines = [
      '[protected_kmods]',
      `kmod_names = ${name}`,
      ...(variant === '' ? [] : [`variant = ${variant}`]),
      '',
    ];
    return {
      words: ['', 'With the dnf plugin protected-kmods a kernel that there is none for yet is kept', 'back.'],
      recommends: ['dnf-plugin-protected-kmods'],
      conflicts: [],
      files: [
        {
          path: `/etc/dnf/plugins/protected-kmods.d/${name}.conf`,
          bytes: Buffer.from(lines.join('\n')),
          settings: true,
        },
      ],
    };
  },
  // zypper leaves such an update out, and makes all others.
  kmp: ({ image, release }) => ({
    ...NOT_HELD,
    words: ['', `While there is none for the next kernel, zypper keeps ${image} back.`],
    // A build counter follows the version; there is no upper end of it.
    conflicts: [`${image} > ${rpmKernelVersion(release, 'kmp')}.99999`],
  }),
};

const FOLLOWS = 'dkms2bin-follows';

/** The module and kernel that a package brings together, and what it replaces; undefined for any package but a metapackage of ours. */
export function rpmFollowingOf({
  relations,
}: RpmHeader): Pick<RpmFollowing, 'module' | 'release' | 'replaced'> | undefined {
  for (const { name } of relations.provides) {
    const [, module, release] = /^dkms2bin-follows\(([^:()]+):([^()]+)\)$/.exec(name) ?? [];
    if (module !== undefined && release !== undefined)
      return { module, release, replaced: relations.obsoletes.map(relationText) };
  }
  return undefined;
}
