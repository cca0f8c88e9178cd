import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Engine } from '../../../src/cli/services.js';
import type { MetapackageResult } from '../../../src/engine/metapackages.js';
import { notify } from '../../../src/engine/notify.js';
import type { CellResult } from '../../../src/model/cell.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import { NotificationDocument } from '../../../src/model/result-schema.js';
import { cell, cli } from '../../unit/fixtures/cli-harness.js';

// The commands' rounds are made up; what tells of them, and the server that is told, are real.
let out: string;
let server: Server;
let url: string;
/** What the next requests are answered, else 204. */
let answers: { status: number; headers?: Record<string, string> }[];
let got: { path: string; headers: IncomingHttpHeaders; document: z.infer<typeof NotificationDocument> }[];

beforeEach(async () => {
  out = mkdtempSync(join(tmpdir(), 'dk2b-notify-'));
  answers = [];
  got = [];
  server = createServer((request, response) => {
    let text = '';
    request.on('data', (chunk: Buffer) => (text += chunk.toString()));
    request.on('end', () => {
      const { status, headers } = answers.shift() ?? { status: 204 };
      response.writeHead(status, headers).end();
      if (status === 204)
        got.push({
          path: `${request.method} ${request.url}`,
          headers: request.headers,
          document: NotificationDocument.parse(JSON.parse(text)),
        });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://me:pw@127.0.0.1:${(server.address() as AddressInfo).port}/hooks/SECRET?x=1`;
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(out, { recursive: true, force: true });
});

const broken = (more: Partial<CellResult> = {}): CellResult =>
  cell({
    ...{ kernel: '6.12.90-amd64', verdict: 'failed', fault: 'module', package: null },
    ...{ reason: "acpi_call.c:17:5: error: too few arguments to function 'f'\n  more of it", ...more },
  });

const HELD: MetapackageResult = {
  ...{ name: 'acpi-call-modules-amd64', follows: 'linux-image-amd64', distro: 'debian-12' },
  kernel: '6.1.0-56-amd64',
  held: {
    meta: 'linux-image-amd64',
    release: '6.1.0-57-amd64',
    packageVersion: '6.1.195-1',
    why: 'failed: x',
  },
};

interface Round {
  cells?: CellResult[];
  metapackages?: MetapackageResult[];
  error?: Dkms2binError;
}

/** One round of refresh whose build and publishing come to this. */
function round({ cells = [], metapackages = [], error }: Round, ...argv: string[]): ReturnType<typeof cli> {
  const plan = { cells: [], wanted: [], blocked: [], tried: [], validate: false };
  const nothing = { packages: [], changed: false, removed: [], leftOut: [], kinds: [], signedBy: null };
  const fake: Partial<Engine> = {
    planRefresh: (request) => (error ? Promise.reject(error) : Promise.resolve({ ...plan, request })),
    refresh: () => Promise.resolve({ run: null, accelerator: null, cells }),
    publishRepository: () => Promise.resolve({ ...nothing, metapackages }),
    // A second is long for a test.
    notify: (dir, to, what, net) => notify(dir, to, what, { ...net, limits: { backoffMs: 10 } }),
  };
  return cli(['refresh', '--out-dir', out, '--repo', '--notify', url, ...argv], fake);
}

test('what was built, newly fails and is held goes out once, in the form of its schema', async () => {
  const first = await round({ cells: [cell(), broken()], metapackages: [HELD] });
  expect([first.code, got.length]).toEqual([1, 1]);
  const [{ path, headers, document }] = got as [(typeof got)[number]];
  expect(path).toBe('POST /hooks/SECRET?x=1');
  expect(headers).toMatchObject({
    'content-type': 'application/json',
    authorization: `Basic ${Buffer.from('me:pw').toString('base64')}`,
  });
  expect(document).toMatchObject({
    ...{ schemaVersion: 1, repository: out, error: null },
    built: [{ kernel: '6.1.0-56-amd64', package: 'acpi_call_1.2.2-6.1.0-56-amd64_x86_64.deb' }],
    failing: [{ kernel: '6.12.90-amd64', verdict: 'failed', reason: broken().reason }],
    held: [{ package: 'acpi-call-modules-amd64', waitsFor: '6.1.0-57-amd64', version: '6.1.195-1' }],
  });
  expect(document.text.split('\n')).toEqual([
    expect.stringMatching(/^dkms2bin on .*: 1 built, 1 newly failing, 1 kernel held back$/),
    "failed: acpi_call on 6.12.90-amd64 (debian-12): acpi_call.c:17:5: error: too few arguments to function 'f'",
    'held: acpi-call-modules-amd64 waits for 6.1.0-57-amd64 (debian-12): failed: x',
    'built: acpi_call_1.2.2-6.1.0-56-amd64_x86_64.deb',
  ]);

  // The same failure is a row of every round; a package that is up to date is none.
  const same = { cells: [cell({ reason: 'up to date' }), broken()], metapackages: [HELD] };
  expect((await round(same)).code).toBe(1);
  expect(got).toHaveLength(1);

  await round({ cells: [cell({ kernel: '6.12.90-amd64' })] });
  expect(got[1]!.document).toMatchObject({ built: [{ kernel: '6.12.90-amd64' }], failing: [], held: [] });
  // It was mended, so that it fails anew.
  await round({ cells: [broken()] });
  expect(got[2]!.document).toMatchObject({ built: [], failing: [{ kernel: '6.12.90-amd64' }] });
  await round({});
  await round({ cells: [broken()] });
  expect(got).toHaveLength(4);
});

test('a server that is busy is asked again', async () => {
  answers = [{ status: 503 }, { status: 429, headers: { 'retry-after': '0' } }];
  const { code, stderr } = await round({ cells: [cell()] });
  expect([code, got.length]).toEqual([0, 1]);
  expect(stderr).toMatch(/127\.0\.0\.1:\d+: HTTP 503 Service Unavailable; next try in/);
});

test.each<[string, typeof answers, RegExp]>([
  ['refuses', [{ status: 403 }], /HTTP 403 Forbidden\. It is posted again/],
  [
    'is down for long',
    Array.from({ length: 4 }, () => ({ status: 500 })),
    /HTTP 500 .*\(4 tries\)\. It is posted/,
  ],
  ['sends it elsewhere', [{ status: 302, headers: { location: '/other' } }], /HTTP 302 Found\. It is posted/],
])('a server that %s stops nothing, and gets it with the next round', async (_, refused, message) => {
  answers = refused;
  const { code, stdout, stderr } = await round({ cells: [cell(), broken()], metapackages: [HELD] });
  expect([code, got]).toEqual([1, []]);
  expect(stdout).toMatch(/^built /);
  expect(stderr).toMatch(message);
  expect(stderr + stdout).not.toMatch(/SECRET|pw@/);

  await round({ cells: [broken()], metapackages: [HELD] });
  expect(got.map(({ document }) => document)).toMatchObject([
    { built: [{ kernel: '6.1.0-56-amd64' }], failing: [{ kernel: '6.12.90-amd64' }], held: [{}] },
  ]);
  await round({ cells: [broken()], metapackages: [HELD] });
  expect(got).toHaveLength(1);
});

test('a round that ends early is told once, with its error, and so is the next good one', async () => {
  const error = new Dkms2binError('transient', 'the mirror is down', { hint: 'Try later' });
  for (let i = 0; i < 2; i++) {
    const { code, stderr } = await round({ error });
    expect([code, stderr]).toEqual([5, expect.stringContaining('the mirror is down')]);
  }
  await round({});
  expect(got.map(({ document }) => [document.error?.message, document.text.split(': ').at(-1)])).toEqual([
    ['the mirror is down', 'the round ended early\nthe mirror is down'],
    [undefined, 'all is well again'],
  ]);
});

test('another receiver knows of nothing yet', async () => {
  await round({ cells: [broken()] });
  url = url.replace('SECRET', 'OTHER');
  await round({ cells: [broken()] });
  expect(got.map(({ path }) => path)).toEqual(['POST /hooks/SECRET?x=1', 'POST /hooks/OTHER?x=1']);
});

test('it needs a URL, and a round that builds', async () => {
  expect((await cli(['refresh', '--notify', 'chat'])).stderr).toContain('is not an http:// or https:// URL');
  expect((await cli(['refresh', '--notify', url, '--dry-run'])).code).toBe(2);
});
