import { mkdir, readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { CellResult } from '../../model/cell.js';
import { writeAtomic } from '../../lib/atomic-write.js';
import type { Store } from '../../lib/object-store/index.js';
import type { CellBuilt } from './task.js';
import type { Delivery } from './protocol.js';

/** Puts what a worker made, all files of `outDir`, into the store. */
export async function packDelivery(
  built: CellBuilt,
  { worker, outDir, store, signal }: { worker: string; outDir: string; store: Store; signal: AbortSignal },
): Promise<Delivery> {
  const files: Delivery['files'] = [];
  const names = (await readdir(outDir, { withFileTypes: true })).filter((each) => each.isFile());
  for (const name of names.map((each) => each.name).sort()) {
    files.push({ name, ...(await store.put(join(outDir, name), signal)) });
  }
  signal.throwIfAborted();
  const bare = (path: string | null): string | null => path && basename(path);
  const results = built.results.map((result) => ({
    ...result,
    package: bare(result.package),
    log: bare(result.log),
    kept: null,
  }));
  return { results, files, worker, accelerator: built.accelerator, seconds: built.seconds };
}

/**
 * Fetches all files of a delivery into the new folder `dir`, which goes at the end, then publishes them in `outDir`, packages
 * last: who sees one finds all that belongs to it. Returns the results with the paths of `outDir`.
 */
export async function publishDelivery(
  { results, files }: Delivery,
  { dir, outDir, store }: { dir: string; outDir: string; store: Store },
): Promise<CellResult[]> {
  await mkdir(outDir, { recursive: true });
  await mkdir(dir, { recursive: true });
  try {
    for (const { name, sha256 } of files) await store.get(sha256, join(dir, name));
    const packages = new Set(results.map((result) => result.package));
    const isPackage = ({ name }: Delivery['files'][number]): boolean => packages.has(name);
    const same = new Set<string>();
    for (const { name } of [...files.filter((f) => !isPackage(f)), ...files.filter(isPackage)]) {
      const { status } = await writeAtomic({ file: join(dir, name) }, join(outDir, name));
      if (status === 'up to date') same.add(name);
    }
    return results.map((result) => {
      const { package: name, log, reason } = result;
      return {
        ...result,
        package: name && join(outDir, name),
        log: log && join(outDir, log),
        reason: name && reason === null && same.has(name) ? 'up to date' : reason,
      };
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
