import { debCommonName, debDebugName, debFile, debModulesName, debVersion } from '../distro/deb-names.js';
import { packageBaseName, type NameStyle, type PackageIdentity } from '../distro/package-names.js';
import { rpmCommonName, rpmNames } from '../distro/rpm-names.js';
import type { PackageForm } from '../distro/row.js';
import { DEB_ARCH } from '../model/cell.js';

/** What the files of one module for one kernel are called in the out-dir. */
export interface ModuleFiles {
  package: string;
  log: string;
  /** The package of debug symbols, which may come along. */
  debug: string;
  /** What the package of what all kernels share is called, when it is named after this module: its version is the source's. */
  common: RegExp;
}

/** Throws what the names' own checks throw, fault `module` or `usage`. */
export function moduleFiles(identity: PackageIdentity, style: NameStyle, form: PackageForm): ModuleFiles {
  const base = packageBaseName(identity, style, form);
  const { module, version, release, arch } = identity;
  if (form !== 'deb') {
    const names = rpmNames(identity, form);
    return {
      package: names.file,
      log: `${base}.log`,
      debug: `${names.name}-debuginfo-${names.version}-${names.release}.${arch}.rpm`,
      common: new RegExp(
        `^${quoted(rpmCommonName(module))}-${VERSION}-${names.release}\\.(noarch|${arch})\\.rpm$`,
      ),
    };
  }
  const debug = debDebugName(debModulesName(module, release));
  return {
    package: `${base}.deb`,
    log: `${base}.log`,
    debug: debFile({ name: debug, version: debVersion(version), architecture: DEB_ARCH[arch] }),
    common: new RegExp(`^${quoted(debCommonName(module))}_${VERSION}_(all|${DEB_ARCH[arch]})\\.deb$`),
  };
}

/** As either form has them in a file's name. */
const VERSION = '[A-Za-z0-9][A-Za-z0-9.+~^_%-]*';

const quoted = (text: string): string => text.replaceAll(/[.+]/g, String.raw`\$&`);
