import { lstat, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { lock } from './lock.js';
import { socketParent, stateDir } from './paths.js';
import { removeScratch } from './namespace.js';

/** A folder that is gone when this process has ended, or at the latest when the next process asks for one. */
export interface Scratch extends AsyncDisposable {
  dir: string;
}

const PREFIX = { scratch: 'd-', sockets: 'dk2b-' };
const scratchParent = (): string => join(stateDir(), 'scratch');

export const scratch = (): Promise<Scratch> => ownFolder(scratchParent(), PREFIX.scratch);

/** For the sockets of a VM: its path is short. */
export const socketFolder = (): Promise<Scratch> => ownFolder(socketParent(), PREFIX.sockets);

/** Removes the folders of processes that were killed. */
export async function sweepScratch(): Promise<void> {
  await sweepOnce(scratchParent(), PREFIX.scratch);
  await sweepOnce(socketParent(), PREFIX.sockets);
}

/** Once in a process is enough. */
const swept = new Set<string>();

/** Its lock is held for as long as it is used: one that nobody holds was left by a process that was killed. */
async function ownFolder(parent: string, prefix: string): Promise<Scratch> {
  await mkdir(parent, { recursive: true, mode: 0o700 });
  await sweepOnce(parent, prefix);
  // Under another name until it is locked: else a sweeper would take it for one that was left.
  const unlocked = await mkdtemp(join(parent, `.${prefix}${process.pid}-`));
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

/** One without a lock is none of ours: it gets its name when its lock is taken. */
const hasLock = (dir: string): Promise<boolean> =>
  lstat(join(dir, 'lock')).then(
    (info) => info.isFile(),
    () => false,
  );

/** Whether its maker may be about to lock it: it is alive, or, where the name does not tell, the folder is new. */
function isMaking(name: string, madeMs: number): boolean {
  const pid = /-(\d+)-[^-]*$/.exec(name)?.[1];
  if (pid === undefined) return Date.now() - madeMs < 60_000;
  try {
    process.kill(Number(pid), 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

async function sweepOnce(parent: string, prefix: string): Promise<void> {
  if (swept.has(parent)) return;
  swept.add(parent);
  for (const name of await readdir(parent).catch(() => [])) {
    // Only what this program has named: a folder of somebody else's may begin with the same letters.
    if (!new RegExp(`^\\.?${prefix}(?:\\d+-)?[A-Za-z0-9]{6}$`).test(name)) continue;
    const dir = join(parent, name);
    const info = await lstat(dir).catch(() => null);
    // The parent may be /tmp, where others may put what looks like ours.
    if (!info?.isDirectory() || info.uid !== process.getuid?.() || (info.mode & 0o077) !== 0) continue;
    if (name.startsWith('.') ? isMaking(name, info.mtimeMs) : !(await hasLock(dir))) continue;
    const dead = await lock(join(dir, 'lock'), 'exclusive', { wait: false }).catch(() => null);
    if (!dead) continue;
    await removeScratch(dir).catch(() => undefined);
    await dead.release();
  }
}
