import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { writeAtomic } from '../lib/atomic-write.js';
import { cacheDir } from '../lib/paths.js';

/** What a step took on this machine: wall seconds, and lines that it printed. */
const Taken = z.object({ seconds: z.number().positive().max(1e6), lines: z.number().int().min(0) });
export type Taken = z.infer<typeof Taken>;

const Timings = z.record(z.string().max(200), Taken);
type Timings = z.infer<typeof Timings>;

/** Names of modules come and go; the oldest make room. */
const MOST = 500;

const fileOf = (): string => join(cacheDir(), 'timings.json');

/** What steps took before, by kind; empty where nothing, or nothing that makes sense, was written down. */
export async function readTimings(): Promise<Timings> {
  try {
    return Timings.parse(JSON.parse(await readFile(fileOf(), 'utf8')));
  } catch {
    return {};
  }
}

/** Adds what steps took now. What was known before counts as much, as machines are now busy and now quiet. */
export async function writeTimings(taken: ReadonlyMap<string, Taken>): Promise<void> {
  if (taken.size === 0) return;
  const known = await readTimings();
  for (const [kind, { seconds, lines }] of taken) {
    const before = known[kind]?.seconds ?? seconds;
    // Taken out first: the newest stand last.
    delete known[kind];
    known[kind] = { seconds: (before + seconds) / 2, lines };
  }
  const kept = Object.fromEntries(Object.entries(known).slice(-MOST));
  // Only an estimate: a full disk is told by what needs it.
  await writeAtomic(Buffer.from(JSON.stringify(kept)), fileOf()).catch(() => undefined);
}
