import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { cached } from '../../src/cache/entries.js';
import { openSharedCache } from '../../src/cache/shared.js';
import { folderTar } from '../../src/cell/source.js';
import { fetchSource, shareSource } from '../../src/engine/queue/sources.js';
import { parseModuleSource } from '../../src/engine/plan/source.js';
import { requireStandalone } from '../../src/environment/image-check.js';
import { run } from '../../src/lib/exec.js';
import { blobPath } from '../../src/lib/object-store/store.js';
import { openStore } from '../../src/lib/object-store/index.js';
import { messageOf } from '../../src/model/errors.js';
import { corpus } from '../hostile/corpus.js';
import { ownCache } from './cache/fixture.js';

/** What of test/hostile needs programs of this host: tar, zstd, qemu-img. */

interface Row {
  what: string;
  /** Shell lines that make it, in an empty folder; HOST is the folder above. */
  does: string;
  answer: string;
}
const named = <R extends { what: string }>(all: R[]): [string, R][] => all.map((row) => [row.what, row]);
const { signal } = new AbortController();
const cache = ownCache();

let tmp = '';
let inner = '';
beforeEach(async () => {
  tmp = await mkdtemp(join(tmpdir(), 'dk2b-hostile-'));
  inner = join(tmp, 'inner');
  await mkdir(inner);
});
afterEach(() => rm(tmp, { recursive: true, force: true }));

const make = (lines: string): Buffer =>
  execFileSync('bash', ['-c', lines], { cwd: inner, env: { ...process.env, HOST: tmp } });

async function answered(answer: string, read: () => Promise<unknown>): Promise<void> {
  try {
    await read();
  } catch (error) {
    expect(messageOf(error)).toMatch(new RegExp(answer));
    expect(messageOf(error)).not.toContain('\u001b');
    return;
  }
  expect(answer).toMatch(/\btaken\b/);
}

describe('a tarball', () => {
  test.each(named(corpus<Row>('tarballs')))('%s', async (_, { does, answer }) => {
    make(does);
    await answered(answer, () => parseModuleSource('x.tar', { cwd: tmp }));
    expect((await readdir(tmp)).filter((name) => !/^(inner|[xy]\.tar)$/.test(name))).toEqual([]);
  });
});

describe('a source', () => {
  interface Given extends Row {
    /** The value of --dkms. */
    given: string;
  }
  test.each(named(corpus<Given>('sources')))('%s', async (_, { given, does, answer }) => {
    vi.stubEnv('DKMS2BIN_STATE', join(tmp, 'inner-state'));
    make(does);
    const before = (await readdir(tmp)).sort();
    await answered(answer, () =>
      parseModuleSource(given, { cwd: tmp, proxy: '', emit: () => undefined, signal }),
    );
    // Nothing of it got out, and nothing that was made on the way is left.
    const scratch = await readdir(join(tmp, 'inner-state/scratch')).catch(() => []);
    const now = (await readdir(tmp)).filter((name) => name !== 'inner-state');
    expect([now.sort(), scratch]).toEqual([before, []]);
  });
});

describe('an image', () => {
  test.each(named(corpus<Row & { size: string }>('image-sizes')))('%s', async (_, { size, answer }) => {
    const path = join(tmp, 'disk.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', path, size]);
    await answered(answer, () => requireStandalone(path));
  });
});

describe('what a shared cache holds', () => {
  interface Stored extends Row {
    text?: string;
    size?: number;
    sha256?: string;
    note?: string;
    noteBytes?: number;
  }
  const HASH = 'cd'.repeat(16);

  async function fill(row: Stored): Promise<void> {
    make(row.does);
    const archive = join(tmp, 'a.tar.zst');
    if (row.text === undefined)
      make(
        'shopt -s dotglob; tar --zstd -cSf ../a.tar.zst -- * 2>/dev/null || tar --zstd -cSf ../a.tar.zst .',
      );
    else await writeFile(archive, row.text);
    const bytes = await readFile(archive);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const note = row.note ?? JSON.stringify({ sha256: row.sha256 ?? sha256, size: row.size ?? bytes.length });
    for (const [path, content] of [
      [blobPath(sha256), bytes],
      [`notes/images-${HASH}.json`, row.noteBytes ? Buffer.alloc(row.noteBytes, ' ') : note],
    ] as const) {
      const to = join(tmp, 'store', path);
      await mkdir(dirname(to), { recursive: true });
      await writeFile(to, content);
    }
  }

  test.each(named(corpus<Stored>('stores')))('is not used: %s', async (_, row) => {
    await fill(row);
    const notes: string[] = [];
    const emit = (event: { type: string; message?: string }): void =>
      void (event.type === 'note' && notes.push(event.message!));
    const shared = await openSharedCache(join(tmp, 'store'), { emit, signal });
    const entry = await cached(
      'images',
      HASH,
      async (dir) => {
        await writeFile(join(dir, 'made-here'), 'yes');
        return { name: 'made here' };
      },
      { signal, shared },
    );
    await entry.use.release();
    expect((await readdir(entry.dir)).sort()).toEqual(['made-here', 'meta.json']);
    expect(notes[0]).toMatch(/^(Fetching|images)/);
    expect(notes.find((note) => note.includes('cannot be used'))).toMatch(new RegExp(row.answer));
    expect(notes.join('')).not.toContain('\u001b');
    expect(existsSync(join(cache.dir, 'images', `${HASH}.part`))).toBe(false);
  });
});

describe("a job's folder", () => {
  test('is not unpacked on the worker: nothing setuid, no owner, no link of it is ever there', async () => {
    make(
      "printf 'PACKAGE_NAME=m\\nPACKAGE_VERSION=1\\n' >dkms.conf; cp /bin/true s; chmod 6755 s; ln -s /etc/shadow l; mkfifo p; mkdir -m 2777 d",
    );
    const store = await openStore(join(tmp, 'store'), { emit: () => undefined });
    const source = { kind: 'folder', text: './m', path: inner } as const;
    const shared = await shareSource(source, store, tmp, signal);
    const dir = join(tmp, 'worker');
    const here = await fetchSource(shared, store, dir, signal);
    expect(await readdir(dir)).toEqual(['inner']);
    expect(here).toEqual({ kind: 'folder', text: './m', path: join(dir, 'inner') });
    const sent = await folderTar((here as { path: string }).path, signal);
    expect(sent.equals(await folderTar(inner, signal))).toBe(true);
  });

  test('that is too large is told, holes of sparse files included', async () => {
    make("printf 'PACKAGE_NAME=m\\n' >dkms.conf; truncate -s 3G hole");
    await expect(folderTar(inner, signal)).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringMatching(/has 32\d{8} bytes, the limit of a source is 1073741824/) as string,
      hint: expect.stringContaining('sparse') as string,
    });
  });
});
