import { mkdir, open, readdir, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { Refusal } from './arguments.js';
import type { Found } from './places.js';

interface Entry {
  type: 'file' | 'folder' | 'link';
  /** Bytes. */
  size: number;
  /** Seconds since 1970. */
  modified: number;
  target: string;
  /** Changes whenever the file may have. */
  version: string;
}

/** One line of a listing: type, size, times of modification and change, inode, path. */
const LINE = /^([fdl]) (\d{1,15}) (-?\d{1,12}\.\d{9}) (-?\d{1,12}\.\d{9} \d{1,20}) (.+)$/su;
const MAX_ENTRIES = 20_000;
const MAX_FILE = 32 * 2 ** 20;
const MAX_TOTAL = 512 * 2 ** 20;

/**
 * A build folder of the guest's as the host has it, in a folder of its own, of which only the host writes. Its names come from the
 * guest: each is checked, and no link is ever followed.
 */
export class Tree {
  readonly #dir: string;
  #entries = new Map<string, Entry>();
  /** Whether the folder holds just what the entries tell. */
  #isComplete = false;

  constructor(dir: string) {
    this.#dir = dir;
  }

  find(path: string): Found {
    const entry = this.#entries.get(path);
    if (!entry) return null;
    return entry.type === 'link' ? { type: 'link', target: entry.target } : { type: entry.type };
  }

  links(): string[] {
    return [...this.#entries].filter(([, { type }]) => type === 'link').map(([path]) => path);
  }

  /**
   * Makes the folder as `listing`, NUL after each line and after each link's target, tells. Resolves with the files that it
   * lacks: their place in the listing, path and size. Throws a Refusal for a listing that is none.
   */
  async update(listing: Buffer): Promise<{ index: number; path: string; size: number }[]> {
    const told = readListing(listing);
    const wanted: { index: number; path: string; size: number }[] = [];
    if (!this.#isComplete) {
      this.#entries = new Map();
      for (const name of await readdir(this.#dir)) await rm(join(this.#dir, name), { recursive: true, force: true });
    }
    const before = this.#entries;
    this.#isComplete = false;
    for (const [path, entry] of before) {
      const now = told.get(path);
      if (now?.type !== entry.type || (entry.type === 'link' && now.target !== entry.target))
        await rm(join(this.#dir, path), { recursive: true, force: true });
    }
    let index = 0;
    for (const [path, entry] of told) {
      const old = before.get(path);
      const same = old?.type === entry.type && old.version === entry.version && isInPlace(before, told, path);
      if (entry.type === 'folder') await mkdir(join(this.#dir, path), { recursive: true });
      else if (entry.type === 'link' && !same) {
        await rm(join(this.#dir, path), { force: true });
        await symlink(entry.target, join(this.#dir, path));
      } else if (entry.type === 'file' && !same) wanted.push({ index, path, size: entry.size });
      index++;
    }
    this.#entries = told;
    return wanted;
  }

  /** A file that came. */
  async write(path: string, bytes: Buffer): Promise<void> {
    const to = join(this.#dir, path);
    await rm(to, { force: true });
    await writeFile(to, bytes, { flag: 'wx', mode: 0o644 });
    const { modified = 0 } = this.#entries.get(path) ?? {};
    await utimes(to, modified, modified);
  }

  /** All files that the last update asked for are written. Else the next one begins anew. */
  complete(): void {
    this.#isComplete = true;
  }

  /** A place to mount a compiler's output at. Throws a Refusal for one that is something else in the guest. */
  async placeFor(path: string): Promise<void> {
    const folder = posix.dirname(path);
    if (folder !== '.' && this.find(folder)?.type !== 'folder') throw new Refusal(`no folder ${folder}`);
    if (this.find(path) !== null) throw new Refusal(`${path} is a source`);
    const file = await open(join(this.#dir, path), 'a', 0o644);
    await file.close();
  }
}

/** Whether none of the folders above was removed on the way: the file went with it. */
function isInPlace(before: Map<string, Entry>, now: Map<string, Entry>, path: string): boolean {
  for (let folder = posix.dirname(path); folder !== '.'; folder = posix.dirname(folder)) {
    if (before.get(folder)?.type !== 'folder' || now.get(folder)?.type !== 'folder') return false;
  }
  return true;
}

function readListing(listing: Buffer): Map<string, Entry> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(listing);
  } catch {
    throw new Refusal('a name that is no UTF-8');
  }
  const parts = text.split('\0');
  if (parts.pop() !== '') throw new Refusal('half a listing');
  const entries = new Map<string, Entry>();
  let total = 0;
  for (let at = 0; at < parts.length; at++) {
    const [, kind, size = '', modified = '', changed = '', path = ''] = LINE.exec(parts[at] ?? '') ?? [];
    if (kind === undefined) throw new Refusal('something that is no file, folder or link');
    const target = kind === 'l' ? parts[++at] : '';
    if (target === undefined || (kind === 'l' && target === '')) throw new Refusal('half a listing');
    checkPath(entries, path);
    const type = kind === 'f' ? 'file' : kind === 'd' ? 'folder' : 'link';
    const bytes = type === 'file' ? Number(size) : 0;
    total += bytes;
    if (bytes > MAX_FILE || total > MAX_TOTAL || entries.size >= MAX_ENTRIES) throw new Refusal('too large a folder');
    entries.set(path, {
      ...{ type, size: bytes, modified: Number(modified), target },
      version: `${size} ${modified} ${changed}`,
    });
  }
  return entries;
}

function checkPath(entries: Map<string, Entry>, path: string): void {
  const parts = path.split('/');
  const folder = posix.dirname(path);
  const good =
    path.length < 4096 &&
    parts.every((part) => part !== '' && part !== '.' && part !== '..' && part.length < 256) &&
    (folder === '.' || entries.get(folder)?.type === 'folder') &&
    !entries.has(path);
  if (!good) throw new Refusal('a listing with impossible names');
}
