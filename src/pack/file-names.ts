import { debCommonName, debDebugName, debFile, debModulesName, debVersion } from '../distro/deb-names.js';
import { packageBaseName, type NameStyle, type PackageIdentity } from '../distro/package-names.js';
import { rpmCommonName, rpmNames, rpmVersion } from '../distro/rpm-names.js';
import type { PackageForm } from '../distro/row.js';
import { DEB_ARCH } from '../model/cell.js';

/** What the files of one module for one kernel are called in the out-dir. */
export interface ModuleFiles {
  package: string;
  log: string;
  /** Packages that may come along: one of what the module needs beside it, one of debug symbols. */
  others: string[];
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
      others: [
        `${rpmCommonName(module)}-${rpmVersion(version)}-${names.release}.noarch.rpm`,
        `${names.name}-debuginfo-${names.version}-${names.release}.${arch}.rpm`,
      ],
    };
  }
  const debug = debDebugName(debModulesName(module, release));
  return {
    package: `${base}.deb`,
    log: `${base}.log`,
    others: [
      debFile({ name: debCommonName(module), version: debVersion(version), architecture: 'all' }),
      debFile({ name: debug, version: debVersion(version), architecture: DEB_ARCH[arch] }),
    ],
  };
}
