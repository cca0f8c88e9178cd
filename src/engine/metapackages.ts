import { join } from 'node:path';
import { EPOCH } from '../cell/source.js';
import { findRow, catalogueOf } from '../distro/catalogue.js';
import { isApt } from '../distro/row.js';
import { debMetaName } from '../distro/deb-names.js';
import { offeredKernels } from '../distro/kernels.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { DEB_ARCH } from '../model/cell.js';
import type { PlanContext } from '../model/context.js';
import { Dkms2binError } from '../model/errors.js';
import { followingOf, makeMetapackage, type Following } from '../pack/metapackage.js';
import { comparePackageVersions, scan, type PackageFile } from '../repo/package-files.js';
import { placesOf, resolveOptions } from './asking.js';
import { planMetapackages, sameFollower, type HeldKernel } from './plan/metapackages.js';
import type { PublishedModule } from './plan/refresh.js';
import { modulesOfPackages, readTried } from './published-modules.js';

export interface MetapackageOptions {
  /** Whether they keep a kernel back until there is a module for it. */
  hold: boolean;
  offline: boolean;
  mirror?: string | undefined;
  proxy?: string | undefined;
  /** Repositories of kernels, and where relative paths of theirs begin. */
  kernelRepos?: readonly string[] | undefined;
  cwd?: string | undefined;
}

export interface MetapackageResult {
  name: string;
  /** The kernel metapackage that it follows. */
  follows: string;
  distro: string;
  /** The kernel that it brings the module for. */
  kernel: string;
  /** The kernel that is kept back, or whose machines are without the module; null when there is none. */
  held: (HeldKernel & { why: string }) | null;
}

/**
 * Puts the metapackages right that the module packages of a folder call for: one for each module and each kernel metapackage
 * of the distro. Those that exist stay as they are where the distro cannot be asked. Without provenance that names a distro
 * there is nothing to do.
 */
export async function updateMetapackages(
  outDir: string,
  options: MetapackageOptions,
  context: PlanContext,
): Promise<MetapackageResult[]> {
  const { packages } = await scan(outDir, context.signal);
  const { published } = await modulesOfPackages(outDir, packages);
  const ours = await aptModules(published, options);
  if (ours.length === 0) return [];
  const offers = await askDistros(ours, options, context);
  const planned = planMetapackages({ published: ours, offers, before: newestOf(packages) });
  const tried = await readTried(outDir, context.emit);
  const results: MetapackageResult[] = [];
  for (const { waitsFor, ...following } of planned) {
    const { module, meta, backports, distro, release } = following;
    const { file, bytes } = makeMetapackage(following, { hold: options.hold, mtime: EPOCH });
    await writeAtomic(bytes, join(outDir, file));
    const failed = tried.find(
      (each) => each.module === module && each.kernel === waitsFor?.release && each.distro === distro,
    );
    const why = failed ? `${failed.verdict}: ${failed.reason}` : 'no package for that kernel yet';
    results.push({
      name: debMetaName(module, meta, backports),
      follows: meta,
      distro,
      kernel: release,
      held: waitsFor && { ...waitsFor, why },
    });
  }
  return results.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Those of distros that have kernel metapackages for apt. */
async function aptModules(
  published: readonly PublishedModule[],
  options: MetapackageOptions,
): Promise<PublishedModule[]> {
  const rows = await catalogueOf({ ...options, cwd: options.cwd ?? '.' });
  const known = new Set(rows.filter((row) => isApt(row)).map(({ id }) => id));
  return published.filter(({ distro, arch }) => known.has(distro) && Object.hasOwn(DEB_ARCH, arch));
}

type Offers = Parameters<typeof planMetapackages>[0]['offers'];

async function askDistros(
  published: readonly PublishedModule[],
  options: MetapackageOptions,
  context: PlanContext,
): Promise<Offers> {
  const { emit, signal } = context;
  const rows = await catalogueOf({ ...options, cwd: options.cwd ?? '.' });
  const offers: Offers[number][] = [];
  const warn = (message: string): void => emit({ type: 'note', level: 'warn', message });
  for (const { distro, arch } of placesOf(published)) {
    const row = findRow(rows, distro);
    const backports = new Set(row.suites.filter(({ role }) => role === 'backports').map(({ name }) => name));
    try {
      const offered = await offeredKernels(row, resolveOptions(options, arch, context));
      offers.push({ ...offered, distro, arch, backports });
    } catch (error) {
      if (!(error instanceof Dkms2binError) || signal.aborted) throw error;
      warn(`The metapackages for ${distro} stay as they are: ${error.message}`);
    }
  }
  return offers;
}

/** Of each metapackage what its newest version says. */
function newestOf(packages: readonly PackageFile[]): Following[] {
  const found = packages
    .filter(({ format }) => format === 'deb')
    .sort((a, b) => comparePackageVersions(b, a));
  const all = found.flatMap((each) => (each.format === 'deb' ? (followingOf(each.header.fields) ?? []) : []));
  return all.filter((each, at) => all.findIndex((other) => sameFollower(other, each)) === at);
}
