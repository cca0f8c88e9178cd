import type { Arch } from '../model/cell.js';
import { compareRpmVersions } from '../formats/versions.js';
import type { KernelEntry, MetaEntry } from './kernel-index.js';
import { packageSetOf, packageSets, suseRelease } from './packages.js';
import type { RpmPackage } from './repomd.js';
import type { DistroRow } from './row.js';

/** A kernel with the name of its image package. */
export interface RpmKernel {
  name: string;
  entry: KernelEntry;
}

/** The kernels among a repository's packages. */
export function kernelsOf(
  row: DistroRow,
  arch: Arch,
  { name: repo, packages }: { name: string; packages: readonly RpmPackage[] },
): RpmKernel[] {
  return packages.flatMap((rpm) => {
    const found = rpm.arch === arch ? releaseOf(row, rpm) : undefined;
    if (!found) return [];
    return [{ name: rpm.name, entry: { ...found, packageVersion: versionOf(rpm), suite: repo } }];
  });
}

export function versionOf({ epoch, version, release }: RpmPackage): string {
  return `${epoch === '0' ? '' : `${epoch}:`}${version}-${release}`;
}

/** RPM distros have no metapackage that names a kernel: the default one is the newest package of its name. */
export function newestOf(kernels: readonly RpmKernel[]): MetaEntry[] {
  const newest = new Map<string, MetaEntry>();
  for (const { name, entry } of kernels) {
    const { release, packageVersion, suite } = entry;
    const known = newest.get(name);
    if (known && compareRpmVersions(packageVersion, known.packageVersion) <= 0) continue;
    newest.set(name, { name, release, packageVersion, suite });
  }
  return [...newest.values()];
}

interface Named {
  release: string;
  flavour: string;
}

/** What `uname -r` says with an image package, undefined for a package that is no image of this row. */
function releaseOf(row: DistroRow, rpm: RpmPackage): Named | undefined {
  const read = row.packageManager === 'zypper' ? suseImage : dnfImage;
  for (const { set, suffix } of packageSets(row)) {
    for (const template of set.image) {
      const found = read(rpm, template, suffix);
      if (found && packageSetOf(row, found.release).set === set) return found;
    }
  }
  return undefined;
}

function suseImage(rpm: RpmPackage, template: string): Named | undefined {
  const [head = '', tail = ''] = template.split('{flavour}');
  if (!rpm.name.startsWith(head) || !rpm.name.endsWith(tail)) return undefined;
  const flavour = rpm.name.slice(head.length, rpm.name.length - tail.length);
  return { release: suseRelease(rpm.version, rpm.release, flavour), flavour };
}

function dnfImage(rpm: RpmPackage, template: string, suffix: string): Named | undefined {
  if (template !== rpm.name) return undefined;
  // Some packages of a variant provide the name of the plain kernel beside which they are built.
  const made = `${rpm.version}-${rpm.release}.${rpm.arch}${suffix}`;
  const release = rpm.unameR?.endsWith(suffix) ? rpm.unameR : made;
  const inside = /\.rt\d|uek/.exec(release)?.[0].replace(/[.\d]/g, '');
  return { release, flavour: suffix.slice(1) || inside || '' };
}
