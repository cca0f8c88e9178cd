import { mkdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { contentDigest, hashOf } from '../cache/entries.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { cacheDir } from '../lib/paths.js';
import type { CellResult } from '../model/cell.js';
import { EPOCH } from './source.js';
import type { BuiltRecord, CellInput } from './types.js';

const recordPath = (input: CellInput, identity: string): string =>
  join(
    cacheDir(),
    'built',
    `${hashOf([2, input.signer?.keyId ?? null, identity, input.target.release, basename(input.environment.layer.entry.dir), input.nameStyle, input.verify, EPOCH, ...(input.debugSymbols ? ['debug-symbols'] : [])])}.json`,
  );

/** What an earlier run made of the very same input, when it is still in the out-dir; null for what has to be built. */
export async function upToDate(input: CellInput, identity: string): Promise<CellResult[] | null> {
  if (input.force || input.debug) return null;
  const records = await recorded(input, identity);
  // A record of a build that was not checked says nothing of how a second one would come out.
  if (input.checkReproducible && !records.every(({ reproducible }) => reproducible)) return null;
  const results: CellResult[] = [];
  for (const { files, koNames: _, ...result } of records) {
    for (const [name, digest] of Object.entries(files)) {
      const now = await contentDigest(join(input.outDir, name)).catch(() => null);
      if (now !== digest) return null;
    }
    const inOutDir = (path: string | null): string | null => path && join(input.outDir, basename(path));
    results.push({
      ...result,
      reason: 'up to date',
      package: inOutDir(result.package),
      log: inOutDir(result.log),
      phases: {},
    });
  }
  return results.length > 0 ? results : null;
}

/** What is remembered of this input; nothing when it is new. */
async function recorded(input: CellInput, identity: string): Promise<BuiltRecord[]> {
  try {
    return JSON.parse(await readFile(recordPath(input, identity), 'utf8')) as BuiltRecord[];
  } catch {
    return [];
  }
}

export async function remember(input: CellInput, identity: string, records: BuiltRecord[]): Promise<void> {
  const path = recordPath(input, identity);
  const before = await recorded(input, identity);
  // What was checked once stays so for the very same files.
  const checked = (record: BuiltRecord): boolean =>
    before.some((each) => each.reproducible && isDeepStrictEqual(each.files, record.files));
  const kept = records.map((each) => (checked(each) ? { ...each, reproducible: true } : each));
  await mkdir(join(path, '..'), { recursive: true });
  await writeAtomic(Buffer.from(JSON.stringify(kept)), path);
}
