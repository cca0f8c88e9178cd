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
    if (!this.#isComplete) {
      this.#entries = new Map();
      for (const name of await readdir(this.#dir))
        await rm(join(this.#dir, name), { recursive: true, force: true });
    }
    const before = this.#entries;
    this.#isComplete = false;
    await this.#removeOthers(before, told);
    const wanted: { index: number; path: string; size: number }[] = [];
    let index = 0;
    for (const [path, entry] of told) {
      if (entry.type === 'folder') await mkdir(join(this.#dir, path), { recursive: true });
      else if (!isThere(before, told, path)) {
        if (entry.type === 'file') wanted.push({ index, path, size: entry.size });
        else await symlink(entry.target, join(this.#dir, path));
      }
      index++;
    }
    this.#entries = told;
    return wanted;
  }

  /** What is gone, or is something else now. */
  async #removeOthers(before: Map<string, Entry>, told: Map<string, Entry>): Promise<void> {
    for (const [path, { type, target }] of before) {
      const now = told.get(path);
      if (now?.type !== type || now.target !== target)
        await rm(join(this.#dir, path), { recursive: true, force: true });
    }
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

/** Whether a file or link is as it was. None of the folders above was removed on the way: it went with that. */
function isThere(before: Map<string, Entry>, now: Map<string, Entry>, path: string): boolean {
  const [old, entry] = [before.get(path), now.get(path)];
  if (!old || !entry || old.type !== entry.type || old.target !== entry.target) return false;
  if (entry.type === 'file' && old.version !== entry.version) return false;
  for (let folder = posix.dirname(path); folder !== '.'; folder = posix.dirname(folder)) {
    if (before.get(folder)?.type !== 'folder' || now.get(folder)?.type !== 'folder') return false;
  }
  return true;
}

const TYPES: Record<string, Entry['type']> = { f: 'file', d: 'folder', l: 'link' };

function readListing(listing: Buffer): Map<string, Entry> {
  const parts = textOf(listing).split('\0');
  if (parts.pop() !== '') throw new Refusal('half a listing');
  const entries = new Map<string, Entry>();
  let total = 0;
  for (let at = 0; at < parts.length; at++) {
    const { path, entry } = readLine(parts[at] ?? '');
    if (entry.type === 'link') {
      entry.target = parts[++at] ?? '';
      if (entry.target === '') throw new Refusal('half a listing');
    }
    checkPath(entries, path);
    total += entry.size;
    const isTooLarge = entry.size > MAX_FILE || total > MAX_TOTAL || entries.size >= MAX_ENTRIES;
    if (isTooLarge) throw new Refusal('too large a folder');
    entries.set(path, entry);
  }
  return entries;
}

function textOf(listing: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(listing);
  } catch {
    throw new Refusal('a name that is no UTF-8');
  }
}

function readLine(line: string): { path: string; entry: Entry } {
  const [, kind = '', size = '', modified = '', changed = '', path = ''] = LINE.exec(line) ?? [];
  const type = TYPES[kind];
  if (type === undefined) throw new Refusal('something that is no file, folder or link');
  const version = `${size} ${modified} ${changed}`;
  const bytes = type === 'file' ? Number(size) : 0;
  return { path, entry: { type, size: bytes, modified: Number(modified), target: '', version } };
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
