import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { lock } from './lock.js';
import { stateDir } from './paths.js';

/** A folder that is gone when this process has ended, or at the latest when the next process asks for one. */
export interface Scratch extends AsyncDisposable {
  dir: string;
}

const folder = (): string => join(stateDir(), 'scratch');

/** Once in a process is enough. */
let swept = false;

export async function scratch(): Promise<Scratch> {
  await mkdir(folder(), { recursive: true, mode: 0o700 });
  // One at a time: a folder whose lock is not taken yet looks left behind.
  await using _only = await lock(`${folder()}.lock`, 'exclusive', { wait: true });
  const others = swept ? [] : await readdir(folder());
  swept = true;
  for (const name of others) {
    const dir = join(folder(), name);
    const dead = await lock(join(dir, 'lock'), 'exclusive', { wait: false });
    if (!dead) continue;
    await rm(dir, { recursive: true, force: true });
    await dead.release();
  }
  const dir = await mkdtemp(join(folder(), 'd-'));
  const held = await lock(join(dir, 'lock'), 'exclusive', { wait: true });
  return {
    dir,
    [Symbol.asyncDispose]: async () => {
      await rm(dir, { recursive: true, force: true });
      await held.release();
    },
  };
}
