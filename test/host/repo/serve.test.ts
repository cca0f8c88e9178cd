import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { PublishResult } from '../../../src/cli/services.js';
import { serveRepository, sourcesFor } from '../../../src/repo/index.js';
import { cli } from '../../unit/fixtures/cli-harness.js';
import { addDeb, publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';

let tmp: ReturnType<typeof tempFolder>;
let dir: string;
beforeEach(() => {
  tmp = tempFolder();
  dir = join(tmp.path, 'out');
  mkdirSync(dir);
});
afterEach(() => tmp.remove());

/** The target goes out as it is written: fetch would tidy it up. */
function ask(
  url: string,
  path: string,
  options: { method?: string; headers?: Record<string, string> } = {},
): Promise<{ status: number | undefined; body: string; modified: string | undefined }> {
  const { hostname, port } = new URL(url);
  return new Promise((done, fail) => {
    const sent = request({ hostname, port, path, ...options }, (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => (body += chunk.toString('latin1')));
      response.on('end', () =>
        done({ status: response.statusCode, body, modified: response.headers['last-modified'] }),
      );
    });
    sent.once('error', fail);
    sent.end();
  });
}

test('serves the files of the repository and nothing else', async () => {
  const file = addDeb(dir, 'foo', '1.0+a~b');
  await publishQuietly(dir);
  writeFileSync(join(tmp.path, 'secret'), 'secret');
  symlinkSync(join(tmp.path, 'secret'), join(dir, 'link'));
  symlinkSync(tmp.path, join(dir, 'up'));
  writeFileSync(join(dir, '.hidden'), 'secret');
  await using served = await serveRepository(dir);
  const { url } = served;
  const deb = readFileSync(join(dir, file), 'latin1');
  for (const path of [`/${file}`, `/./${file}`, `//${file}`, `/${encodeURIComponent(file)}?x=1`]) {
    expect(await ask(url, path), path).toMatchObject({ status: 200, body: deb });
  }
  for (const path of [
    '/../secret',
    '/%2e%2e/secret',
    '/..%2fsecret',
    '/by-hash/../../secret',
    '/up/secret',
    '/link',
    '/.hidden',
    '/.dkms2bin-repo.lock',
    '/',
    '/by-hash',
    '/none',
    '/%',
    '/Release%00',
    `${tmp.path}/secret`,
  ]) {
    const got = await ask(url, path);
    expect([path, [403, 404].includes(got.status ?? 0), got.body]).toEqual([path, true, '']);
  }
  expect((await ask(url, '/Release', { method: 'POST' })).status).toBe(405);
  const head = await ask(url, '/Release', { method: 'HEAD' });
  expect(head).toMatchObject({ status: 200, body: '' });
  const headers = { 'If-Modified-Since': head.modified ?? '' };
  expect(await ask(url, '/Release', { headers })).toMatchObject({ status: 304, body: '' });
  const port = Number(new URL(url).port);
  await expect(serveRepository(dir, { port })).rejects.toMatchObject({
    fault: 'usage',
    message: `Cannot listen on port ${port}: it is in use`,
  });
  await expect(serveRepository(tmp.path)).rejects.toMatchObject({
    fault: 'usage',
    hint: `Make it one: dkms2bin repo ${tmp.path}`,
  });
});

const RESULT: PublishResult = {
  packages: [
    { path: 'foo_1.deb', format: 'deb', name: 'foo', version: '1', architecture: 'amd64', sha256: 'aa' },
  ],
  changed: true,
  removed: ['foo_0.deb'],
  leftOut: [],
  kinds: ['apt'],
  signedBy: 'ABCD',
  metapackages: [],
};

test('repo publishes: options, lines, JSON, and an exit code for what is left out', async () => {
  const asked: unknown[] = [];
  const publishRepository = (result: PublishResult) => (folder: string, options: object) => {
    asked.push({ folder, ...options });
    return Promise.resolve(result);
  };
  const env = { DKMS2BIN_REPO_PASSPHRASE: 'secret' };
  const argv = ['repo', 'out', '--repo-key', 'key.asc', '--keep', '3', '--origin', 'me'];
  const { code, stdout, stderr } = await cli(argv, { publishRepository: publishRepository(RESULT) }, { env });
  expect(asked).toMatchObject([
    {
      folder: join('/home/user/project', 'out'),
      keyFile: join('/home/user/project', 'key.asc'),
      passphrase: 'secret',
      keep: 3,
      origin: 'me',
    },
  ]);
  expect([code, stdout]).toEqual([
    0,
    'deb      foo  1  amd64  foo_1.deb\nremoved                 foo_0.deb\n',
  ]);
  expect(stderr).toBe('published: 1 package for apt, signed by ABCD\n');
  const json = await cli(['repo', 'out', '--json'], { publishRepository: publishRepository(RESULT) });
  expect(JSON.parse(json.stdout)).toEqual({ schemaVersion: 1, repository: RESULT });

  const leftOut = [{ path: 'bad.deb', reason: 'cut off' }];
  const bad = await cli(['repo', 'out'], { publishRepository: publishRepository({ ...RESULT, leftOut }) });
  expect(bad).toMatchObject({ code: 2, stderr: expect.stringContaining('bad.deb: cut off') as string });
  const none = { ...RESULT, packages: [], removed: [], kinds: [], changed: false };
  const empty = await cli(['repo', 'out'], { publishRepository: publishRepository(none) });
  expect(empty).toMatchObject({ code: 3, stderr: expect.stringContaining('No .deb or .rpm') as string });
  for (const wrong of [
    ['repo'],
    ['repo', 'out', '--keep', '0'],
    ['repo', 'serve', 'out', '--port', '70000'],
  ]) {
    expect((await cli(wrong)).code, wrong.join(' ')).toBe(2);
  }
});

test('repo serve prints what a client needs, and ends when it is interrupted', async () => {
  const stopped = new AbortController();
  let closed = 0;
  const close = (): Promise<void> => Promise.resolve(void (closed += 1));
  const serveRepository = () => {
    setTimeout(() => stopped.abort(), 20);
    const url = 'http://127.0.0.1:8080/';
    const sources = sourcesFor(url, { apt: true, dnf: true, signed: true });
    return Promise.resolve({ url, sources, close, [Symbol.asyncDispose]: close });
  };
  const { code, stdout } = await cli(
    ['repo', 'serve', 'out', '--port', '8080'],
    { serveRepository },
    { signal: stopped.signal },
  );
  expect([code, closed]).toEqual([0, 1]);
  const keyring = '/etc/apt/keyrings/dkms2bin-archive-keyring.asc';
  expect(stdout.split('\n')).toEqual(
    expect.arrayContaining([
      `#   sudo curl -fo ${keyring} http://127.0.0.1:8080/dkms2bin-archive-keyring.asc`,
      `deb [signed-by=${keyring}] http://127.0.0.1:8080/ ./`,
      'Suites: ./',
      `Signed-By: ${keyring}`,
      'baseurl=http://127.0.0.1:8080/',
      'repo_gpgcheck=1',
      'gpgkey=http://127.0.0.1:8080/dkms2bin-archive-keyring.asc',
    ]),
  );
});
