import { DEB_ARCH, type Arch } from '../model/cell.js';
import { messageOf } from '../model/errors.js';
import { compareReleases, compareRpmVersions, compareVersions } from '../formats/versions.js';
import { listKernels } from './apt-index.js';
import { unreachableCode } from './fetch.js';
import type { KernelEntry, KernelIndex, LookupOptions, MetaEntry } from './kernel-index.js';
import { mirrorsOf, type MirrorOptions } from './mirrors.js';
import type { Place } from './places.js';
import { isApt, type DistroRow } from './row.js';
import { listRpmKernels } from './rpm-index.js';
import { sourceKernels } from './kernel-source.js';

/** How the kernels of a row's live archive are read. */
export interface KernelOptions extends LookupOptions, MirrorOptions {
  arch?: Arch | undefined;
}

/** The kernels of a row's live archive, whatever kind it is. */
export async function liveKernels(row: DistroRow, options: KernelOptions): Promise<KernelIndex> {
  const { arch = 'x86_64' } = options;
  const { overlay } = row;
  if (overlay) return sourceKernels({ ...row, overlay }, arch, options);
  const mirrors = await mirrorsOf(row, options, arch);
  if (!isApt(row)) return listRpmKernels(row, arch, mirrors.main, options);
  const apt = {
    ...options,
    keyring: options.keyring ?? row.keyring,
    suites: row.suites,
    arch: DEB_ARCH[arch],
    // Universe is ten times as large as main; Debian's are read once for kernels and DKMS packages.
    ...(row.family === 'debian' ? {} : { components: ['main'] }),
  };
  const live = await listKernels({ ...apt, mirror: mirrors.main, securityMirror: mirrors.security });
  const { old } = row.mirrors;
  if (old === undefined || live.places.some(({ present }) => present)) return live;
  // A release at its end moves as a whole.
  const kept = await listKernels({ ...apt, mirror: old, securityMirror: old }).catch((error: unknown) => {
    if (unreachableCode(error) === undefined) throw error;
    options.warn?.(messageOf(error));
    return { kernels: [], metas: [], places: [] };
  });
  return { ...kept, places: [...live.places, ...kept.places] };
}

/**
 * All kernels that a distro's configured suites or repositories hold now with their headers, newest first: what
 * `dkms2bin kernels` prints.
 */
export async function availableKernels(row: DistroRow, options: KernelOptions): Promise<KernelEntry[]> {
  const { kernels } = await liveKernels(row, options);
  return buildable(row, kernels).sort((a, b) => compareReleases(b.release, a.release));
}

/**
 * The same kernels, the metapackages, and the releases that those point to: what a machine that follows one of them gets next.
 */
export async function offeredKernels(
  row: DistroRow,
  options: KernelOptions,
): Promise<{ kernels: KernelEntry[]; metas: MetaEntry[]; heads: string[]; releases?: string | undefined }> {
  const { kernels, metas } = await liveKernels(row, options);
  return {
    kernels: buildable(row, kernels),
    metas,
    heads: [...new Set(metas.map(({ release }) => release))],
    ...(row.overlay && { releases: row.releases }),
  };
}

/** How the row's package manager compares versions. */
export function comparing(row: DistroRow): (a: string, b: string) => number {
  return isApt(row) ? compareVersions : compareRpmVersions;
}

/** Those that something can be built for. */
export const buildable = (row: DistroRow, kernels: readonly KernelEntry[]): KernelEntry[] =>
  unique(row, kernels).filter(({ headless }) => !headless);

/** One entry per release: several suites may carry it, and the row's order of preference decides between equals. */
export function unique(row: DistroRow, kernels: readonly KernelEntry[]): KernelEntry[] {
  const order = [...row.suites, ...(row.repos ?? [])];
  const rank = (suite: string): number => order.findIndex(({ name }) => name === suite);
  const compare = comparing(row);
  const best = new Map<string, KernelEntry>();
  for (const kernel of kernels) {
    const known = best.get(kernel.release);
    const newer = known === undefined ? 1 : compare(kernel.packageVersion, known.packageVersion);
    if (known === undefined || newer > 0 || (newer === 0 && rank(kernel.suite) < rank(known.suite))) {
      best.set(kernel.release, kernel);
    }
  }
  return [...best.values()];
}

/** The suites or repositories of an index, for an error that has to name every place tried. */
export function placesOf(index: KernelIndex, row: DistroRow): Place[] {
  return index.places.map(({ suite, url, present }) => ({
    where: `${url} ${suite} (${row.id})`,
    outcome: present ? 'not there' : 'the mirror has no such suite',
  }));
}
