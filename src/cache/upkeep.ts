import { readdir, rename, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Emit } from '../model/events.js';
import { lock } from '../lib/lock.js';
import { cacheDir } from '../lib/paths.js';
import { removeScratch } from '../lib/namespace.js';
import {
  cacheItems,
  contentDigest,
  diskUse,
  ENTRY_KINDS,
  lockPathOf,
  type CacheItem,
  type EntryId,
  type EntryKind,
} from './entries.js';

type ItemKind = 'image' | 'layer' | 'snapshot' | 'compiler';

const KIND: Record<EntryKind, ItemKind> = {
  ...{ images: 'image', layers: 'layer', snapshots: 'snapshot', compilers: 'compiler' },
};

/** A row of `dkms2bin images`. */
export interface CacheRow {
  name: string;
  kind: ItemKind;
  /** Name of what it is built on. */
  on: string | null;
  /** On the disk. */
  bytes: number;
  created: string;
  lastUsed: string;
  /** A build or a kept run needs it: it cannot be removed now. */
  inUse: boolean;
  /** Its files are not those that were made: the next build that needs it makes it again. */
  damaged: boolean;
}

/** Paths of files that kept runs build on: nothing holds a lock for those. */
export type Pinned = readonly string[];

/** What the cache holds, newest use first. */
export async function listImages(pinned: Pinned = []): Promise<CacheRow[]> {
  const items = await cacheItems();
  const rows: CacheRow[] = [];
  for (const item of items.sort((a, b) => b.lastUsed - a.lastUsed)) {
    rows.push({
      name: item.name,
      kind: KIND[item.kind],
      on: items.find((each) => item.parents.some((parent) => same(parent, each)))?.name ?? null,
      bytes: item.bytes,
      created: new Date(item.created).toISOString(),
      lastUsed: new Date(item.lastUsed).toISOString(),
      inUse: isPinned(item, items, pinned) || !(await isFree(item)),
      damaged: item.damaged,
    });
  }
  return rows;
}

export interface PruneOptions {
  /** The cache may take this much of the disk. */
  maxBytes?: number;
  /** What was not used for this long goes. */
  maxAgeSeconds?: number;
  /** Say what would go, and change nothing. */
  dryRun: boolean;
  signal: AbortSignal;
}

export interface PruneResult {
  /** In the order of their removal. */
  removed: { name: string; kind: ItemKind | 'leftover'; bytes: number }[];
  freed: number;
  /** What the images, layers and snapshots that stay take on the disk. */
  left: number;
}

/** Between making an entry and using it lies a moment without a lock. */
const JUST_USED_MS = 10_000;
/** Records of indexes and builds and downloaded packages, without --max-age. */
const RECORD_AGE_SECONDS = 30 * 86400;
/** Scratch folders have no lock; no build lasts that long. */
const SCRATCH_AGE_SECONDS = 7 * 86400;

/**
 * Removes what makers that died left, what is damaged, and what is beyond the limits: least recently used first, and
 * never an entry that is in use or that another one builds on.
 */
export async function prune(options: PruneOptions, pinned: Pinned = []): Promise<PruneResult> {
  const { maxBytes = Infinity, maxAgeSeconds = Infinity, dryRun } = options;
  // Two at once would both make room, and so remove twice what is needed.
  await using _turn = dryRun
    ? null
    : await lock(join(cacheDir(), 'prune.lock'), 'exclusive', { wait: true, signal: options.signal });
  const removed: PruneResult['removed'] = await removeLeftovers(maxAgeSeconds, dryRun);
  const oldest = Date.now() - maxAgeSeconds * 1000;
  const left = (await cacheItems()).sort((a, b) => a.lastUsed - b.lastUsed);
  const kept = new Set<CacheItem>();
  let total = left.reduce((sum, item) => sum + item.bytes, 0);
  for (;;) {
    const leaves = left.filter((item) => !kept.has(item) && !hasChildren(item, left));
    const next =
      leaves.find((item) => item.damaged || item.lastUsed < oldest) ??
      (total > maxBytes ? leaves[0] : undefined);
    if (!next) break;
    options.signal.throwIfAborted();
    const done = isPinned(next, left, pinned) ? 'kept' : await removeItem(next, dryRun);
    if (done === 'kept') {
      kept.add(next);
      continue;
    }
    left.splice(left.indexOf(next), 1);
    total -= next.bytes;
    if (done === 'removed') removed.push({ name: next.name, kind: KIND[next.kind], bytes: next.bytes });
  }
  return { removed, freed: removed.reduce((sum, { bytes }) => sum + bytes, 0), left: total };
}

/** What something newer has taken the place of goes when nothing has used it for so long. */
const SUPERSEDED_SECONDS = 14 * 86400;

/**
 * Removes what a newer one of the same name has taken the place of, with what stands on it, once nothing has used it for two
 * weeks: official images that no distro's record names any more (`current` are those that are named), images and layers
 * that were made anew since. `pinned` is asked for only when there is something to remove.
 */
