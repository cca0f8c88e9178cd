import { createHash } from 'node:crypto';
import { chmod, mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { lock, type Lock } from '../core/lock.js';
import { cacheDir } from '../core/paths.js';

/**
 * A cache entry is a folder `<kind>/<hash>` that holds `meta.json` and read-only files. It is made beside its place
 * and renamed into it, so a half-made one is never seen; made under an exclusive lock, used under a shared one.
 */
export interface Entry {
  dir: string;
  meta: Record<string, unknown>;
  /** Held for as long as the entry is used. */
  use: Lock;
}

export type EntryKind = 'images' | 'layers';

export function hashOf(parts: unknown): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32);
}

/** Finds `<kind>/<hash>` or lets `make` fill a temporary folder that then becomes it. */
export async function cached(
  kind: EntryKind,
  hash: string,
  make: (dir: string) => Promise<Record<string, unknown>>,
  signal?: AbortSignal,
): Promise<Entry> {
  const parent = join(cacheDir(), kind);
  // Not 0700: the root of mmdebstrap's user namespace is another user, who works below it.
  await mkdir(parent, { recursive: true });
  const dir = join(parent, hash);
  const lockPath = join(parent, `${hash}.lock`);
  const wait = { wait: true as const, ...(signal ? { signal } : {}) };
  for (;;) {
    const use = (await lock(lockPath, 'shared', wait))!;
    const meta = await readMeta(dir);
    if (meta) {
      const now = new Date();
      await utimes(join(dir, 'meta.json'), now, now).catch(() => undefined);
      return { dir, meta, use };
    }
    await use.release();
    const making = (await lock(lockPath, 'exclusive', wait))!;
    try {
      if (await readMeta(dir)) continue;
      const temporary = `${dir}.part`;
      // We hold the exclusive lock: whatever lies here was left by a maker that died.
      await rm(temporary, { recursive: true, force: true });
      await rm(dir, { recursive: true, force: true });
      await mkdir(temporary, { recursive: true });
      try {
        const made = await make(temporary);
        await seal(temporary, { ...made, created: new Date().toISOString() });
        await rename(temporary, dir);
      } finally {
        await rm(temporary, { recursive: true, force: true });
      }
    } finally {
      await making.release();
    }
  }
}

/** Read-only files, on the disk before the rename that publishes them; meta.json records their sizes. */
async function seal(dir: string, meta: Record<string, unknown>): Promise<void> {
  const sizes: Record<string, number> = {};
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    const handle = await open(path, 'r');
    await handle.sync();
    await handle.close();
    await chmod(path, 0o444);
    sizes[name] = (await stat(path)).size;
  }
  const handle = await open(join(dir, 'meta.json'), 'wx');
  await handle.writeFile(JSON.stringify({ ...meta, sizes }, null, 2));
  await handle.sync();
  await handle.close();
}

/** Null when the entry is missing or is not what was sealed. */
async function readMeta(dir: string): Promise<Record<string, unknown> | null> {
  try {
    const meta = JSON.parse(await readFile(join(dir, 'meta.json'), 'utf8')) as Record<string, unknown>;
    for (const [name, size] of Object.entries(meta.sizes as Record<string, number>)) {
      if ((await stat(join(dir, name))).size !== size) return null;
    }
    return meta;
  } catch {
    return null;
  }
}

export interface CacheRow {
  name: string;
  kind: 'image' | 'layer';
  bytes: number;
  created: string;
  lastUsed: string;
}

/** What the cache holds, newest use first. `bytes` is what the files take on the disk. */
export async function listImages(): Promise<CacheRow[]> {
  const rows: CacheRow[] = [];
  for (const kind of ['images', 'layers'] as const) {
    const parent = join(cacheDir(), kind);
    for (const hash of await readdir(parent).catch(() => [])) {
      const dir = join(parent, hash);
      if (kind === 'images' && hash.endsWith('.qcow2')) rows.push(await officialRow(dir, hash));
      const meta = await readMeta(dir);
      if (!meta) continue;
      let bytes = 0;
      for (const name of await readdir(dir)) bytes += (await stat(join(dir, name))).blocks * 512;
      rows.push({
        name: `${String(meta.name)} ${hash.slice(0, 12)}`,
        kind: kind === 'images' ? 'image' : 'layer',
        bytes,
        created: String(meta.created),
        lastUsed: (await stat(join(dir, 'meta.json'))).mtime.toISOString(),
      });
    }
  }
  return rows.sort((a, b) => b.lastUsed.localeCompare(a.lastUsed));
}

/** An official image lies as a file under its digest. */
async function officialRow(path: string, name: string): Promise<CacheRow> {
  const s = await stat(path);
  return {
    name: `official ${name.slice(0, 12)}`,
    kind: 'image',
    bytes: s.blocks * 512,
    created: s.mtime.toISOString(),
    lastUsed: s.atime.toISOString(),
  };
}

/** Whether `cached` would find the entry without making it. */
export async function isCached(kind: EntryKind, hash: string): Promise<boolean> {
  return (await readMeta(join(cacheDir(), kind, hash))) !== null;
}
