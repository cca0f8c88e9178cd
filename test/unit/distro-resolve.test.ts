import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import * as openpgp from 'openpgp';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { listKernels } from '../../src/distro/apt-index.js';
import { parsePackages } from '../../src/distro/apt-packages.js';
import { releaseOfKernelPackages } from '../../src/distro/kernel-package.js';
import { availableKernels, offeredKernels } from '../../src/distro/kernels.js';
import { nearest } from '../../src/distro/nearest.js';
import { resolveKernels, type ResolveOptions } from '../../src/distro/resolve.js';
import type { DistroRow } from '../../src/distro/row.js';

let server: Server;
let origin: string;
let cacheDir: string;
/** Path to body, or to a status code. */
let files: Map<string, Buffer | number>;
let requests: string[];

beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push(request.url!);
    const body = files.get(decodeURIComponent(request.url!)) ?? 404;
    if (typeof body === 'number') response.writeHead(body).end();
    else response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());
beforeEach(async () => {
  cacheDir = await mkdtemp(join(tmpdir(), 'index-'));
  files = new Map();
  requests = [];
  live();
});
// Look-ups beside one that is refused may still write.
afterEach(() => rm(cacheDir, { recursive: true, force: true, maxRetries: 5 }));

const image = (release: string, version: string, suffix = ''): string =>
  `Package: linux-image-${release}${suffix}\nSource: linux\nVersion: ${version}\nArchitecture: amd64\n` +
  `Depends: kmod, linux-base (>= 4.3~), initramfs-tools\nDescription: Linux\n` +
  (release === HEADLESS ? '' : `\nPackage: linux-headers-${release}\nVersion: ${version}\n`);
/** Only its image is there. */
const HEADLESS = '6.12.94+deb12-amd64';
const meta = (name: string, release: string, version: string): string =>
  `Package: linux-image-${name}\nVersion: ${version}\nDepends: linux-image-${release} (= ${version})\n`;

/** Puts one suite where a mirror has it. `compress` decides which file is there besides its checksum. */
function suite(
  root: string,
  name: string,
  stanzas: string[],
  { compress = 'gz', byHash = true }: { compress?: 'gz' | 'xz'; byHash?: boolean } = {},
): string {
  const text = Buffer.from(['Package: bash\nVersion: 5.2\n', ...stanzas].join('\n'));
  const packed = compress === 'gz' ? gzipSync(text) : execFileSync('xz', ['-c'], { input: text });
  const hash = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
  const base = `${root}/dists/${name}`;
  const release =
    `Origin: Debian\nSuite: ${name}\n${byHash ? 'Acquire-By-Hash: yes\n' : ''}MD5Sum:\n 00 1 main/binary-amd64/Packages.${compress}\n` +
    `SHA256:\n ${hash(text)} ${text.length} main/binary-amd64/Packages\n` +
    ` ${hash(packed)} ${packed.length} main/binary-amd64/Packages.${compress}\n`;
  files.set(`${base}/InRelease`, Buffer.from(release));
  files.set(
    `${base}/main/binary-amd64/${byHash ? `by-hash/SHA256/${hash(packed)}` : `Packages.${compress}`}`,
    packed,
  );
  return release;
}

/** Shaped like the live archive: security carries a second series, backports a newer default. */
function live(): void {
  suite('/debian', 'bookworm', [
    image('6.1.0-47-amd64', '6.1.170-3'),
    image('6.1.0-47-cloud-amd64', '6.1.170-3'),
    image('6.1.0-47-amd64', '6.1.170-3', '-unsigned'),
    image('6.1.0-47-amd64', '6.1.170-3', '-dbg'),
    meta('amd64', '6.1.0-47-amd64', '6.1.170-3'),
  ]);
  suite('/debian', 'bookworm-updates', []);
  suite(
    '/debian-security',
    'bookworm-security',
    [
      image('6.1.0-56-amd64', '6.1.192-2'),
      image('6.1.0-56-cloud-amd64', '6.1.192-2'),
      image('6.12.117+deb12-amd64', '6.12.117-1~deb12u1'),
      meta('amd64', '6.1.0-56-amd64', '6.1.192-2'),
      meta('6.12-amd64', '6.12.117+deb12-amd64', '6.12.117-1~deb12u1'),
    ],
    { compress: 'xz' },
  );
  suite(
    '/debian',
    'bookworm-backports',
    [
      image('6.12.95+deb12-amd64', '6.12.95-1~bpo12+1'),
      image(HEADLESS, '6.12.94-1~bpo12+1'),
      meta('amd64', '6.12.95+deb12-amd64', '6.12.95-1~bpo12+1'),
    ],
    { byHash: false },
  );
  suite('/debian', 'trixie', [
    image('6.12.117+deb13-amd64', '6.12.117-1'),
    meta('amd64', '6.12.117+deb13-amd64', '6.12.117-1'),
  ]);
  suite('/debian', 'forky', [
    image('7.2.12+deb14-amd64', '7.2.12-1'),
    image('7.2.11+deb14-amd64', '7.2.11-1'),
  ]);
  suite('/debian', 'sid', [image('7.2.13+deb14-amd64', '7.2.13-1'), image('7.2.11+deb14-amd64', '7.2.11-1')]);
}

