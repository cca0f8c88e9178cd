import { createHash } from 'node:crypto';
import { chmod, chown, lstat, mkdir, open, readdir, readFile, rename, stat, utimes } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Dkms2binError } from '../model/errors.js';
import { lock, type Lock } from '../lib/lock.js';
import { cacheDir } from '../lib/paths.js';
import { syncPath } from '../lib/atomic-write.js';
import { removeScratch } from '../lib/namespace.js';
import { isRoot } from '../lib/sandbox.js';
import { extentsOf } from '../lib/qemu-img.js';

/** In the order in which they build on each other. */
export const ENTRY_KINDS = ['images', 'layers', 'snapshots', 'compilers'] as const;
export type EntryKind = (typeof ENTRY_KINDS)[number];

/** Names a cache entry. `hash` is its name in the kind's folder; an official image is a file `<digest>.qcow2` there. */
export const EntryId = z.object({
  kind: z.enum(ENTRY_KINDS),
  hash: z.string().regex(/^[A-Za-z0-9_-]+(\.qcow2)?$/),
});
export type EntryId = z.infer<typeof EntryId>;

/** What every entry's meta.json says; its maker adds to it. */
export const EntryMeta = z.looseObject({
  /** For people. */
  name: z.string().default(''),
  /** When it was made, ISO 8601. */
  created: z.string(),
  /** What its files build on. */
  parents: z.array(EntryId).default([]),
  /** Bytes, and sha256, by file name. */
  sizes: z.record(z.string(), z.number()),
  digests: z.record(z.string(), z.string()).default({}),
});
export type EntryMeta = z.infer<typeof EntryMeta>;

/**
 * A cache entry is a folder `<kind>/<hash>` that holds `meta.json` and read-only files. It is made beside its place
 * and renamed into it, so a half-made one is never seen; made under an exclusive lock, used under a shared one. The lock
 * files stay for ever: somebody may wait on one, and would then hold a lock that nobody else can see.
 */
export interface Entry<About = unknown> {
  dir: string;
  meta: EntryMeta & About;
  /** Held for as long as the entry is used. */
  use: Lock;
}

/**
 * Cache entries that machines share: bootstrapped images and kernel layers. Memory snapshots stay where they are made: they are
 * several times as large, and fit only the same QEMU on the same kind of processor. Whoever can write there decides what VMs boot.
 */
export interface SharedCache {
  /**
   * Fills the empty folder with the entry and gives what its meta.json says but for sizes and digests; null when it cannot be
   * had, which it says unless it is new. One that does not say what `about` asks for counts as spoilt.
   */
  take(id: EntryId, dir: string, about: z.ZodType): Promise<Record<string, unknown> | null>;
  /** Puts an entry that was made here where others find it; says when it cannot. */
  offer(id: EntryId, entry: Entry): Promise<void>;
}

const pathOf = ({ kind, hash }: EntryId): string => join(cacheDir(), kind, hash);

export const lockPathOf = (id: EntryId): string => `${pathOf(id)}.lock`;

export function hashOf(parts: unknown): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32);
}

const ANYTHING = z.unknown();

/**
 * Finds `<kind>/<hash>` or lets `make` fill a temporary folder that then becomes it. What `make` resolves with goes into
 * meta.json (`name` and `parents` as EntryMeta has them); an entry whose meta.json does not fit `about` is made again. An entry
 * that `shared` has is not made, and one that was made is offered there.
 */
