import type { Arch } from '../../model/cell.js';
import type { MetaEntry } from '../../distro/kernel-index.js';
import { compareReleases, compareVersions } from '../../formats/versions.js';
import type { Following } from '../../pack/metapackage.js';
import { flavourOf, lineOf, type Offer, type PublishedModule } from './refresh.js';

/** A kernel metapackage that machines follow: the newest version of one line of suites. */
interface FollowedMeta {
  distro: string;
  arch: Arch;
  /** `linux-image-cloud-amd64`. */
  name: string;
  /** From backports, which machines take from nowhere else unless they are told to. */
  backports: boolean;
  /** The kernel release that it leads to now, and its version. */
  release: string;
  packageVersion: string;
}

/** A kernel metapackage that is ahead of what the folder has. */
export interface HeldKernel {
  meta: string;
  release: string;
  packageVersion: string;
}

export interface PlannedMetapackage extends Following {
  /** The kernel that machines wait for; null when the newest one is there. */
  waitsFor: HeldKernel | null;
}

export const sameFollower = (a: Following, b: Following): boolean =>
  a.module === b.module &&
  a.distro === b.distro &&
  a.arch === b.arch &&
  a.meta === b.meta &&
  a.backports === b.backports;

interface Inputs {
  published: readonly PublishedModule[];
  offers: readonly (Offer & { metas: readonly MetaEntry[]; backports: ReadonlySet<string> })[];
  before: readonly Following[];
}

/**
 * The metapackages that a folder's modules call for: for each module and each kernel metapackage of its distro whose line of
 * kernels the module is there for, one that depends on the newest of them. It never goes back to an older kernel.
 */
export function planMetapackages({ published, offers, before }: Inputs): PlannedMetapackage[] {
  const planned = offers.flatMap((offer) =>
    followedMetas(offer).flatMap((meta) =>
      [...newestOfLine(published, offer, meta).values()].flatMap((module) => follow(module, meta, before)),
    ),
  );
  // A metapackage that left the archive, or an archive that could not be asked: what was said stays.
  const left = before.filter((old) => !planned.some((each) => sameFollower(each, old)));
  return [...planned, ...left.map((old) => ({ ...old, waitsFor: null }))];
}

/** Of each kernel metapackage the newest version, that of backports apart. */
function followedMetas(offer: Inputs['offers'][number]): FollowedMeta[] {
  const newest = new Map<string, FollowedMeta>();
  for (const { name, release, packageVersion, suite } of offer.metas) {
    const backports = offer.backports.has(suite);
    const key = `${name} ${String(backports)}`;
    const known = newest.get(key);
    if (known && compareVersions(known.packageVersion, packageVersion) >= 0) continue;
    newest.set(key, {
      ...{ name, backports, release, packageVersion },
      distro: offer.distro,
      arch: offer.arch,
    });
  }
  return [...newest.values()];
}

/** Of each module the newest kernel on the way to where the metapackage leads, and the newest version there. */
function newestOfLine(
  published: readonly PublishedModule[],
  offer: Offer,
  meta: FollowedMeta,
): Map<string, PublishedModule> {
  const found = new Map<string, PublishedModule>();
  const flavour = flavourOf(meta.release, offer);
  const line = lineOf(meta.release, offer);
  for (const each of published) {
    const fits =
      each.distro === meta.distro &&
      each.arch === meta.arch &&
      flavourOf(each.kernel, offer) === flavour &&
      compareReleases(each.kernel, meta.release) <= 0 &&
      lineOf(each.kernel, offer) === line;
    if (!fits) continue;
    const known = found.get(each.module);
    const order = known
      ? compareReleases(each.kernel, known.kernel) || compareVersions(each.version, known.version)
      : 1;
    if (order > 0) found.set(each.module, each);
  }
  return found;
}

function follow(
  module: PublishedModule,
  meta: FollowedMeta,
  before: readonly Following[],
): PlannedMetapackage[] {
  const { distro, arch, name, backports, release, packageVersion } = meta;
  const now: Following = {
    ...{ distro, arch, module: module.module, meta: name, backports },
    release: module.kernel,
    moduleVersion: module.version,
    upTo: packageVersion,
  };
  if (module.kernel === release) return [{ ...now, waitsFor: null }];
  const waitsFor: HeldKernel = { meta: name, release, packageVersion };
  const old = before.find((each) => sameFollower(each, now));
  // A kernel of its series may come from another suite: one of backports must have been built for once.
  if (backports && !old) return [];
  // Which version led to the kernel is known from when it did; else it is the last one before the newest.
  const upTo = old?.release === module.kernel ? old.upTo : `${packageVersion}~`;
  return [{ ...now, upTo, waitsFor }];
}
