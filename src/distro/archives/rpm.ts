import type { KernelTarget } from '../../model/cell.js';
import { kernelPackages } from '../packages.js';
import type { RpmPackage } from '../repomd.js';
import type { RowArchive } from '../row.js';
import { readRepo } from '../rpm-index.js';
import { versionOf } from '../rpm-kernels.js';
import { fillKnown } from '../templates.js';
import { filesOf, pick, withoutSlash, type Tell, type Wanted } from './wanted.js';

/** The repositories of the minor releases that a kernel may be of: `.el9_4` says 9.4, else the row's list. */
export async function vault(
  archive: RowArchive & { kind: 'vault' },
  wanted: Wanted,
  tell: Tell,
): Promise<KernelTarget | undefined> {
  const { row, release } = wanted;
  const [, major, said] = /\.el(\d+)_(\d+)/.exec(release) ?? [];
  const listed = archive.minors.length > 0 ? archive.minors : [row.version];
  for (const minor of said === undefined ? listed : [`${major}.${said}`]) {
    const target = await vaultOf(minor, archive.repos, wanted, tell);
    if (target) return target;
  }
  return undefined;
}

async function vaultOf(
  minor: string,
  repos: readonly string[],
  { row, release, arch, options }: Wanted,
  tell: Tell,
): Promise<KernelTarget | undefined> {
  const read = await Promise.all(
    repos.map(async (template) => {
      const url = fillKnown(template, { minor, arch });
      return { url, ...(await readRepo(row, arch, url, { ...options, maxAge: Infinity })) };
    }),
  );
  const packages = read.flatMap((repo) => repo.packages);
  const lookup = (name: string): RpmPackage | undefined =>
    packages.find((rpm) => `${rpm.name}-${rpm.version}-${rpm.release}.${rpm.arch}` === name);
  const found = pick(kernelPackages(row, release), lookup);
  if (!found) {
    for (const { url, present } of read)
      tell(`${url} (${row.id})`, present ? 'not there' : 'no such repository');
    return undefined;
  }
  const files = [found.image, ...found.others].map(({ url, sha256 }) => ({ url, sha256 }));
  return { release, distro: row.id, arch, packageVersion: versionOf(found.image), files };
}

/** A build in Koji lies under its name, version, release and architecture. Its files are not signed. */
export async function koji(
  archive: { url: string; source: string },
  { row, release, arch, options }: Wanted,
  tell: Tell,
): Promise<KernelTarget | undefined> {
  const [, version, rpmRelease] = /^([^-]+)-(.+)\.[^.]+$/.exec(release.replace(/\+[a-z0-9-]+$/, '')) ?? [];
  if (version === undefined || rpmRelease === undefined) return undefined;
  const folder = `${withoutSlash(archive.url)}/${archive.source}/${version}/${rpmRelease}/${arch}`;
  const files = await filesOf(kernelPackages(row, release), (name) => [`${folder}/${name}.rpm`], options);
  if (!files) tell(`${folder}/ (${row.id})`, 'not there');
  return files && { release, distro: row.id, arch, packageVersion: `${version}-${rpmRelease}`, files };
}