const row = (id: string, codename: string, suites: DistroRow['suites']): DistroRow => ({
  id,
  codename,
  aliases: [codename],
  family: 'debian',
  version: id.slice(7),
  mirrors: { main: 'http://unused.invalid/debian' },
  suites,
  arch: { x86_64: { defaultKernel: 'linux-image-amd64' } },
  archives: [{ kind: 'snapshot', url: 'http://unused.invalid' }],
});
const rows = [
  row('debian-12', 'bookworm', [
    { name: 'bookworm', role: 'release', mirror: 'main' },
    { name: 'bookworm-updates', role: 'updates', mirror: 'main' },
    { name: 'bookworm-security', role: 'security', mirror: 'security' },
    { name: 'bookworm-backports', role: 'backports', mirror: 'main' },
  ]),
  row('debian-13', 'trixie', [
    { name: 'trixie', role: 'release', mirror: 'main' },
    { name: 'trixie-security', role: 'security', mirror: 'security' },
  ]),
  row('debian-forky', 'forky', [{ name: 'forky', role: 'release', mirror: 'main' }]),
  row('debian-sid', 'sid', [{ name: 'sid', role: 'release', mirror: 'main' }]),
];

const options = (more: Partial<ResolveOptions> = {}): ResolveOptions => ({
  cacheDir,
  mirror: `${origin}/debian`,
  archiveUrl: `${origin}/snapshot`,
  keyring: false,
  proxy: '',
  hostDistro: null,
  ...more,
});
const resolve = async (wanted: string[], more?: Partial<ResolveOptions>): Promise<string[]> =>
  (await resolveKernels(wanted, rows, options(more))).map((t) => `${t.distro} ${t.release} ${t.suite}`);
async function refused(wanted: string[], more: Partial<ResolveOptions>, fault: string): Promise<string> {
  try {
    await resolve(wanted, more);
  } catch (error) {
    expect(error).toMatchObject({ fault });
    const { message, hint } = error as { message: string; hint?: string };
    return `${message}\n${hint ?? ''}`;
  }
  throw new Error('was not refused');
}

test('exact releases, in the order asked for, with their package version and suite', async () => {
  expect(await resolveKernels(['6.12.95+deb12-amd64', '6.1.0-56-amd64'], rows, options())).toEqual([
    {
      release: '6.12.95+deb12-amd64',
      distro: 'debian-12',
      arch: 'x86_64',
      packageVersion: '6.12.95-1~bpo12+1',
      suite: 'bookworm-backports',
    },
    {
      release: '6.1.0-56-amd64',
      distro: 'debian-12',
      arch: 'x86_64',
      packageVersion: '6.1.192-2',
      suite: 'bookworm-security',
    },
  ]);
});

test('latest is what the default metapackage wants, not the newest image', async () => {
  expect(await resolve([], { distro: 'bookworm' })).toEqual(['debian-12 6.1.0-56-amd64 bookworm-security']);
  expect(await resolve([], { hostDistro: 'debian-12' })).toEqual([
    'debian-12 6.1.0-56-amd64 bookworm-security',
  ]);
  expect(await resolve(['latest'], { hostDistro: 'ubuntu-24.04' })).toEqual([
    'debian-13 6.12.117+deb13-amd64 trixie',
  ]);
});

test('a glob takes all that match, oldest first, and once', async () => {
  const both = ['debian-12 6.1.0-47-amd64 bookworm', 'debian-12 6.1.0-56-amd64 bookworm-security'];
  expect(await resolve(['6.1.0-??-amd64', '6.1.0-56-amd64'])).toEqual(both);
  expect(await resolve(['6.1.0-*-cloud-amd64'])).toHaveLength(2);
  expect(await resolve(['6.12.*+deb12-amd64'])).toHaveLength(2);
  expect(requests.filter((url) => url.includes('trixie'))).toEqual([]);
  expect(await refused(['6.1.0-9*-amd64'], {}, 'not-found')).toMatch(/No kernel matches.*bookworm-updates/s);
});

