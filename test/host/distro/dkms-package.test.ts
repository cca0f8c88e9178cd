import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import * as openpgp from 'openpgp';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { listKernels } from '../../../src/distro/apt-index.js';
import {
  fetchDkmsPackage,
  findDkmsPackage,
  type FetchOptions,
  type FindOptions,
} from '../../../src/distro/dkms-package.js';
import { parseRepositoryName } from '../../../src/engine/plan/source.js';
import type { DistroRow } from '../../../src/distro/row.js';

let server: Server;
let origin: string;
let cacheDir: string;
let keyring: string;
let files: Map<string, Buffer>;
let requests: string[];
let key: openpgp.PrivateKey;
let publicKey: Uint8Array;

beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push(request.url!);
    // As a proxy it is asked for whole URLs.
    const body = files.get(decodeURIComponent(request.url!.replace(/^http:\/\/[^/]+/, '')));
    if (body) response.writeHead(200, { 'content-length': body.length }).end(body);
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const made = await openpgp.generateKey({
    type: 'rsa',
    rsaBits: 2048,
    userIDs: [{ name: 'test' }],
    format: 'object',
  });
  key = made.privateKey;
  publicKey = made.publicKey.write();
});
afterAll(() => server.close());
beforeEach(async () => {
  cacheDir = await mkdtemp(join(tmpdir(), 'dkms-package-'));
  keyring = join(cacheDir, 'keyring.gpg');
  await writeFile(keyring, publicKey);
  files = new Map();
  requests = [];
  await archive();
});
afterEach(() => rm(cacheDir, { recursive: true, force: true }));

const sha256 = (data: Buffer): string => createHash('sha256').update(data).digest('hex');

/** A package in the pool of `root`, and its stanza. */
function deb(root: string, name: string, version: string, fields = 'Depends: dkms (>= 2.1)'): string {
  const body = Buffer.from(`${name} ${version}`);
  const filename = `pool/${name}_${version.replace(/^\d+:/, '')}_all.deb`;
  files.set(`${root}/${filename}`, body);
  return (
    `Package: ${name}\nVersion: ${version}\nArchitecture: all\n${fields}\nDescription: with\n dkms in its text\n` +
    `Filename: ${filename}\nSize: ${body.length}\nSHA256: ${sha256(body)}\n`
  );
}

/** A signed suite whose components hold these stanzas. */
async function suite(root: string, name: string, components: Record<string, string[]>): Promise<void> {
  let release = `Codename: ${name}\nAcquire-By-Hash: yes\nSHA256:\n`;
  for (const [component, stanzas] of Object.entries(components)) {
    const packed = gzipSync(['Package: bash\nVersion: 5.2\nDescription: no dkms\n', ...stanzas].join('\n'));
    const folder = `${component}/binary-amd64`;
    release += ` ${sha256(packed)} ${packed.length} ${folder}/Packages.gz\n`;
    files.set(`${root}/dists/${name}/${folder}/by-hash/SHA256/${sha256(packed)}`, packed);
  }
  const message = await openpgp.createCleartextMessage({ text: release });
  files.set(
    `${root}/dists/${name}/InRelease`,
    Buffer.from(await openpgp.sign({ message, signingKeys: key })),
  );
}

async function archive(): Promise<void> {
  const main = (name: string, version: string, fields?: string): string =>
    deb('/debian', name, version, fields);
  await suite('/debian', 'bookworm', {
    main: [
      'Package: linux-image-6.1.0-47-amd64\nVersion: 6.1.170-3\nDepends: kmod\n',
      main('acpi-call-dkms', '1.2.2-2.1'),
      main('v4l2loopback-dkms', '0.12.7-2'),
      main('adv-17v35x-dkms', '5.0.3.0-1'),
      main('rtl-8-dkms', '2.0-1'),
      main('dahdi-dkms', '1:2.11.1~dfsg-8.4'),
    ],
    contrib: [main('zfs-dkms', '2.1.11-1+deb12u1')],
    'non-free': [main('broadcom-sta-dkms', '6.30-23')],
  });
  await suite('/debian-security', 'bookworm-security', {
    main: [deb('/debian-security', 'acpi-call-dkms', '1.2.2-2.1+deb12u1')],
  });
  await suite('/debian', 'bookworm-backports', {
    main: [main('acpi-call-dkms', '1.2.3-1~bpo12+1'), main('vhba-dkms', '20250329-1~bpo12+1')],
    contrib: [main('zfs-dkms', '2.3.2-2~bpo12+2')],
  });
}

