import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { writeAtomic } from '../lib/atomic-write.js';
import { lock, type Lock } from '../lib/lock.js';
import { runsDir } from '../lib/paths.js';
import { newRunId } from '../lib/run-id.js';
import { sweepScratch } from '../lib/scratch.js';

/** What `run.json` of a run's folder says. */
const RUN_RECORD = z.object({
  id: z.string(),
  cell: z.string(),
  kernel: z.string(),
  distro: z.string(),
  created: z.string(),
  /** Set once the VM is meant to outlive the run. */
  kept: z.boolean(),
  /** Socket folder of the VM while it runs, and its ssh port unless it has no network. */
  live: z.object({ socketDir: z.string(), sshPort: z.number().int().nullable() }).nullable(),
  /** How to boot the disk again; null until the VM was started. */
  vm: z.record(z.string(), z.unknown()).nullable(),
});
export type RunRecord = z.infer<typeof RUN_RECORD>;

/** One process at a time makes a run or looks for dead ones: a folder whose lock is not taken yet looks left behind. */
const alone = (): Promise<Lock> => lock(`${runsDir()}.lock`, 'exclusive', { wait: true });

/** A run's folder with its lock: whoever holds the lock is alive; without it the run is kept or stale. */
export class RunDir {
  private constructor(
    readonly dir: string,
    readonly record: RunRecord,
    private readonly held: Lock,
  ) {}

  static async create(about: { cell: string; kernel: string; distro: string }): Promise<RunDir> {
    const id = newRunId();
    const dir = join(runsDir(), id);
    await using _only = await alone();
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const held = await lock(join(dir, 'lock'), 'exclusive', { wait: true });
    if (!held) throw new Error(`a new run's lock is taken: ${dir}`);
    const record: RunRecord = {
      id,
      ...about,
      created: new Date().toISOString(),
      kept: false,
      live: null,
      vm: null,
    };
    const run = new RunDir(dir, record, held);
    await run.save({});
    return run;
  }

  /** Opens a kept run for a login; null when another process holds it. */
  static async open(id: string): Promise<RunDir | null> {
    const dir = join(runsDir(), id);
    const record = await readRecord(dir);
    if (!record) return null;
    const held = await lock(join(dir, 'lock'), 'exclusive', { wait: false });
    return held ? new RunDir(dir, record, held) : null;
  }

  async save(change: Partial<RunRecord>): Promise<void> {
    Object.assign(this.record, change);
    await writeAtomic(Buffer.from(JSON.stringify(this.record, null, 2)), join(this.dir, 'run.json'));
  }

  /** Ends the use of the run: removes it unless it is kept. */
  async close(): Promise<void> {
    if (this.record.kept) await this.save({ live: null });
    else await rm(this.dir, { recursive: true, force: true });
    await this.held.release();
  }
}

/** Null for a folder without a record that can be read. */
async function readRecord(dir: string): Promise<RunRecord | null> {
  try {
    return RUN_RECORD.parse(JSON.parse(await readFile(join(dir, 'run.json'), 'utf8')));
  } catch {
    return null;
  }
}

export interface RunState {
  record: RunRecord;
  dir: string;
  state: 'running' | 'kept';
  bytes: number;
}

/**
 * All runs, oldest first. Runs that nobody holds and nobody kept were left by a killed process: they are removed,
 * with the socket folder of their VM (QEMU itself died with its parent), and so are folders of other killed processes.
 */
export async function listRunDirs(): Promise<RunState[]> {
  const runs: RunState[] = [];
  await sweepScratch();
  await using _only = await alone();
  for (const id of (await readdir(runsDir()).catch(() => [])).sort()) {
    const dir = join(runsDir(), id);
    const record = await readRecord(dir);
    const held = await lock(join(dir, 'lock'), 'exclusive', { wait: false }).catch(() => null);
    if (held && !record?.kept) {
      if (record?.live) await rm(record.live.socketDir, { recursive: true, force: true });
      await rm(dir, { recursive: true, force: true });
      await held.release();
      continue;
    }
    await held?.release();
    if (record) runs.push({ record, dir, state: held ? 'kept' : 'running', bytes: await diskUse(dir) });
  }
  return runs;
}

async function diskUse(dir: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(dir)) {
    const s = await stat(join(dir, name)).catch(() => null);
    if (s?.isFile()) bytes += s.blocks * 512;
  }
  return bytes;
}