test('testing and unstable: the index tells them apart, or the user must', async () => {
  expect(await resolve(['7.2.13+deb14-amd64'])).toEqual(['debian-sid 7.2.13+deb14-amd64 sid']);
  expect(await resolve(['7.2.12+deb14-amd64'])).toEqual(['debian-forky 7.2.12+deb14-amd64 forky']);
  expect(await refused(['7.2.11+deb14-amd64'], {}, 'usage')).toMatch(
    /debian-forky, debian-sid\n.*--distro debian-sid/,
  );
  expect(await resolve(['7.2.11+deb14-amd64'], { distro: 'sid' })).toEqual([
    'debian-sid 7.2.11+deb14-amd64 sid',
  ]);
});

test('not found names every place tried and the nearest of the flavour', async () => {
  const text = await refused(['6.1.0-99-amd64'], {}, 'not-found');
  for (const place of [
    'bookworm (',
    'bookworm-updates (',
    'bookworm-security (',
    'bookworm-backports (',
    '/snapshot (',
  ]) {
    expect(text).toContain(place);
  }
  expect(text).toMatch(/Nearest that exist: 6\.1\.0-47-amd64, 6\.1\.0-56-amd64, /);
  expect(text).not.toContain('cloud');
  expect(await refused(['6.12.999+deb13-amd64'], {}, 'not-found')).toContain('the mirror has no such suite');
});

test('a kernel of another distro, and an unknown distro', async () => {
  expect(await refused(['6.12.117+deb13-amd64'], { distro: 'debian-12' }, 'usage')).toContain(
    'is a kernel of debian-13, not of debian-12',
  );
  expect(await refused(['6.1.0-56-amd64'], { distro: 'slackware' }, 'usage')).toContain(
    'No distro slackware',
  );
});

test('a kernel that left the mirror is found in the archive, in the suite that held it then', async () => {
  const stamp = '20240215T030405Z';
  const binary = '/snapshot/mr/binary/linux-image-6.1.0-18-amd64/';
  files.set(binary, Buffer.from(JSON.stringify({ result: [{ name: 'x', binary_version: '6.1.76-1' }] })));
  files.set(
    `${binary}6.1.76-1/binfiles?fileinfo=1`,
    Buffer.from(
      JSON.stringify({
        result: [
          { architecture: 'arm64', hash: 'aa' },
          { architecture: 'amd64', hash: 'bb' },
        ],
        fileinfo: {
          aa: [{ archive_name: 'debian', first_seen: '20200101T000000Z' }],
          bb: [{ archive_name: 'debian', first_seen: stamp }],
        },
      }),
    ),
  );
  suite(`/snapshot/archive/debian/${stamp}`, 'bookworm', [image('6.1.0-17-amd64', '6.1.69-1')]);
  suite(`/snapshot/archive/debian/${stamp}`, 'bookworm-proposed-updates', [
    image('6.1.0-18-amd64', '6.1.76-1'),
  ]);
  expect(await resolveKernels(['6.1.0-18-amd64'], rows, options())).toEqual([
    {
      release: '6.1.0-18-amd64',
      distro: 'debian-12',
      arch: 'x86_64',
      packageVersion: '6.1.76-1',
      suite: 'bookworm-proposed-updates',
      archive: { uri: `${origin}/snapshot/archive/debian/${stamp}/`, suite: 'bookworm-proposed-updates' },
    },
  ]);
});

test('an archive that cannot be reached is a place tried; a mirror that cannot is worth a retry', async () => {
  const closed = 'http://127.0.0.1:1';
  expect(await refused(['6.1.0-99-amd64'], { archiveUrl: closed }, 'not-found')).toMatch(
    /cannot be reached.*ECONNREFUSED/,
  );
  await refused(
    ['6.1.0-56-amd64'],
    { mirror: `${closed}/debian`, cacheDir: join(cacheDir, 'cold') },
    'transient',
  );
});

