import { join } from 'node:path';
import { EPOCH } from '../cell/source.js';
import { catalogueOf, type CatalogueRow } from '../distro/catalogue.js';
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
import { updateRpmMetapackages } from './rpm-metapackages.js';

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
  /** The kernel metapackage that it follows; for dnf and zypper the package of the kernel's image. */
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
  const rows = new Map(
    (await catalogueOf({ ...options, cwd: options.cwd ?? '.' })).map((row) => [row.id, row]),
  );
  const known = published.filter(({ distro, arch }) => rows.has(distro) && Object.hasOwn(DEB_ARCH, arch));
  const isDeb = ({ distro }: PublishedModule): boolean => isApt(rows.get(distro) ?? {});
  const apt = known.filter(isDeb);
  const rpm = known.filter((each) => !isDeb(each));
  const offers = await askDistros(known, rows, { options, context });
  const tried = await readTried(outDir, context.emit);
  const why = (module: string, distro: string, { release }: HeldKernel): string => {
    const failed = tried.find(
      (each) => each.module === module && each.kernel === release && each.distro === distro,
    );
    return failed ? `${failed.verdict}: ${failed.reason}` : 'no package for that kernel yet';
  };
  const results: MetapackageResult[] = [];
  const planned =
    apt.length === 0 ? [] : planMetapackages({ published: apt, offers, before: newestOf(packages) });
  for (const { waitsFor, ...following } of planned) {
    const { module, meta, backports, distro, release } = following;
    const { file, bytes } = makeMetapackage(following, { hold: options.hold, mtime: EPOCH });
    await writeAtomic(bytes, join(outDir, file));
    const held = waitsFor && { ...waitsFor, why: why(module, distro, waitsFor) };
    results.push({
      name: debMetaName(module, meta, backports),
      follows: meta,
      distro,
      kernel: release,
      held,
    });
  }
  const { hold } = options;
  for (const each of await updateRpmMetapackages(outDir, {
    published: rpm,
    packages,
    rows,
    offers,
    hold,
    ...context,
  })) {
    const { name, module, image, distro, kernel, waitsFor } = each;
    const held = waitsFor && { ...waitsFor, why: why(module, distro, waitsFor) };
    results.push({ name, follows: image, distro, kernel, held });
  }
  return results.sort((a, b) => (a.name < b.name ? -1 : 1));
}

type Offers = Parameters<typeof planMetapackages>[0]['offers'];

async function askDistros(
  published: readonly PublishedModule[],
  rows: ReadonlyMap<string, CatalogueRow>,
  { options, context }: { options: MetapackageOptions; context: PlanContext },
): Promise<Offers> {
  const { emit, signal } = context;
  const offers: Offers[number][] = [];
  const warn = (message: string): void => emit({ type: 'note', level: 'warn', message });
  for (const { distro, arch } of placesOf(published)) {
    const row = rows.get(distro);
    if (!row) continue;
    const backports = new Set(row.suites.filter(({ role }) => role === 'backports').map(({ name }) => name));
    try {
      const offered = await offeredKernels(row, resolveOptions(options, arch, context));
      offers.push({ ...offered, distro, arch, backports });
    } catch (error) {
      if (!(error instanceof Dkms2binError) || signal.aborted) throw error;
      warn(
        isApt(row)
          ? `The metapackages for ${distro} stay as they are: ${error.message}`
          : `Whether a newer kernel of ${distro} waits for a module is not known: ${error.message}`,
      );
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
