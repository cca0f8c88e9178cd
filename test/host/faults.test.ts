import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { engine } from '../../src/cli/services.js';
import { checkModule, readModule } from '../../src/formats/elf.js';
import { FrameReader } from '../../src/guest/frames.js';
import { download } from '../../src/lib/download.js';
import { asDiskError } from '../../src/lib/download/disk.js';
import { run } from '../../src/lib/exec.js';
import { openStore } from '../../src/lib/object-store/index.js';
import { blobPath } from '../../src/lib/object-store/store.js';
import { EXIT_CODES } from '../../src/model/errors.js';
import { cli } from '../unit/fixtures/cli-harness.js';
import { fakeModule } from '../unit/fixtures/elf.js';
import { sha256 } from '../unit/fixtures/file-server.js';
import { makeKey } from '../unit/fixtures/repository.js';

/**
 * Kinds of fault, each with its message, its hint and its exit code: the data is faults.json. In `args` and `does` DIR is a folder of
 * the row's own, where `does` is run, MIRROR and DOWN a web server that answers and one that does not.
 */
interface Row {
  fault: string;
  does: string;
  args: string[];
  code: number;
  /** Begins the text on stderr, `…` for what differs. */
  message: string;
  hint: string | null;
  /** A file without which this cannot be tried here. */
  needs?: string;
  path?: string;
  interrupted?: boolean;
  /** It is not the superuser who meets it. */
  ordinaryUser?: boolean;
  /** What happens in the middle of a command: see HAPPENS. */
  injected?: boolean;
}
const ROWS = JSON.parse(readFileSync(new URL('faults.json', import.meta.url), 'utf8')) as Row[];

let dir = '';
let server: Server;
let origin = '';
beforeAll(async () => {
  server = createServer((request, response) => {
    const url = request.url ?? '';
    const index = gzipSync('Package: linux-image-6.1.0-1-amd64\nVersion: 6.1.4-1\n\n');
    const name = 'main/binary-amd64/Packages.gz';
    if (url.startsWith('/broken')) response.writeHead(503).end();
    else if (url.startsWith('/cut')) {
      response.writeHead(200, { 'content-length': 1000 });
      response.write('x', () => setTimeout(() => response.destroy(), 20));
    } else if (url.endsWith('/InRelease') && !/^\/(?:empty|old)/.test(url))
      response.end(`SHA256:\n ${sha256(index)} ${index.length} ${name}\n`);
    else if (url.endsWith(name)) response.end(index);
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dk2b-faults-'));
  for (const name of ['CACHE', 'STATE']) vi.stubEnv(`DKMS2BIN_${name}`, join(dir, name.toLowerCase()));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true, force: true });
});

const digest = { algorithm: 'sha256', hex: 'a'.repeat(64) } as const;
const limits = { retries: 0, stallMs: 2000 };
const emit = (): void => undefined;
const fetched = (path: string, more: object = {}): Promise<void> =>
  download({
    url: `${origin}${path}`,
    to: join(dir, 'file'),
    digest,
    emit,
    proxy: '',
    limits: { ...limits, ...more },
  });
const framesOf = (text: string): Promise<unknown> =>
  new FrameReader(Readable.from([Buffer.from(text)]), { kinds: ['ko'], limits: { single: 10 } }).all();

