import { execa } from 'execa';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, vi } from 'vitest';
import { cached, type EntryId, type EntryKind } from '../../../src/cache/entries.js';

/** A cache folder of its own for every test of a file. */
export function ownCache(): { readonly dir: string } {
  const own = { dir: '' };
  beforeEach(async () => {
    own.dir = await mkdtemp(join(tmpdir(), 'dk2b-cache-'));
    vi.stubEnv('DKMS2BIN_CACHE', own.dir);
  });
  afterEach(async () => {
    vi.unstubAllEnvs();
    await rm(own.dir, { recursive: true, force: true });
  });
  return own;
}

export const MIB = 2 ** 20;
export const signal = new AbortController().signal;

/** Makes an entry with a `disk.qcow2` of `mib` MiB and lets it look as if it was last used `days` ago. */
export async function entry(
  kind: EntryKind,
  hash: string,
  options: { mib?: number; days?: number; parents?: EntryId[]; name?: string } = {},
): Promise<EntryId & { dir: string }> {
  const { mib = 1, days = 1, parents = [], name = hash } = options;
  const { dir, use } = await cached(kind, hash, async (to) => {
    await writeFile(join(to, 'disk.qcow2'), randomBytes(mib * MIB));
    return { name, parents };
  });
  await use.release();
  const then = new Date(Date.now() - days * 86400_000);
  await utimes(join(dir, 'meta.json'), then, then);
  return { kind, hash, dir };
}

/** A file of 64 MiB in which 1 MiB, from 8 MiB on, is data. */
export async function sparse(path: string, data = randomBytes(MIB)): Promise<void> {
  const handle = await open(path, 'w');
  await handle.truncate(64 * MIB);
  await handle.write(data, 0, data.length, 8 * MIB);
  await handle.close();
}

export const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** Another process holds `path` as a build does, until the returned function is called. */
export async function heldElsewhere(path: string, mode: '-s' | '-x'): Promise<() => Promise<void>> {
  const holder = execa('flock', [mode, path, 'sh', '-c', 'echo got; exec cat >/dev/null']);
  await new Promise((resolve) => holder.stdout.once('data', resolve));
  return async () => {
    holder.stdin.end();
    await holder;
  };
}