test('the index is cached for an hour, used offline at any age, and leaves no part files', async () => {
  await resolve(['6.1.0-56-amd64']);
  const count = requests.length;
  await resolve(['6.1.0-56-amd64']);
  expect(requests).toHaveLength(count);
  await resolve(['6.1.0-56-amd64'], { maxAge: 0 });
  expect(requests).toHaveLength(2 * count);
  files.clear();
  expect(await resolve(['6.1.0-56-amd64'], { offline: true, maxAge: 0 })).toHaveLength(1);
  expect(await refused(['6.12.117+deb13-amd64'], { offline: true }, 'not-found')).toContain('--offline');
  expect((await readdir(join(cacheDir, 'index'))).filter((name) => !name.endsWith('.json'))).toEqual([]);
});

test('a file that does not match its checksum is refused', async () => {
  for (const [path, body] of files)
    if (path.includes('/trixie/') && body instanceof Buffer && path.includes('by-hash'))
      files.set(path, Buffer.from('x'));
  expect(await refused(['6.12.117+deb13-amd64'], {}, 'transient')).toContain('checksum');
});

test('an aborted look-up is interrupted', async () => {
  const signal = AbortSignal.abort();
  await refused(['6.1.0-56-amd64'], { signal }, 'interrupted');
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
  const text = suite('/debian', 'trixie', [image('6.12.117+deb13-amd64', '6.12.117-1')]);
  const sign = async (signingKeys: openpgp.PrivateKey[]): Promise<string> =>
    openpgp.sign({ message: await openpgp.createCleartextMessage({ text }), signingKeys });
  const list = (): ReturnType<typeof listKernels> =>
    listKernels({
      mirror: `${origin}/debian`,
      suites: [{ name: 'trixie', mirror: 'main' }],
      arch: 'amd64',
      cacheDir,
      keyring,
      proxy: '',
      maxAge: 0,
    });
  const put = (body: string): unknown => files.set('/debian/dists/trixie/InRelease', Buffer.from(body));
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

test('nearest and available kernels, and names of kernel package files', async () => {
  expect(
    nearest(
      '6.1.0-5-amd64',
      [1, 2, 3, 4, 6, 7, 8, 90].map((n) => ({ release: `6.1.0-${n}-amd64` })),
      4,
    ),
  ).toEqual([3, 4, 6, 7].map((n) => `6.1.0-${n}-amd64`));
  expect((await availableKernels(rows[0]!, options())).map(({ release }) => release)).toEqual([
    '6.12.117+deb12-amd64',
    '6.12.95+deb12-amd64',
    '6.1.0-56-cloud-amd64',
    '6.1.0-56-amd64',
    '6.1.0-47-cloud-amd64',
    '6.1.0-47-amd64',
  ]);
  expect(
    releaseOfKernelPackages(
      [
        '/x/linux-headers-6.1.0-18-amd64_6.1.76-1_amd64.deb',
        'http://mirror.test/pool/linux-image-6.12.1%2Bdeb13-amd64_6.12.1-1_amd64.deb',
        './linux-image-6.1.0-18-amd64-unsigned_6.1.76-1_amd64.deb',
      ],
      'x86_64',
    ).map(({ release }) => release),
  ).toEqual(['6.12.1+deb13-amd64', '6.1.0-18-amd64']);
  expect(() =>
    releaseOfKernelPackages(['linux-headers-6.1.0-18-amd64_6.1.76-1_amd64.deb'], 'x86_64'),
  ).toThrow('kernel image');
  expect(
    parsePackages(Buffer.from('Package: x\nDescription: Package: linux-image-6.1.0-1-amd64\n'), 's').kernels,
  ).toEqual([]);
});

test('a kernel without headers is in no list, and who asks for it is told', async () => {
  expect((await availableKernels(rows[0]!, options())).map(({ release }) => release)).not.toContain(HEADLESS);
  expect((await offeredKernels(rows[0]!, options())).kernels).not.toContainEqual(
    expect.objectContaining({ release: HEADLESS }),
  );
  expect(await resolve(['6.12.9*+deb12-amd64'])).toEqual([
    'debian-12 6.12.95+deb12-amd64 bookworm-backports',
  ]);
  expect(await refused([HEADLESS], {}, 'not-found')).toMatch(/headers are gone.*bookworm-backports/s);
});

test('what is offered: each kernel once, and where the metapackages of all suites lead', async () => {
  const { kernels, heads } = await offeredKernels(rows[0]!, options());
  expect(kernels.filter(({ release }) => release === '6.1.0-56-amd64')).toMatchObject([
    { packageVersion: '6.1.192-2', suite: 'bookworm-security' },
  ]);
  expect(heads.sort()).toEqual([
    '6.1.0-47-amd64',
    '6.1.0-56-amd64',
    '6.12.117+deb12-amd64',
    '6.12.95+deb12-amd64',
  ]);
});
