import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MAX_SOURCE_BYTES } from '../../cell/source.js';
import type { CellResult, ModuleSource } from '../../model/cell.js';
import type { PlanContext } from '../../model/context.js';
import type { Store } from '../../lib/object-store/index.js';
import { labelOf, type CellJob } from './protocol.js';
import { fetchSource } from './sources.js';

/** One cell as the builder gets it: all files are on this machine. */
export interface CellTask {
  label: string;
  job: CellJob;
  source: ModuleSource;
  otherSources: ModuleSource[];
  kernelPackages: string[];
  /** As --build-package takes them: names, and paths. */
  buildPackages: string[];
  /** Empty; what is in it at the end is delivered. */
  outDir: string;
}

export interface CellBuilt {
  /** Paths are below the task's outDir. */
  results: CellResult[];
  accelerator: string | null;
  /** Wall seconds, the waiting for image and layer not included. */
  seconds: number;
}

/** Builds one cell. When `signal` is aborted its VM ends, and it rejects. */
export type CellBuilder = (task: CellTask, turn: PlanContext) => Promise<CellBuilt>;

/** One with all debug symbols has a gigabyte. */
const MAX_KERNEL_PACKAGE_BYTES = 4 * 2 ** 30;

/** Fetches what a job names into the new folder `dir`. */
export async function fetchTask(
  job: CellJob,
  { dir, store, signal }: { dir: string; store: Store; signal: AbortSignal },
): Promise<CellTask> {
  const outDir = join(dir, 'out');
  await mkdir(outDir, { recursive: true });
  const otherSources: ModuleSource[] = [];
  for (const [at, each] of job.otherSources.entries()) {
    otherSources.push(await fetchSource(each, store, join(dir, `other-source-${at}`), signal));
  }
  const source = await fetchSource(job.source, store, join(dir, 'source'), signal);
  const kernelPackages: string[] = [];
  await mkdir(join(dir, 'kernel'));
  for (const { file, sha256 } of job.kernelPackages) {
    const path = join(dir, 'kernel', file);
    await store.get(sha256, path, { signal, maxBytes: MAX_KERNEL_PACKAGE_BYTES });
    kernelPackages.push(path);
  }
  const buildPackages: string[] = [];
  await mkdir(join(dir, 'build-packages'));
  for (const each of job.buildPackages) {
    if ('name' in each) buildPackages.push(each.name);
    else {
      const path = join(dir, 'build-packages', each.file);
      await store.get(each.sha256, path, { signal, maxBytes: MAX_SOURCE_BYTES });
      buildPackages.push(path);
    }
  }
  return { label: labelOf(job), job, source, otherSources, kernelPackages, buildPackages, outDir };
}