const row: DistroRow = {
  id: 'debian-12',
  codename: 'bookworm',
  family: 'debian',
  version: '12',
  mirrors: { main: 'http://unused.invalid/debian' },
  suites: [
    { name: 'bookworm', role: 'release', mirror: 'main' },
    { name: 'bookworm-updates', role: 'updates', mirror: 'main' },
    { name: 'bookworm-security', role: 'security', mirror: 'security' },
    { name: 'bookworm-backports', role: 'backports', mirror: 'main' },
  ],
  arch: { x86_64: { defaultKernel: 'linux-image-amd64' } },
};
const options = (more: Partial<FindOptions> = {}): FindOptions & FetchOptions => ({
  cacheDir,
  mirror: `${origin}/debian`,
  keyring,
  proxy: '',
  emit: () => undefined,
  ...more,
});
function repoOf(text: string): { name: string; version?: string; text: string } {
  const source = parseRepositoryName(text);
  if (source.kind !== 'repo') throw new Error(`${text} is no name`);
  return source;
}
async function find(name: string, version?: string, more?: Partial<FindOptions>): Promise<string> {
  const found = await findDkmsPackage(row, { name, version }, options(more));
  return `${found.version} ${found.suite}`;
}
async function refusal(work: Promise<unknown>, fault: string): Promise<string> {
  const error = await work.then(
    () => undefined,
    (e: unknown) => e as { fault: string; message: string; hint?: string },
  );
  expect(error).toMatchObject({ fault });
  return `${error!.message}\n${error!.hint ?? ''}`;
}

describe('findDkmsPackage', () => {
  test('takes the newest, and backports only for what the release lacks', async () => {
    expect(await find('acpi-call-dkms')).toBe('1.2.2-2.1+deb12u1 bookworm-security');
    expect(await find('acpi-call-dkms', '1.2~')).toBe('1.2.2-2.1+deb12u1 bookworm-security');
    expect(await find('vhba-dkms')).toBe('20250329-1~bpo12+1 bookworm-backports');
  });

  test('a version may leave out the epoch and the revision, or end in ~', async () => {
    expect(await find('acpi-call-dkms', '1.2.2-2.1')).toBe('1.2.2-2.1 bookworm');
    expect(await find('acpi-call-dkms', '1.2.3')).toBe('1.2.3-1~bpo12+1 bookworm-backports');
    for (const version of [
      '1:2.11.1~dfsg-8.4',
      '2.11.1~dfsg-8.4',
      '1:2.11.1~dfsg',
      '2.11.1~dfsg',
      '2.11~',
      '1:2.11~',
    ]) {
      expect(await find('dahdi-dkms', version)).toBe('1:2.11.1~dfsg-8.4 bookworm');
    }
    await refusal(find('dahdi-dkms', '2.11'), 'not-found');
  });

  test('reads every component, from the right mirror', async () => {
    expect(await find('broadcom-sta-dkms')).toBe('6.30-23 bookworm');
    expect(await find('zfs-dkms', '2.3~')).toBe('2.3.2-2~bpo12+2 bookworm-backports');
    const found = await findDkmsPackage(row, { name: 'acpi-call-dkms' }, options());
    expect(found.mirror).toBe(`${origin}/debian-security`);
  });

  test.each([
    ['acpi_call', 'acpi-call-dkms'],
    ['v4l2loopback', 'v4l2loopback-dkms'],
    ['zfs', 'zfs-dkms'],
    ['spl', 'zfs-dkms'],
    ['wl', 'broadcom-sta-dkms'],
  ])('the module %s is brought by %s', async (name, expected) => {
    expect((await findDkmsPackage(row, { name }, options())).name).toBe(expected);
  });

  test.each([
    ['adv-17v35x-dkms', 'adv-17v35x-dkms 5.0.3.0-1'],
    ['adv-17v35x-dkms-5.0.3.0', 'adv-17v35x-dkms 5.0.3.0-1'],
    ['rtl-8-dkms', 'rtl-8-dkms 2.0-1'],
    ['rtl-8-dkms-2.0', 'rtl-8-dkms 2.0-1'],
    ['v4l2loopback-dkms-0.12.7', 'v4l2loopback-dkms 0.12.7-2'],
  ])('the name %s is that of a package first, then one with a version', async (text, expected) => {
    const { name, version } = await findDkmsPackage(row, repoOf(text), options());
    expect(`${name} ${version}`).toBe(expected);
  });

  test('not found names the versions or near names, and every suite tried', async () => {
    expect(await refusal(find('zfs-dkms', '9'), 'not-found')).toMatch(
      /has no version 9 in debian-12.*there is 2\.1\.11-1\+deb12u1 2\.3.*Similar names: zfs-dkms=2\.1\.11-1\+deb12u1, /s,
    );
    const text = await refusal(find('v4l2loop'), 'not-found');
    expect(text).toContain('bookworm (main contrib non-free): not there');
    expect(text).toContain('bookworm-updates: the mirror has no such suite');
    expect(text).toContain('Similar names: v4l2loopback-dkms');
    expect(await refusal(find('acpi-cal-dkms'), 'not-found')).toContain('Similar names: acpi-call-dkms');
  });

  test('asks nothing within the hour, after a look at kernels neither', async () => {
    const { kernels } = await listKernels({
      ...options(),
      mirror: `${origin}/debian`,
      suites: row.suites,
      arch: 'amd64',
    });
    expect(kernels.map(({ release }) => release)).toEqual(['6.1.0-47-amd64']);
    const count = requests.length;
    await find('zfs-dkms');
    await find('acpi-call-dkms', undefined, { offline: true });
    expect(requests).toHaveLength(count);
    await find('zfs-dkms', undefined, { maxAge: 0 });
    expect(requests.length).toBeGreaterThan(count);
  });

  test('a mirror without a component that InRelease names counts as a suite without it', async () => {
    for (const path of files.keys()) if (path.includes('/contrib/')) files.delete(path);
    expect(await find('broadcom-sta-dkms')).toBe('6.30-23 bookworm');
    expect(await refusal(find('zfs-dkms'), 'not-found')).toContain('bookworm (main non-free): not there');
  });
});

