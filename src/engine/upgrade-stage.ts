import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EPOCH } from '../cell/source.js';
import { debCommonName, debMetaName, debName } from '../distro/deb-names.js';
import { parseReleaseFile } from '../formats/deb822.js';
import type { PlanContext } from '../model/context.js';
import { makeMetapackage, type Following } from '../pack/metapackage.js';
import { publishRepository, type Offer, type OfferedPackage } from '../repo/index.js';

/** The metapackages of modules that follow one kernel metapackage from the old kernel to the new one. */
export interface Followers {
  meta: string;
  /** Its version that leads to the new kernel. */
  toVersion: string;
  each: { name: string; following: Following; from: OfferedPackage; to: OfferedPackage }[];
}

export interface Staged {
  /** The repository: its folder, absolute, and what it offers. */
  dir: string;
  offer: Offer;
  follow: Followers;
  /** Kernel releases. */
  from: string;
  to: string;
  /** Where it is put together, an empty folder. */
  stage: string;
}

/**
 * Makes the repository as it was before there was a module for the next kernel. `fromVersion` is the version of the kernel
 * metapackage that led to the old one, '' when nobody knows it any more.
 */
export async function stageBefore(
  staged: Staged,
  { fromVersion, emit, signal }: Pick<PlanContext, 'emit' | 'signal'> & { fromVersion: string },
): Promise<void> {
  const { dir, follow, from, stage } = staged;
  await copyPackages(staged, [from]);
  const upTo = fromVersion || `${follow.toVersion}~`;
  for (const { following, from: old } of follow.each) {
    const then = { ...following, release: from, moduleVersion: old.version, upTo };
    const { file, bytes } = makeMetapackage(then, { hold: true, mtime: EPOCH });
    await writeFile(join(stage, file), bytes);
  }
  // apt keeps what it has when it is offered an older repository in its place, and says nothing.
  const { date } = parseReleaseFile(await readFile(join(dir, 'Release'), 'utf8'));
  await publishRepository(stage, { emit, signal, date: date && date - 1 });
}

/** Puts the repository as it is published in the place of the one before. */
export async function stageAfter(staged: Staged): Promise<void> {
  const { dir, from, to, stage } = staged;
  for (const name of await readdir(stage)) await rm(join(stage, name), { recursive: true, force: true });
  for (const name of await readdir(dir)) {
    if (/^(?:Packages|Release|InRelease|by-hash|dkms2bin-archive-keyring)/.test(name))
      await cp(join(dir, name), join(stage, name), { recursive: true });
  }
  await copyPackages(staged, [from, to]);
}

/** Packages for the kernels, what their modules share, and with both kernels the metapackages. */
async function copyPackages(
  { dir, offer, follow, stage }: Staged,
  releases: readonly string[],
): Promise<void> {
  const names = new Set(follow.each.map(({ following }) => debCommonName(following.module)));
  if (releases.length > 1) {
    for (const { following } of follow.each)
      names.add(debMetaName(following.module, following.meta, following.backports));
  }
  const wanted = ({ form, name }: OfferedPackage): boolean =>
    form === 'deb' && (names.has(name) || releases.some((release) => name.endsWith(`-${debName(release)}`)));
  for (const { path } of offer.packages.filter(wanted)) {
    await mkdir(dirname(join(stage, path)), { recursive: true });
    await cp(join(dir, path), join(stage, path));
  }
}
