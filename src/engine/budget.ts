import { readFile } from 'node:fs/promises';
import { availableParallelism, freemem } from 'node:os';
import type { BuildRequest } from '../options/request.js';

/** The shape of one VM does not depend on how many run, so that all share one memory snapshot. */
export function vmShape({ cpus, memoryMiB }: BuildRequest): { cpus: number; memoryMiB: number } {
  return { cpus: cpus ?? Math.min(4, availableParallelism()), memoryMiB: memoryMiB ?? 2048 };
}

/** How many cells may have a VM at the same time: as asked for, else no more than cores and free memory allow. */
export async function vmsAtOnce(request: BuildRequest, cells: number): Promise<number> {
  if (request.jobs !== undefined) return request.jobs;
  const fitting = Math.floor((await availableMiB()) / vmShape(request).memoryMiB);
  return Math.max(1, Math.min(cells, availableParallelism(), fitting));
}

/** Memory that can be had without swapping; what the page cache holds of images and snapshots counts as free. */
async function availableMiB(): Promise<number> {
  const text = await readFile('/proc/meminfo', 'utf8').catch(() => '');
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1];
  return kib === undefined ? freemem() / 2 ** 20 : Number(kib) / 1024;
}
