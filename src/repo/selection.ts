import { Dkms2binError } from '../model/errors.js';
import { comparePackageVersions, type PackageFile } from './package-files.js';

export interface Selection {
  /** What is offered: one file of each package. */
  offered: PackageFile[];
  /** The files, all copies of them, of versions that are no longer kept. */
  outdated: PackageFile[];
}

/**
 * Chooses from the packages (sorted as they were found) those to offer: `keep` versions of each by name and architecture, all
 * when that is undefined. Throws fault `usage` when two files of one package differ.
 */
export function selectPackages(found: readonly PackageFile[], keep: number | undefined): Selection {
  const packages = distinct(found);
  const old = keep === undefined ? new Set<string>() : outdated(packages, keep);
  const isOld = (each: PackageFile): boolean => old.has(identity(each));
  return { offered: packages.filter((each) => !isOld(each)), outdated: found.filter(isOld) };
}

/** What makes two files the same package to a package manager. */
const identity = ({ format, name, version, architecture }: PackageFile): string =>
  [format, name, version, architecture].join(' ');

/** One file of each package. Throws when two files of one package differ. */
function distinct(packages: readonly PackageFile[]): PackageFile[] {
  const first = new Map<string, PackageFile>();
  const clashes: string[] = [];
  for (const each of packages) {
    const other = first.get(identity(each));
    if (!other) first.set(identity(each), each);
    else if (other.sha256 !== each.sha256) {
      clashes.push(`${each.name} ${each.version} (${each.architecture}): ${other.path} and ${each.path}`);
    }
  }
  if (clashes.length > 0) {
    throw new Dkms2binError(
      'usage',
      `The same package twice, with different content:\n${clashes.join('\n')}`,
      {
        hint: 'Remove one of the two, or build it with a version of its own. Nothing was changed.',
      },
    );
  }
  return [...first.values()];
}

/** The identities of packages of which `keep` newer versions are there. */
function outdated(packages: readonly PackageFile[], keep: number): Set<string> {
  const groups = new Map<string, PackageFile[]>();
  for (const each of packages) {
    const group = [each.format, each.name, each.architecture].join(' ');
    groups.set(group, [each, ...(groups.get(group) ?? [])]);
  }
  const old = new Set<string>();
  for (const newestFirst of groups.values()) {
    let versions = 0;
    let last: PackageFile | undefined;
    for (const each of newestFirst) {
      if (!last || comparePackageVersions(last, each) !== 0) versions += 1;
      last = each;
      if (versions > keep) old.add(identity(each));
    }
  }
  return old;
}
