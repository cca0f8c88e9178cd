import { basename } from 'node:path';
import { readPackage, type PackageFile } from './package-files.js';

/** What names a .ko file of one kernel among what a package provides: see debModuleFile and rpmModuleFile. */
const OF_FILE = { deb: /^[a-z0-9+.-]+\.ko-\d[a-z0-9+.-]*$/, rpm: /^module-file\(([^()]+\.ko-\d[^()]*)\)$/ };

/** A line for each pair of packages of which only one can be installed, because both bring the same module for the same kernel. */
export function sameModules(packages: readonly PackageFile[]): string[] {
  const owners = new Map<string, Set<string>>();
  for (const each of packages) {
    for (const file of moduleFiles(each)) {
      const key = `${each.format} ${file}`;
      owners.set(key, (owners.get(key) ?? new Set()).add(each.name));
    }
  }
  const filesOf = new Map<string, string[]>();
  for (const [key, names] of owners) {
    if (names.size < 2) continue;
    const pair = [...names].sort().join(' and ');
    // `deb thing.ko-6.1.0-56-amd64`
    const [, file = key] = /^\S+ (.+?\.ko)-/.exec(key) ?? [];
    filesOf.set(pair, [...(filesOf.get(pair) ?? []), file]);
  }
  return [...filesOf].map(
    ([pair, files]) =>
      `${pair} bring the same module (${files.sort().join(', ')}): only one of these packages can be installed on a machine`,
  );
}

function moduleFiles(each: PackageFile): string[] {
  if (each.format === 'rpm') {
    return each.header.relations.provides.flatMap(({ name }) => OF_FILE.rpm.exec(name)?.[1] ?? []);
  }
  const provides = each.header.fields.find(({ key }) => key === 'provides')?.text ?? '';
  const words = provides.replace(/^[^:]*:/, '').split(',');
  return words.map((word) => word.trim()).filter((word) => OF_FILE.deb.test(word));
}

/** The same for package files anywhere. */
export async function sameModulesOf(paths: readonly string[]): Promise<string[]> {
  if (paths.length < 2) return [];
  const found = await Promise.all(paths.map((path) => readPackage(path, basename(path))));
  return sameModules(found.filter((each) => each !== undefined));
}
