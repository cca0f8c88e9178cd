import { createHash, randomBytes } from 'node:crypto';
import { lstat, open, readdir, readFile, readlink, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { digestOf, sameChunks, type Content, type ContentDigest } from './digest.js';

export interface Published extends ContentDigest {
  status: 'written' | 'up to date';
}

/** Puts a file's bytes, or a folder's names, on the disk. */
export async function syncPath(path: string): Promise<void> {
  await using handle = await open(path, 'r');
  await handle.sync();
}

/**
 * Puts bytes, or a copy of a file, at `to`, whole or not at all; an identical file there is left alone. Sweeps what killed
 * runs left in the folder. `known` is the content's digest when that was taken already. Throws fault `host` for no space or a bad
 * disk, else `usage`, also for content that has changed since its digest was taken.
 */
export async function writeAtomic(content: Content, to: string, known?: ContentDigest): Promise<Published> {
  const done = known ?? (await digestOf(content));
  const folder = dirname(to);
  try {
    await sweep(folder);
    const there = await lstat(to).catch(ifMissing);
    if (
      there?.isFile() &&
      there.size === done.size &&
      (await digestOf({ file: to })).sha256 === done.sha256
    ) {
      return { status: 'up to date', ...done };
    }
    const part = join(
      folder,
      `.dkms2bin-${await home()}-${process.pid}-${randomBytes(6).toString('hex')}.part`,
    );
    try {
      const file = await open(part, 'wx', 0o644);
      try {
        for await (const chunk of sameChunks(content, done)) await file.writeFile(chunk);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(part, to);
    } catch (error) {
      await rm(part, { force: true }).catch(() => undefined);
      throw error;
    }
    await syncPath(folder);
    return { status: 'written', ...done };
  } catch (error) {
    throw error instanceof Dkms2binError ? error : publishError(error, to);
  }
}

const PART = /^\.dkms2bin-([0-9a-f]{8})-([0-9]+)-[0-9a-f]{12}\.part$/;
const STALE_MS = 60 * 60_000;

/** Removes temporary files of makers that are dead or, where that cannot be seen, of which an hour has heard nothing. */
async function sweep(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const match = PART.exec(name);
    if (!match) continue;
    const path = join(folder, name);
    const info = await lstat(path).catch(() => null);
    if (!info?.isFile()) continue;
    const dead = match[1] === (await home()) && !alive(Number(match[2]));
    // Another user's may not be removable: it is theirs to sweep.
    if (dead || Date.now() - info.mtimeMs > STALE_MS) await rm(path, { force: true }).catch(() => undefined);
  }
}

/** Where a pid means the same process: this boot, this pid namespace. A shared folder holds files of other hosts, too. */
async function home(): Promise<string> {
  const parts = await Promise.all([
    readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
    readlink('/proc/self/ns/pid'),
  ]);
  return createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 8);
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function ifMissing(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null;
  throw error;
}

const WHY: Readonly<Record<string, string>> = {
  ENOENT: 'no such folder',
  ENOTDIR: 'no such folder',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EROFS: 'read-only file system',
  EISDIR: 'a folder of that name exists',
};

function publishError(error: unknown, to: string): Dkms2binError {
  const { code = '', message } = error as NodeJS.ErrnoException;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new Dkms2binError('host', `No space left for ${to}`, { cause: error });
  }
  const where = code === 'EISDIR' || code === 'ENAMETOOLONG' ? to : dirname(to);
  const fault = code === 'EIO' ? 'host' : 'usage';
  const text = `Cannot write ${basename(to)} to ${where}: ${WHY[code] ?? message}`;
  return new Dkms2binError(fault, text, { cause: error });
}
