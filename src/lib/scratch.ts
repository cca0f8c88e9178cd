import { lstat, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { lock } from './lock.js';
import { socketParent, stateDir } from './paths.js';
import { removeScratch } from './namespace.js';

/** A folder that is gone when this process has ended, or at the latest when the next process asks for one. */
export interface Scratch extends AsyncDisposable {
  dir: string;
}

export const scratch = (): Promise<Scratch> => ownFolder(join(stateDir(), 'scratch'), 'd-');

/** For the sockets of a VM: its path is short. */
export const socketFolder = (): Promise<Scratch> => ownFolder(socketParent(), 'dk2b-');

/** Once in a process is enough. */
const swept = new Set<string>();

/** Its lock is held for as long as it is used: one that nobody holds was left by a process that was killed. */
async function ownFolder(parent: string, prefix: string): Promise<Scratch> {
  await mkdir(parent, { recursive: true, mode: 0o700 });
  if (!swept.has(parent)) {
    swept.add(parent);
    await sweep(parent, prefix);
  }
  // Under another name until it is locked: else a sweeper would take it for one that was left.
  const unlocked = await mkdtemp(join(parent, `.${prefix}`));
  const held = await lock(join(unlocked, 'lock'), 'exclusive', { wait: true });
  const dir = join(parent, basename(unlocked).slice(1));
  await rename(unlocked, dir);
  return {
    dir,
    [Symbol.asyncDispose]: async () => {
      await rm(dir, { recursive: true, force: true });
      await held.release();
    },
  };
}

async function sweep(parent: string, prefix: string): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!name.startsWith(prefix) && !name.startsWith(`.${prefix}`)) continue;
    const dir = join(parent, name);
    const info = await lstat(dir).catch(() => null);
    // The parent may be /tmp, where others may put what looks like ours.
    if (!info?.isDirectory() || info.uid !== process.getuid?.() || (info.mode & 0o077) !== 0) continue;
    if (name.startsWith('.') && Date.now() - info.mtimeMs < 60_000) continue;
    const dead = await lock(join(dir, 'lock'), 'exclusive', { wait: false }).catch(() => null);
    if (!dead) continue;
    await removeScratch(dir).catch(() => undefined);
    await dead.release();
  }
}