export async function cached<About = unknown>(
  kind: EntryKind,
  hash: string,
  make: (dir: string) => Promise<NoInfer<About> & { name: string; parents?: EntryId[] }>,
  options: { about?: z.ZodType<About>; signal?: AbortSignal; shared?: SharedCache | undefined } = {},
): Promise<Entry<About>> {
  const { signal, shared, about = ANYTHING as z.ZodType<About> } = options;
  const id = { kind, hash };
  const dir = pathOf(id);
  // Not 0700: the root of mmdebstrap's user namespace is another user, who works below it.
  await mkdir(dirname(dir), { recursive: true });
  let ours = false;
  for (;;) {
    const use = await lock(lockPathOf(id), 'shared', { wait: true, signal });
    const meta = await readMeta(dir, about);
    if (meta) {
      const now = new Date();
      await utimes(join(dir, 'meta.json'), now, now).catch(() => undefined);
      const entry = { dir, meta, use };
      if (!ours) return entry;
      await shared?.offer(id, entry).catch(async (error: unknown) => {
        await use.release();
        throw error;
      });
      return entry;
    }
    await use.release();
    // Never waited for: whoever made the entry meanwhile would hold us up for as long as it is used. A maker is waited for
    // above; what else is in the way is another one looking.
    const making = await lock(lockPathOf(id), 'exclusive', { wait: false, signal });
    if (!making) {
      await sleep(Math.random() * 100);
      continue;
    }
    try {
      if (await readMeta(dir, about)) continue;
      const temporary = `${dir}.part`;
      // We hold the exclusive lock: whatever lies here was left by a maker that died.
      await removeScratch(temporary);
      await removeScratch(dir);
      await mkdir(temporary, { recursive: true });
      try {
        const taken = await shared?.take(id, temporary, about);
        // Names of other entries are made of when this one was.
        const meta = taken ?? { ...(await make(temporary)), created: new Date().toISOString() };
        // One that cannot be read back would be made again and again.
        about.parse(meta);
        await seal(temporary, meta);
        await rename(temporary, dir);
        ours = !taken;
      } finally {
        await removeScratch(temporary);
      }
    } finally {
      await making.release();
    }
  }
}

/** Holds an official image, which `cached` does not make, for as long as it is used. Fault `transient` when it is gone. */
export async function holdOfficial(id: EntryId, signal?: AbortSignal): Promise<Lock> {
  const path = lockPathOf(id);
  const use = await lock(path, 'shared', { wait: true, signal });
  if (await stat(pathOf(id)).catch(() => null)) {
    // The image's own times say when it was made and, at best, on which day it was read.
    const now = new Date();
    await utimes(path, now, now).catch(() => undefined);
    return use;
  }
  await use.release();
  throw new Dkms2binError('transient', `The image ${id.hash} was removed from the cache a moment ago`, {
    hint: 'Run the command again; it will fetch the image again.',
  });
}

/**
 * Read-only files, on the disk before the rename that publishes them; meta.json records their sizes and digests. Folders, which
 * are for this machine alone, are recorded by nothing: their maker brings what is in them to the disk.
 */
async function seal(dir: string, meta: Record<string, unknown>): Promise<void> {
  const sizes: Record<string, number> = {};
  const digests: Record<string, string> = {};
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    await syncPath(path);
    if ((await lstat(path)).isDirectory()) continue;
    await chmod(path, 0o444);
    // Started by root, QEMU is another user, who owned what it wrote.
    if (isRoot()) await chown(path, 0, 0);
    sizes[name] = (await stat(path)).size;
    digests[name] = await contentDigest(path);
  }
  const handle = await open(join(dir, 'meta.json'), 'wx');
  await handle.writeFile(JSON.stringify({ ...meta, sizes, digests }, null, 2));
  await handle.sync();
  await handle.close();
}

/** Hex digest of a file's content, as sha256sum prints it. The holes of a sparse file count as zeros and are not read. */
export async function contentDigest(
  path: string,
  algorithm: 'sha256' | 'sha512' = 'sha256',
  signal?: AbortSignal,
): Promise<string> {
  const hash = createHash(algorithm);
  const buffer = Buffer.alloc(1 << 20);
  const zeros = Buffer.alloc(1 << 20);
  const handle = await open(path, 'r');
  try {
    const { size, blocks } = await handle.stat();
    const extents =
      blocks * 512 < size ? await extentsOf(path, 'raw', signal) : [{ start: 0, length: size, data: true }];
    for (const { start, length, data } of extents) {
      const end = Math.min(size, start + length);
      for (let at = start; at < end;) {
        signal?.throwIfAborted();
        const want = Math.min(buffer.length, end - at);
        const got = data ? (await handle.read(buffer, 0, want, at)).bytesRead : want;
        // Cut off meanwhile: the digest comes out as another one.
        if (got === 0) break;
        hash.update((data ? buffer : zeros).subarray(0, got));
        at += got;
      }
    }
    return hash.digest('hex');
  } finally {
    await handle.close();
  }
}

