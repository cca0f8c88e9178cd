import { chmod, lstat, readFile, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { Dkms2binError, messageOf } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { run, type RunOptions } from '../lib/exec.js';
import { cacheDir } from '../lib/paths.js';
import { keepsDataElsewhere, qcow2Info, qemuImg } from '../lib/qemu-img.js';
import { runBytesConfined, runConfined } from '../lib/sandbox.js';
import { openStore, type Store } from '../lib/object-store/index.js';
import { oneLine } from '../lib/text.js';
import { formatBytes } from '../lib/units.js';
import { contentDigest, EntryMeta, type Entry, type EntryId, type SharedCache } from './entries.js';

/** What the store says of an entry: its files, with meta.json, as a tar.zst. */
const NOTE = z.object({ sha256: z.string().regex(/^[0-9a-f]{64}$/), size: z.number().int().nonnegative() });
const noteName = ({ kind, hash }: EntryId): string => `${kind}-${hash}.json`;

/** The shared cache at `url`, a folder's or a bucket's; says what it does. */
export async function openSharedCache(
  url: string,
  context: { emit: Emit; signal: AbortSignal },
): Promise<SharedCache> {
  return new StoredCache(await openStore(url, context), context.emit, context.signal);
}

/** What an entry's files may come to, holes included; a snapshot has the memory of its machine. */
const MAX_ENTRY_BYTES = 64 * 2 ** 30;
const MAX_ENTRY_FILES = 64;
const MAX_LIST_BYTES = 2 ** 20;
/** For the unpacking of one. */
const MAX_SECONDS = 1800;

/** Of `tar -tv`: mode, owner, size, date, time, name. */
const PLAIN_FILE = /^-[rwx-]{9} +\S+ +(\d+) \S+ \S+ ([A-Za-z0-9_][A-Za-z0-9._-]*)$/;

/** Throws for an archive with anything but a few plain files in it: no folder, link or device, nothing setuid. */
async function requirePlainFiles(
  archive: string,
  cancel: Pick<RunOptions, 'cancelSignal' | 'timeout'>,
): Promise<void> {
  const command = ['tar', '--zstd', '--numeric-owner', '-tvf', archive];
  const list = await runBytesConfined({ readable: [archive] }, command, {
    ...{ ...cancel, maxBytes: MAX_LIST_BYTES, env: { LC_ALL: 'C' } },
  });
  const lines = list.toString('latin1').split('\n').slice(0, -1);
  const sizes = lines.map((line) => Number(PLAIN_FILE.exec(line)?.[1] ?? NaN));
  const strange = lines[sizes.findIndex(Number.isNaN)];
  if (strange !== undefined)
    throw new Error(`it holds what is no plain file: ${oneLine(strange).slice(0, 200)}`);
  if (lines.length > MAX_ENTRY_FILES)
    throw new Error(`it holds ${lines.length} files, the limit is ${MAX_ENTRY_FILES}`);
  const bytes = sizes.reduce((sum, each) => sum + each, 0);
  if (bytes > MAX_ENTRY_BYTES)
    throw new Error(`its files have ${formatBytes(bytes)}, the limit is ${formatBytes(MAX_ENTRY_BYTES)}`);
}

class StoredCache implements SharedCache {
  #readOnly = false;

  constructor(
    private readonly store: Store,
    private readonly emit: Emit,
    private readonly signal: AbortSignal,
  ) {}

  async take(id: EntryId, dir: string, about: z.ZodType): Promise<Record<string, unknown> | null> {
    const what = `${id.kind} ${id.hash.slice(0, 12)}`;
    try {
      const text = await this.store.getNote(noteName(id));
      if (text === null) return null;
      const note = NOTE.parse(JSON.parse(text));
      this.#note('info', `Fetching ${what} (${formatBytes(note.size)}) from ${this.store.name}`);
      const meta = await this.#unpack(note, dir);
      about.parse(meta);
      return meta;
    } catch (error) {
      if (this.signal.aborted) throw error;
      for (const name of await readdir(dir)) await rm(join(dir, name), { recursive: true, force: true });
      this.#note(
        'warn',
        `${what} of ${this.store.name} cannot be used, so it is made here: ${messageOf(error)}`,
      );
      return null;
    }
  }

  async #unpack({ sha256, size }: z.infer<typeof NOTE>, dir: string): Promise<Record<string, unknown>> {
    const archive = `${dir}.tar.zst`;
    const cancel = { cancelSignal: this.signal, timeout: MAX_SECONDS * 1000 };
    try {
      await this.store.get(sha256, archive, { signal: this.signal, maxBytes: size });
      await requirePlainFiles(archive, cancel);
      const command = ['tar', '--zstd', '-xSf', archive, '--no-same-owner', '-C', dir];
      await runConfined({ readable: [archive], writable: [dir] }, command, cancel);
    } finally {
      await rm(archive, { force: true });
    }
    const metaFile = join(dir, 'meta.json');
    const meta = EntryMeta.parse(JSON.parse(await readFile(metaFile, 'utf8')));
    await rm(metaFile);
    const names = await readdir(dir);
    if (names.sort().join() !== Object.keys(meta.digests).sort().join()) throw new Error('it lacks files');
    for (const name of names) {
      const path = join(dir, name);
      if (!(await lstat(path)).isFile()) throw new Error(`${name} is not a regular file`);
      const digest = await contentDigest(path, 'sha256', this.signal);
      if (digest !== meta.digests[name])
        throw new Error(`${name} does not have the digest that meta.json records`);
    }
    // Entries are read-only, and so they were packed.
    await chmod(join(dir, 'disk.qcow2'), 0o644);
    await this.#settle(join(dir, 'disk.qcow2'), meta.parents[0]);
    const { sizes: _sizes, digests: _digests, ...rest } = meta;
    return rest;
  }

  /** The disk names its backing file by where that lies on the machine that made it; any other file of this one it must not name. */
  async #settle(disk: string, parent: EntryId | undefined): Promise<void> {
    if (await keepsDataElsewhere(disk)) throw new Error('its disk keeps its data in another file');
    if (parent) {
      const at = join(cacheDir(), 'images', parent.hash);
      const backing = parent.hash.endsWith('.qcow2') ? at : join(at, 'disk.qcow2');
      const args = ['rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', backing, disk];
      await qemuImg(args, { readable: [backing], writable: [disk] }, { cancelSignal: this.signal });
    }
    const info = await qcow2Info(disk, this.signal);
    if (!parent && info.backing !== undefined) throw new Error('its disk has a backing file');
  }

  async offer(id: EntryId, { dir, meta }: Entry): Promise<void> {
    // On an image of the user's own, which others do not have.
    const alone = id.kind === 'layers' && meta.parents.length === 0;
    if (this.#readOnly || alone) return;
    const what = `${id.kind} ${id.hash.slice(0, 12)}`;
    const archive = `${dir}.${process.pid}.tar.zst`;
    try {
      if ((await this.store.getNote(noteName(id))) !== null) return;
      const names = (await readdir(dir)).sort();
      const compress = ['--use-compress-program', 'zstd -3 -T0 -q'];
      const plain = ['--owner=0', '--group=0', '--numeric-owner', '--sparse'];
      await run('tar', [...compress, ...plain, '-cf', archive, '-C', dir, ...names], {
        cancelSignal: this.signal,
        dieWithParent: true,
      });
      const { sha256, size } = await this.store.put(archive, this.signal);
      await this.store.putNote(noteName(id), JSON.stringify({ sha256, size }));
      this.#note('info', `Put ${what} (${formatBytes(size)}) into ${this.store.name}`);
    } catch (error) {
      if (this.signal.aborted) throw error;
      // One that others fill is as good.
      this.#readOnly = error instanceof Dkms2binError && error.fault === 'usage';
      this.#note(
        this.#readOnly ? 'info' : 'warn',
        `${what} was not stored in ${this.store.name}: ${messageOf(error)}`,
      );
    } finally {
      await rm(archive, { force: true });
    }
  }

  #note(level: 'info' | 'warn', message: string): void {
    this.emit({ type: 'note', level, message });
  }
}
