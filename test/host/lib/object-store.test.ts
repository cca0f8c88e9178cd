import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { shareSource } from '../../../src/engine/queue/sources.js';
import { openStore, SpoiltBlob, type Store } from '../../../src/lib/object-store/index.js';
import { blobPath } from '../../../src/lib/object-store/store.js';
import { messageOf } from '../../../src/model/errors.js';
import { corpus } from '../../hostile/corpus.js';
import { sha256 } from '../../unit/fixtures/file-server.js';

/** What a store keeps by its content, when somebody else can write there, and when what is put changes meanwhile. */

const BYTES = Buffer.from('a package');
const SHA = sha256(BYTES);
const KINDS = ['folder', 'http', 's3'] as const;
type Kind = (typeof KINDS)[number];
/** A store's files by path; a function answers by itself. */
type Held = Map<string, Buffer | ((response: ServerResponse) => void)>;

let tmp = '';
beforeEach(async () => void (tmp = await mkdtemp(join(tmpdir(), 'd2b-store-'))));
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(tmp, { recursive: true, force: true });
});

function answer(held: Held, request: IncomingMessage, response: ServerResponse): void {
  const path = new URL(request.url!, 'http://x').pathname;
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    if (request.method === 'PUT') held.set(path, Buffer.concat(chunks));
    const there = held.get(path);
    if (typeof there === 'function') return there(response);
    response.writeHead(
      there ? 200 : 404,
      there && request.method !== 'PUT' ? { 'content-length': there.length } : {},
    );
    response.end(request.method === 'GET' ? there : undefined);
  });
}

/** A store of this kind, and what it holds under the digest of BYTES. */
async function withStore(
  kind: Kind,
  work: (store: Store, held: { path: string; files: Held }) => Promise<void>,
): Promise<void> {
  const files: Held = new Map();
  const emit = (): void => undefined;
  if (kind === 'folder') {
    const path = join(tmp, 'store', blobPath(SHA));
    await mkdir(dirname(path), { recursive: true });
    return work(await openStore(join(tmp, 'store'), { emit }), { path, files });
  }
  const server = createServer((request, response) => answer(files, request, response));
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  vi.stubEnv('AWS_ENDPOINT_URL', at);
  for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']) vi.stubEnv(name, 'x');
  try {
    const store = await openStore(kind === 's3' ? 's3://shared' : `${at}/shared`, { emit });
    await work(store, { path: `/shared/${blobPath(SHA)}`, files });
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** Writes until nobody takes it any more. */
function endless(response: ServerResponse): void {
  const write = (): void => {
    while (!response.destroyed && response.write(Buffer.alloc(65536)));
  };
  response.on('drain', write);
  write();
}

const CONTENTS: Record<string, Buffer> = {
  same: BYTES,
  other: Buffer.from('A PACKAGE'),
  short: BYTES.subarray(0, 4),
  empty: Buffer.alloc(0),
  long: Buffer.alloc(100_000),
};

async function spoil(
  kind: Kind,
  input: string,
  { path, files }: { path: string; files: Held },
): Promise<void> {
  const bytes = CONTENTS[input];
  if (kind !== 'folder') return void files.set(path, bytes ?? (input === 'endless' ? endless : lie));
  if (bytes) return writeFile(path, bytes);
  if (input === 'link') return symlink('/etc/passwd', path);
  if (input === 'device') return symlink('/dev/zero', path);
  if (input === 'pipe') execFileSync('mkfifo', [path]);
  else await mkdir(path);
}

const lie = (response: ServerResponse): void => {
  response.writeHead(200, { 'content-length': 9 });
  response.write('a p', () => response.destroy());
};

interface Row {
  what: string;
  input: string;
  answer: string;
  over?: Kind[];
}

describe.each(KINDS)('what a store holds: %s', (kind) => {
  const rows = corpus<Row>('blobs').filter(({ over = KINDS }) => over.includes(kind));
  test.each(rows.map((row) => [row.what, row] as const))('%s', async (_, { input, answer: expected }) => {
    await withStore(kind, async (store, held) => {
      await spoil(kind, input, held);
      const to = join(tmp, 'got');
      const got = store.get(SHA, to, { maxBytes: BYTES.length });
      if (expected === 'taken') {
        await got;
        expect(await readFile(to)).toEqual(BYTES);
        return;
      }
      expect(messageOf(await got.catch((error: unknown) => error))).toMatch(new RegExp(expected));
      expect((await readdir(tmp)).filter((name) => name.startsWith('got'))).toEqual([]);
    });
  });
});

describe.each(KINDS)('%s', (kind) => {
  test('putting a file again mends one of another size', async () => {
    await withStore(kind, async (store, held) => {
      const file = join(tmp, 'file');
      await writeFile(file, BYTES);
      await store.put(file);
      await spoil(kind, 'short', held);
      await expect(store.get(SHA, join(tmp, 'got'))).rejects.toBeInstanceOf(SpoiltBlob);
      await store.put(file);
      await store.get(SHA, join(tmp, 'got'));
      expect(await readFile(join(tmp, 'got'))).toEqual(BYTES);
    });
  });
});

describe.each(['http', 's3'] as const)('%s', (kind) => {
  test('a file that changes while it is put is nowhere under its first digest', async () => {
    await withStore(kind, async (store, { files }) => {
      const file = join(tmp, 'file');
      // Larger than what is read at once.
      await writeFile(file, Buffer.alloc(2 ** 20, 'a'));
      const path = `/shared/${blobPath(sha256(await readFile(file)))}`;
      // It has been read once when the store is asked whether it has it.
      files.set(path, (response) => {
        files.delete(path);
        void writeFile(file, Buffer.alloc(2 ** 20, 'b')).then(() => response.writeHead(404).end());
      });
      await expect(store.put(file)).rejects.toMatchObject({
        fault: 'usage',
        message: `${file} changed while it was read`,
      });
      expect([...files.keys()]).toEqual([]);
    });
  });
});

test('one source that is shared many times at once is there once, and whole', async () => {
  const path = join(tmp, 'source');
  await mkdir(path);
  await writeFile(join(path, 'dkms.conf'), 'PACKAGE_NAME=m\nPACKAGE_VERSION=1\n');
  await writeFile(join(path, 'large.c'), '');
  await truncate(join(path, 'large.c'), 3_000_000);
  await withStore('folder', async (store) => {
    const { signal } = new AbortController();
    const shared = await Promise.all(
      Array.from({ length: 8 }, () => shareSource({ kind: 'folder', text: './m', path }, store, tmp, signal)),
    );
    expect(new Set(shared.map((each) => JSON.stringify(each))).size).toBe(1);
    const names = await readdir(join(tmp, 'store'), { recursive: true, withFileTypes: true });
    for (const each of names.filter((one) => one.isFile()))
      expect(sha256(await readFile(join(each.parentPath, each.name)))).toBe(each.name);
  });
});
