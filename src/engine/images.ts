import type { DiskSpec } from '../environment/boot.js';
import { listRunDirs } from '../cell/run-dir.js';
import type { Emit } from '../model/events.js';
import type { PlanContext } from '../model/context.js';
import { messageOf } from '../model/errors.js';
import { formatBytes } from '../lib/units.js';
import { currentImages } from '../environment/official-image.js';
import {
  listImages as list,
  prune,
  pruneSuperseded,
  verifyCache,
  type CacheRow,
  type PruneOptions,
  type PruneResult,
  type VerifiedRow,
} from '../cache/upkeep.js';

/** What the cache holds, newest use first. */
export async function listImages(): Promise<CacheRow[]> {
  return list(await pinned());
}

/** Makes room in the cache; what a build or a kept run needs stays. */
export async function pruneImages(options: PruneOptions): Promise<PruneResult> {
  return prune(options, await pinned());
}

/** At the end of a run: what newer images and layers have taken the place of goes, and is told. Its faults cost no run. */
export async function tidyImages({ emit, signal }: PlanContext): Promise<void> {
  try {
    const { removed, freed } = await pruneSuperseded({ current: await currentImages(), signal }, pinned);
    if (removed.length === 0) return;
    const message = `removed from the cache what newer images and layers have replaced and nothing has used for two weeks: ${removed.length} of ${formatBytes(freed)}`;
    emit({ type: 'note', level: 'info', message });
  } catch (error) {
    if (signal.aborted) return;
    emit({ type: 'note', level: 'debug', message: `The cache could not be tidied: ${messageOf(error)}` });
  }
}

/** Compares the cache with its recorded digests. */
export async function verifyImages(options: {
  remove: boolean;
  emit: Emit;
  signal: AbortSignal;
}): Promise<VerifiedRow[]> {
  return verifyCache(options, await pinned());
}

/** Files in the cache that kept runs boot from. */
async function pinned(): Promise<string[]> {
  const paths: string[] = [];
  for (const { record } of await listRunDirs()) {
    const { boot, backings = [] } = (record.vm ?? {}) as Partial<DiskSpec>;
    if (boot?.kind === 'direct') paths.push(boot.vmlinuz);
    paths.push(...backings);
  }
  return paths;
}