export async function pruneSuperseded(
  { current, signal }: { current: readonly string[]; signal: AbortSignal },
  pinned: () => Promise<Pinned>,
): Promise<PruneResult> {
  const left = await cacheItems();
  const oldest = Date.now() - SUPERSEDED_SECONDS * 1000;
  const doomed = (item: CacheItem): boolean => item.lastUsed < oldest && isSuperseded(item, left, current);
  const result: PruneResult = { removed: [], freed: 0, left: 0 };
  if (!left.some(doomed)) return result;
  await using _turn = await lock(join(cacheDir(), 'prune.lock'), 'exclusive', { wait: true, signal });
  const needed = await pinned();
  // Parents come first.
  for (const item of left.filter(doomed).reverse()) {
    signal.throwIfAborted();
    if (hasChildren(item, left) || isPinned(item, left, needed)) continue;
    const done = await removeItem(item, false);
    if (done === 'kept') continue;
    left.splice(left.indexOf(item), 1);
    if (done === 'removed')
      result.removed.push({ name: item.name, kind: KIND[item.kind], bytes: item.bytes });
  }
  result.freed = result.removed.reduce((sum, { bytes }) => sum + bytes, 0);
  result.left = left.reduce((sum, { bytes }) => sum + bytes, 0);
  return result;
}

function isSuperseded(item: CacheItem, items: readonly CacheItem[], current: readonly string[]): boolean {
  if (item.path.endsWith('.qcow2')) return !current.includes(item.hash);
  const named = (each: CacheItem): string => each.name.slice(0, -each.hash.slice(0, 12).length);
  const newer = items.some(
    (each) =>
      each.kind === item.kind &&
      named(each) === named(item) &&
      each.created > item.created &&
      each.lastUsed > item.lastUsed,
  );
  const parents = items.filter((each) => item.parents.some((parent) => same(parent, each)));
  return newer || parents.some((parent) => isSuperseded(parent, items, current));
}

const same = (a: EntryId, b: EntryId): boolean => a.kind === b.kind && a.hash === b.hash;

const hasChildren = (item: CacheItem, items: CacheItem[]): boolean =>
  items.some(({ parents }) => parents.some((parent) => same(parent, item)));

/** Whether a kept run builds on the item, or on one that builds on it. */
function isPinned(item: CacheItem, items: CacheItem[], pinned: Pinned): boolean {
  return (
    pinned.some((path) => path === item.path || path.startsWith(`${item.path}/`)) ||
    items.some((child) => child.parents.some((p) => same(p, item)) && isPinned(child, items, pinned))
  );
}

/** Whether nobody makes or uses it at this moment. */
async function isFree(id: EntryId): Promise<boolean> {
  const path = lockPathOf(id);
  // Asking must not make a lock file.
  if (!(await stat(path).catch(() => null))) return true;
  const held = await lock(path, 'exclusive', { wait: false });
  await held?.release();
  return held !== null;
}

/** `gone`: another process was faster. */
async function removeItem(item: CacheItem, dryRun: boolean): Promise<'removed' | 'kept' | 'gone'> {
  if (!item.damaged && Date.now() - item.lastUsed < JUST_USED_MS) return 'kept';
  if (dryRun) return (await isFree(item)) ? 'removed' : 'kept';
  await using held = await lock(lockPathOf(item), 'exclusive', { wait: false });
  if (!held) return 'kept';
  // Whoever makes a child holds its parents, so from here on none can come up.
  const items = await cacheItems();
  const now = items.find((each) => same(each, item));
  if (!now) return 'gone';
  // Made again since it was looked at, or built on.
  if (now.created !== item.created || hasChildren(now, items)) return 'kept';
  // A folder that is half removed must not look like an entry.
  const doomed = item.path.endsWith('.qcow2') ? item.path : `${item.path}.part`;
  if (doomed !== item.path) {
    await removeScratch(doomed);
    await rename(item.path, doomed);
  }
  await removeScratch(doomed);
  return 'removed';
}

interface Leftover {
  path: string;
  what: string;
  /** Whoever works on it holds this entry's lock; null for what has no lock. */
  of: EntryId | null;
}

/** What nobody will ever ask for again: unfinished entries and downloads that nobody works on, old scratch, old records. */
async function removeLeftovers(maxAgeSeconds: number, dryRun: boolean): Promise<PruneResult['removed']> {
  const removed: PruneResult['removed'] = [];
  const leftovers = [
    ...(await unfinished()),
    ...(await oldScratch()),
    ...(await oldRecords(Number.isFinite(maxAgeSeconds) ? maxAgeSeconds : RECORD_AGE_SECONDS)),
  ];
  for (const leftover of leftovers) {
    const bytes = await removeLeftover(leftover, dryRun);
    const { what, path } = leftover;
    if (bytes !== null) removed.push({ name: `${what} ${basename(path)}`, kind: 'leftover', bytes });
  }
  return removed;
}

/** The bytes that it took; null when somebody works on it, or has just finished. */
async function removeLeftover({ path, of }: Leftover, dryRun: boolean): Promise<number | null> {
  if (dryRun && of !== null) return (await isFree(of)) ? diskUse(path) : null;
  await using held = of && (await lock(lockPathOf(of), 'exclusive', { wait: false }));
  if (of !== null && (!held || !(await stat(path).catch(() => null)))) return null;
  const bytes = await diskUse(path);
  if (!dryRun) await removeScratch(path);
  return bytes;
}