/** What no option brings about: the very functions that a command comes to. */
const HAPPENS: Record<string, () => Promise<unknown>> = {
  'the disk is full': () => {
    const error = Object.assign(new Error('ENOSPC: no space left on device, write'), {
      code: 'ENOSPC',
      syscall: 'write',
    });
    return Promise.resolve().then(() => {
      throw asDiskError(error, '/cache/images/x.part');
    });
  },
  'a download that breaks off': () => fetched('/cut/file'),
  'a download with another checksum': () => fetched('/file/InRelease'),
  'a download that is larger than it should be': () => fetched('/file/InRelease', { maxBytes: 10 }),
  'a server that refuses': () => fetched('/broken/file'),
  'a store with another file than was put there': async () => {
    await mkdir(join(dir, 's/sha256/aa'), { recursive: true });
    await writeFile(join(dir, 's', blobPath(digest.hex)), 'other');
    await (await openStore(join(dir, 's'), { emit })).get(digest.hex, join(dir, 'to'));
  },
  'a store that lacks a file': async () =>
    (await openStore(join(dir, 's'), { emit })).get(digest.hex, join(dir, 'to')),
  'a store without access': () => openStore('/dev/null/store', { emit }),
  'a guest that sends too much': () => framesOf('DKMS2BIN1 ko 0 11\n'),
  'a guest that sends no frames': () => framesOf('root@localhost:~# '),
  'a module for another kernel': () => {
    const info = readModule(fakeModule('6.1.0-1-amd64'));
    return Promise.resolve(checkModule(info, { release: '6.1.0-2-amd64', arch: 'x86_64' }, 'm.ko'));
  },
  'a module that is none': () => Promise.resolve(readModule(Buffer.from('text'))),
  'a program that fails': () => run('tar', ['-tf', '/nowhere']),
};

const put = (text: string): string =>
  text.replaceAll('DIR', dir).replaceAll('MIRROR', origin).replaceAll('DOWN', 'http://127.0.0.1:1');

async function outcomeOf({ fault, does, args, path, interrupted, injected }: Row) {
  const keyFolder = /KEY (\S+)/.exec(does)?.[1];
  const lines = does
    .replace(/KO;/, `base64 -d <<<${fakeModule('6.1.0-1-amd64').toString('base64')} >x.ko;`)
    .replace(/KEY \S+/, ':');
  execFileSync('bash', ['-ec', lines], { cwd: dir });
  if (keyFolder !== undefined)
    await rename((await makeKey(join(dir, keyFolder))).file, join(dir, keyFolder, 'key.asc'));
  if (path !== undefined) vi.stubEnv('PATH', path);
  const signal = interrupted ? AbortSignal.abort() : AbortSignal.timeout(20_000);
  const inspect = async (): Promise<never> => {
    await HAPPENS[fault]!();
    throw new Error(`${fault} did not happen`);
  };
  return cli(args.map(put), injected ? { ...engine, inspect } : engine, { signal });
}

/** What differs from run to run does not count. */
const plainOf = (text: string): string => text.replaceAll(dir, 'DIR').replaceAll(origin, 'MIRROR');

const here = ({ needs, ordinaryUser }: Row): boolean =>
  (needs === undefined || existsSync(needs)) && !(ordinaryUser && process.getuid?.() === 0);

test.each(ROWS.filter(here).map((row) => [row.fault, row] as const))('%s', async (_, row) => {
  const { code, stderr } = await outcomeOf(row);
  const said = plainOf(stderr);
  if (process.env.SHOW_FAULTS) {
    process.stdout.write(`@@${JSON.stringify({ fault: row.fault, code, said })}\n`);
    return;
  }
  expect(code, said).toBe(row.code);
  const pattern = (text: string): RegExp =>
    new RegExp(
      text
        .split('…')
        .map((part) => part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'))
        .join('[^]*?'),
    );
  expect(said).toMatch(pattern(row.message));
  if (row.hint === null) expect(said).not.toContain('hint:');
  else expect(said).toMatch(pattern(`hint: ${row.hint}`));
  // No stack, no password, nothing that a terminal obeys.
  expect(said).not.toMatch(/\n\s+at |[\u0000-\u0008\u000b-\u001f]/);
});

test('the table has at least forty kinds, and every exit code that a fault has', () => {
  expect(ROWS.length).toBeGreaterThanOrEqual(40);
  const codes = new Set(ROWS.map(({ code }) => code));
  const faults = EXIT_CODES.filter(({ of }) => !['ok', 'work-to-do', 'bug'].includes(of));
  expect(faults.filter(({ code }) => !codes.has(code))).toEqual([]);
});
