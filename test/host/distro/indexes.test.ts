import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import * as openpgp from 'openpgp';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { listKernels } from '../../../src/distro/apt-index.js';
import { findRow, loadCatalogue } from '../../../src/distro/catalogue.js';
import { availableKernels } from '../../../src/distro/kernels.js';
import { FileServer, putRepo, sha256 } from '../../unit/fixtures/file-server.js';

let server: FileServer;
let cacheDir: string;
beforeAll(async () => void (server = await new FileServer().open()));
afterAll(() => server.close());
beforeEach(async () => void (cacheDir = await mkdtemp(join(tmpdir(), 'index-'))));
afterEach(() => rm(cacheDir, { recursive: true, force: true, maxRetries: 5 }));

const xz = (input: string): Buffer => execFileSync('xz', ['-c'], { input });
const zstd = (input: string): Buffer => execFileSync('zstd', ['-cq'], { input });

/** One suite with one kernel, its index packed as told. Returns its unsigned InRelease. */
function suite(suffix: string, pack: (text: string) => Buffer): string {
  const text = [
    'Package: linux-image-6.12.117+deb13-amd64\nVersion: 6.12.117-1\nDepends: kmod\n',
    'Package: linux-headers-6.12.117+deb13-amd64\nVersion: 6.12.117-1\n',
  ].join('\n');
  const packed = pack(text);
  const release =
    `Origin: Debian\nSuite: trixie\nAcquire-By-Hash: yes\nSHA256:\n` +
    ` ${sha256(text)} ${text.length} main/binary-amd64/Packages\n` +
    ` ${sha256(packed)} ${packed.length} main/binary-amd64/Packages.${suffix}\n`;
  server.put('/debian/dists/trixie/InRelease', release);
  server.put(`/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/${sha256(packed)}`, packed);
  return release;
}

const listed = (keyring: string | false): ReturnType<typeof listKernels> =>
  listKernels({
    mirror: `${server.origin}/debian`,
    suites: [{ name: 'trixie', mirror: 'main' }],
    arch: 'amd64',
    cacheDir,
    keyring,
    proxy: '',
    maxAge: 0,
  });

test('an index of apt that is packed with xz', async () => {
  suite('xz', xz);
  expect((await listed(false)).kernels.map(({ release }) => release)).toEqual(['6.12.117+deb13-amd64']);
});

test('indexes of dnf that are packed with zstd, as Fedora does, and with xz', async () => {
  const core = (evr: string): { name: string; evr: string } => ({ name: 'kernel-core', evr });
  putRepo(server, '/linux/releases/43/Everything/x86_64/os', [core('6.17.1-300.fc43')], {
    suffix: 'zst',
    pack: zstd,
  });
  putRepo(server, '/linux/updates/43/Everything/x86_64', [core('6.17.10-300.fc43')], {
    suffix: 'xz',
    pack: xz,
  });
  const kernels = await availableKernels(findRow(await loadCatalogue(), 'fedora-43'), {
    cacheDir,
    mirror: server.origin,
    proxy: '',
  });
  expect(kernels.map(({ release }) => release)).toEqual([
    '6.17.10-300.fc43.x86_64',
    '6.17.1-300.fc43.x86_64',
  ]);
});

test('the signature of InRelease is checked, and only what it covers is read', async () => {
  const made = await openpgp.generateKey({
    type: 'rsa',
    rsaBits: 2048,
    userIDs: [{ name: 'test' }],
    format: 'object',
  });
  const other = await openpgp.generateKey({
    type: 'rsa',
    rsaBits: 2048,
    userIDs: [{ name: 'x' }],
    format: 'object',
  });
  const keyring = join(cacheDir, 'keyring.gpg');
  await writeFile(keyring, made.publicKey.write());
  const text = suite('gz', gzipSync);
  const sign = async (signingKeys: openpgp.PrivateKey[]): Promise<string> =>
    openpgp.sign({ message: await openpgp.createCleartextMessage({ text }), signingKeys });
  const list = () => listed(keyring);
  const put = (body: string): void => server.put('/debian/dists/trixie/InRelease', body);
  const bad = { fault: 'host', message: expect.stringContaining('signature') as string };

  await expect(list()).rejects.toMatchObject(bad);
  put(await sign([other.privateKey]));
  await expect(list()).rejects.toMatchObject(bad);
  const good = await sign([made.privateKey]);
  put(good.replace('Suite: trixie', 'Suite: trixie2'));
  await expect(list()).rejects.toMatchObject(bad);
  // Debian signs with several keys, of which an older host knows only some.
  put(await sign([made.privateKey, other.privateKey]));
  expect((await list()).kernels).toHaveLength(1);
});