const list = (dir: string): Promise<string[]> => readdir(dir).catch(() => []);

async function unfinished(): Promise<Leftover[]> {
  const found: Leftover[] = [];
  for (const kind of ENTRY_KINDS) {
    for (const name of await list(join(cacheDir(), kind))) {
      // `<hash>.part`, and of a download `<digest>.qcow2.<16 hex digits>.part` with a `.part.json` beside it.
      const hash = /^(?<hash>[^.]+|[^.]+\.qcow2)(\.[0-9a-f]{16})?\.part(\.json)?$/.exec(name)?.groups?.hash;
      if (hash === undefined) continue;
      found.push({ path: join(cacheDir(), kind, name), what: 'unfinished', of: { kind, hash } });
    }
  }
  return found;
}

async function oldScratch(): Promise<Leftover[]> {
  const names = (await list(cacheDir())).filter((name) => name.startsWith('tmp-'));
  return olderThan(SCRATCH_AGE_SECONDS, cacheDir(), names, 'scratch');
}

const RECORDS = {
  index: 'package index',
  built: 'record of a build',
  packages: 'downloaded package',
  sources: 'fetched source',
};

async function oldRecords(seconds: number): Promise<Leftover[]> {
  const found = Object.entries(RECORDS).map(async ([name, what]) => {
    const folder = join(cacheDir(), name);
    return olderThan(seconds, folder, await list(folder), what);
  });
  return (await Promise.all(found)).flat();
}

async function olderThan(
  seconds: number,
  folder: string,
  names: readonly string[],
  what: string,
): Promise<Leftover[]> {
  const found: Leftover[] = [];
  for (const path of names.map((name) => join(folder, name))) {
    const info = await stat(path).catch(() => null);
    if (!info || Date.now() - Math.max(info.mtimeMs, info.atimeMs) <= seconds * 1000) continue;
    found.push({ path, what, of: null });
  }
  return found;
}

export interface VerifiedRow {
  name: string;
  kind: ItemKind;
  bytes: number;
  /** `busy`: being made at this moment. */
  state: 'good' | 'damaged' | 'busy';
  /** What is wrong with it, null unless damaged. */
  problem: string | null;
  removed: boolean;
}

/**
 * Reads everything in the cache and compares it with the digests that were recorded when it was made. What builds on
 * something damaged is damaged too. With `remove` the damaged go, unless they are in use.
 */
export async function verifyCache(
  options: { remove: boolean; emit: Emit; signal: AbortSignal },
  pinned: Pinned = [],
): Promise<VerifiedRow[]> {
  const { emit, signal } = options;
  const items = await cacheItems();
  const rows = new Map<CacheItem, VerifiedRow>();
  let done = 0;
  const total = items.reduce((sum, item) => sum + item.bytes, 0);
  // Parents come first.
  for (const item of items) {
    emit({ type: 'progress', what: `reading ${item.name}`, done, total });
    const row: VerifiedRow = {
      name: item.name,
      kind: KIND[item.kind],
      bytes: item.bytes,
      state: 'good',
      problem: null,
      removed: false,
    };
    {
      await using held = await lock(lockPathOf(item), 'shared', { wait: false, signal });
      if (!held) row.state = 'busy';
      else row.problem = parentProblem(item, rows) ?? (await contentProblem(item, signal));
    }
    if (row.problem !== null) row.state = 'damaged';
    rows.set(item, row);
    done += item.bytes;
  }
  if (options.remove) {
    for (const [item, row] of [...rows].reverse()) {
      if (row.state !== 'damaged' || isPinned(item, items, pinned)) continue;
      row.removed = (await removeItem({ ...item, damaged: true }, false)) !== 'kept';
    }
  }
  return [...rows.values()];
}

function parentProblem(item: CacheItem, rows: Map<CacheItem, VerifiedRow>): string | null {
  for (const parent of item.parents) {
    const [, found] = [...rows].find(([each]) => same(each, parent)) ?? [];
    if (!found) return `what it is built on is gone: ${parent.kind}/${parent.hash}`;
    if (found.state === 'damaged') return `built on ${found.name}, which is damaged`;
  }
  return null;
}

async function contentProblem(item: CacheItem, signal: AbortSignal): Promise<string | null> {
  if (item.path.endsWith('.qcow2')) {
    const hex = basename(item.path, '.qcow2');
    const found = await contentDigest(item.path, hex.length === 128 ? 'sha512' : 'sha256', signal);
    return found === hex ? null : `${basename(item.path)} does not have the digest that is its name`;
  }
  if (item.damaged) return 'a file is missing or does not have the size that it was made with';
  if (Object.keys(item.digests).length === 0) return 'no digests were recorded when it was made';
  for (const [name, digest] of Object.entries(item.digests)) {
    const found = await contentDigest(join(item.path, name), 'sha256', signal);
    if (found !== digest) return `${name} has changed since it was made`;
  }
  return null;
}
