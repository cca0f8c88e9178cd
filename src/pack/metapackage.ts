import { z } from 'zod';
import { debFile, debMetaName, debModulesName, debName, debVersion } from '../distro/deb-names.js';
import { DistroId, PackageName, Release, Version } from '../model/forms.js';
import { ARCHES, DEB_ARCH } from '../model/cell.js';
import { FOLLOWS, MAINTAINER, makeDeb } from './deb.js';

/** What a metapackage of ours follows. It stands in its control file, so that the next run knows what was said. */
export const Following = z.object({
  distro: DistroId,
  arch: z.enum(ARCHES),
  module: PackageName,
  /** The kernel metapackage that it follows: `linux-image-amd64`. */
  meta: PackageName,
  /** From backports, which machines take nothing from unless they are told to. */
  backports: z.boolean(),
  /** The kernel that it depends on the module's package of, and the module's version there. */
  release: Release,
  moduleVersion: Version,
  /** The newest version of the kernel metapackage that leads to that kernel. */
  upTo: Version,
});
export type Following = z.infer<typeof Following>;

interface Making {
  /** Whether it keeps the kernel metapackage from going on before there is a module for its next kernel. */
  hold: boolean;
  /** Seconds since 1970. */
  mtime: number;
}

/**
 * A package without files that brings the module for the kernel which a kernel metapackage leads to. It holds by `Breaks` and
 * not by a dependency on one version: for the latter, apt's dist-upgrade removes our package and lets the kernel go on.
 */
export function makeMetapackage(
  following: Following,
  { hold, mtime }: Making,
): { file: string; bytes: Buffer } {
  const { module, moduleVersion, release, meta, upTo, backports, arch } = following;
  const name = debMetaName(module, meta, backports);
  // A revision is compared after all else: it rises with the module's version first, then with the kernel's.
  const version = `${debVersion(moduleVersion)}-${upTo.replace(/[-:]/g, '.')}`;
  const architecture = DEB_ARCH[arch];
  const bytes = makeDeb({
    control: {
      package: name,
      version,
      architecture,
      maintainer: MAINTAINER,
      section: 'metapackages',
      priority: 'optional',
      depends: [`${debModulesName(module, release)} (>= ${debVersion(moduleVersion)})`],
      ...(hold && { breaks: [`${debName(meta)} (>> ${upTo})`] }),
      follows: JSON.stringify(following),
      description: {
        synopsis: `${module} kernel module for the kernels of ${meta}`,
        lines: [
          `Brings the module's package for the kernel that ${meta} leads to, and with`,
          'each new kernel the next one.',
          ...(hold ? ['', `While there is none for the next kernel, apt keeps ${meta} back.`] : []),
          '',
          `  Module version: ${moduleVersion}`,
          `  Kernel: ${release}`,
        ],
      },
    },
    files: [],
    scripts: {},
    mtime,
  });
  return { file: debFile({ name, version, architecture }), bytes };
}

/** What a package's control fields say that it follows; undefined for any package but a metapackage of ours. */
export function followingOf(fields: readonly { key: string; text: string }[]): Following | undefined {
  const field = fields.find(({ key }) => key === FOLLOWS.toLowerCase());
  if (!field) return undefined;
  try {
    return Following.safeParse(JSON.parse(field.text.slice(field.text.indexOf(':') + 1))).data;
  } catch {
    return undefined;
  }
}