/** Null when the entry is missing, is not what was sealed, or does not say what `about` asks for. */
async function readMeta<About>(dir: string, about: z.ZodType<About>): Promise<(EntryMeta & About) | null> {
  try {
    const text: unknown = JSON.parse(await readFile(join(dir, 'meta.json'), 'utf8'));
    const meta = EntryMeta.parse(text);
    for (const [name, size] of Object.entries(meta.sizes)) {
      if ((await stat(join(dir, name))).size !== size) return null;
    }
    return { ...meta, ...about.parse(text) };
  } catch {
    return null;
  }
}

/** What `cached` would find without making it; nobody holds it. */
export async function lookUp<About = unknown>(
  kind: EntryKind,
  hash: string,
  about: z.ZodType<About> = ANYTHING as z.ZodType<About>,
): Promise<Omit<Entry<About>, 'use'> | null> {
  const dir = pathOf({ kind, hash });
  const meta = await readMeta(dir, about);
  return meta && { dir, meta };
}

/** Whether `cached` would find the entry without making it. */
export async function isCached(kind: EntryKind, hash: string): Promise<boolean> {
  return (await lookUp(kind, hash)) !== null;
}

/** One thing that the cache holds: an entry's folder or an official image's file. */
export interface CacheItem extends EntryId {
  name: string;
  path: string;
  /** What it takes on the disk; the apparent size of a sparse file is no matter. */
  bytes: number;
  /** Milliseconds since 1970. */
  created: number;
  lastUsed: number;
  parents: EntryId[];
  /** sha256 by file name; an official image is named by its own digest instead. */
  digests: Record<string, string>;
  /** Of another size than what was sealed: the next build that needs it makes it again. */
  damaged: boolean;
}

/** All that the cache holds, what others build on first. Reads no file's content but meta.json. */
export async function cacheItems(): Promise<CacheItem[]> {
  const items: CacheItem[] = [];
  for (const kind of ENTRY_KINDS) {
    for (const hash of (await readdir(join(cacheDir(), kind)).catch(() => [])).sort()) {
      const official = kind === 'images' && /^[0-9a-f]+\.qcow2$/.test(hash);
      if (!official && hash.includes('.')) continue;
      // Another process may remove it at any moment.
      const item = await (official ? officialItem : entryItem)({ kind, hash }).catch(() => null);
      if (item) items.push(item);
    }
  }
  return items;
}

async function entryItem(id: EntryId): Promise<CacheItem> {
  const path = pathOf(id);
  const meta = await readMeta(path, ANYTHING);
  const times = await stat(meta ? join(path, 'meta.json') : path);
  return {
    ...id,
    name: `${meta ? meta.name : 'damaged'} ${id.hash.slice(0, 12)}`,
    path,
    bytes: await diskUse(path),
    created: Date.parse(meta?.created ?? '') || times.mtimeMs,
    lastUsed: times.mtimeMs,
    parents: meta?.parents ?? [],
    digests: meta?.digests ?? {},
    damaged: meta === null,
  };
}

async function officialItem(id: EntryId): Promise<CacheItem> {
  const path = pathOf(id);
  const { blocks, mtimeMs, atimeMs } = await stat(path);
  const used = await stat(lockPathOf(id)).catch(() => null);
  return {
    ...id,
    name: `official ${id.hash.slice(0, 12)}`,
    path,
    bytes: blocks * 512,
    created: mtimeMs,
    lastUsed: Math.max(mtimeMs, atimeMs, used?.mtimeMs ?? 0),
    parents: [],
    digests: {},
    damaged: false,
  };
}

/** Bytes that a file or folder takes on the disk; what vanishes or may not be read counts as nothing. */
export async function diskUse(path: string): Promise<number> {
  const info = await lstat(path).catch(() => null);
  if (!info) return 0;
  let bytes = info.isDirectory() ? 0 : info.blocks * 512;
  if (info.isDirectory()) {
    for (const name of await readdir(path).catch(() => [])) bytes += await diskUse(join(path, name));
  }
  return bytes;
}
