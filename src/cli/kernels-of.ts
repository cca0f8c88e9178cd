import { setMaxListeners } from 'node:events';
import PQueue from 'p-queue';
import type { Arch } from '../model/cell.js';
import { messageOf } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { cacheDir } from '../lib/paths.js';
import { availableKernels } from '../distro/kernels.js';
import { findRow, catalogueOf, type CatalogueRow } from '../distro/catalogue.js';

/** A kernel that can be asked for. */
export interface KernelInfo {
  release: string;
  distro: string;
  packageVersion: string;
  suite: string;
}

export interface KernelsContext {
  emit: Emit;
  signal: AbortSignal;
  arch?: Arch | undefined;
  mirror?: string | undefined;
  proxy?: string | undefined;
  offline?: boolean | undefined;
  kernelRepos?: readonly string[] | undefined;
  /** Where relative paths begin. */
  cwd?: string | undefined;
}

/** Archives read at once when all are: each is a download or a few. */
const CONCURRENCY = 6;

/**
 * Kernels in the live archive of one distro, or of every distro of the catalogue whose archive can be read; those that
 * cannot come together in one warning.
 */
export async function kernelsOf(distro: string | undefined, context: KernelsContext): Promise<KernelInfo[]> {
  const rows = await catalogueOf({ ...context, distro, cwd: context.cwd ?? '.' });
  const repos = rows.filter(({ overlay }) => overlay?.asked);
  // With repositories of one's own it is their kernels that are asked for.
  if (repos.length > 0) return (await Promise.all(repos.map((row) => kernelsOfRow(row, context)))).flat();
  if (distro !== undefined) {
    const row = findRow(rows, distro);
    if (row.overlay?.repositories.length === 0) {
      const message = `${row.id} has no list of its kernels: give one with --kernel by its exact release`;
      context.emit({ type: 'note', level: 'warn', message });
    }
    return kernelsOfRow(row, context);
  }
  const failed: string[] = [];
  let reason = '';
  // Each request of each archive listens to the one signal.
  setMaxListeners(0, context.signal);
  const queue = new PQueue({ concurrency: CONCURRENCY });
  const listOf = async (row: CatalogueRow): Promise<KernelInfo[]> => {
    try {
      return await kernelsOfRow(row, context);
    } catch (error) {
      if (context.signal.aborted) throw error;
      failed.push(row.id);
      reason ||= messageOf(error);
      return [];
    }
  };
  const { arch = 'x86_64' } = context;
  const asked = rows.filter(
    ({ overlay, arch: arches }) =>
      overlay?.first !== false && arches[arch] !== undefined && (overlay?.arches.includes(arch) ?? true),
  );
  const kernels = (await Promise.all(asked.map((row) => queue.add(() => listOf(row))))).flat();
  if (failed.length > 0) {
    const message = `The archives of ${failed.join(', ')} cannot be read: ${reason}${failed.length > 1 ? ' …' : ''}`;
    context.emit({ type: 'note', level: 'warn', message });
  }
  return kernels;
}

async function kernelsOfRow(row: CatalogueRow, context: KernelsContext): Promise<KernelInfo[]> {
  const { arch, mirror, proxy, offline, signal } = context;
  const kernels = await availableKernels(row, {
    cacheDir: cacheDir(),
    arch,
    mirror,
    proxy,
    offline,
    signal,
    warn: (message) => context.emit({ type: 'note', level: 'warn', message: `${row.id}: ${message}` }),
  });
  return kernels.map(({ release, packageVersion, suite }) => ({
    release,
    distro: row.id,
    packageVersion,
    suite,
  }));
}