describe('fetchDkmsPackage', () => {
  const fetch = async (name: string, more: Partial<FindOptions> = {}): Promise<string> =>
    fetchDkmsPackage(await findDkmsPackage(row, { name }, options(more)), options(more));

  test('brings the file once, read-only, under its digest', async () => {
    const path = await fetch('dahdi-dkms');
    const body = await readFile(path);
    expect(body.toString()).toBe('dahdi-dkms 1:2.11.1~dfsg-8.4');
    expect(path).toBe(join(cacheDir, 'packages', sha256(body), 'dahdi-dkms_1%3a2.11.1~dfsg-8.4_all.deb'));
    expect((await stat(path)).mode & 0o777).toBe(0o444);
    expect((await readdir(dirname(path))).filter((name) => name.includes('.part'))).toEqual([]);
    const count = requests.length;
    expect(await fetch('dahdi-dkms', { offline: true })).toBe(path);
    expect(requests).toHaveLength(count);
  });

  test('goes through the proxy, as the index does', async () => {
    await fetch('zfs-dkms', { mirror: 'http://mirror.invalid/debian', proxy: origin });
    for (const path of [
      '/dists/bookworm/InRelease',
      '-security/dists/bookworm-security/InRelease',
      '/pool/zfs-dkms_2.1.11-1%2Bdeb12u1_all.deb',
    ]) {
      expect(requests).toContain(`http://mirror.invalid/debian${path}`);
    }
  });

  test('a damaged file in the cache is fetched again, or missing when offline', async () => {
    const path = await fetch('zfs-dkms');
    await rm(path);
    await writeFile(path, 'zfs-dkms 6.6.66-6+deb12u6');
    expect(await refusal(fetch('zfs-dkms', { offline: true }), 'not-found')).toContain('--offline');
    await fetch('zfs-dkms');
    expect(await readFile(path, 'utf8')).toBe('zfs-dkms 2.1.11-1+deb12u1');
  });

  test('refuses what is not the file that the index promises', async () => {
    files.set('/debian/pool/zfs-dkms_2.1.11-1+deb12u1_all.deb', Buffer.from('zfs-dkms 6.6.66-6+deb12u6'));
    expect(await refusal(fetch('zfs-dkms'), 'transient')).toContain('not the file that was promised');
    files.set('/debian/pool/zfs-dkms_2.1.11-1+deb12u1_all.deb', Buffer.alloc(4096));
    expect(await refusal(fetch('zfs-dkms'), 'transient')).toContain('more than it should');
    files.delete('/debian/pool/zfs-dkms_2.1.11-1+deb12u1_all.deb');
    expect(await refusal(fetch('zfs-dkms'), 'transient')).toContain('the mirror changed');
  });

  test('trusts no index whose signature was not checked', async () => {
    expect(await find('zfs-dkms', undefined, { keyring: false })).toContain('2.1.11');
    const missing = join(cacheDir, 'missing.gpg');
    const before = requests.length;
    expect(await refusal(fetch('zfs-dkms', { keyring: missing }), 'host')).toContain('gpgv');
    expect(requests.slice(before).filter((url) => url.includes('/pool/'))).toEqual([]);
  });
});
