import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { availableKernels } from '../../src/distro/kernels.js';
import { resolveKernels, type ResolveOptions } from '../../src/distro/resolve.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../../src/distro/catalogue.js';
import type { SigningKey } from '../../src/repo/index.js';
import { makeKey } from './repo-fixture.js';
import { FileServer, putRepo, sha256 } from './repo-server.js';

let server: FileServer;
let rows: CatalogueRow[];
let cacheDir: string;

beforeAll(async () => {
  [server, rows] = await Promise.all([new FileServer().open(), loadCatalogue()]);
});
afterAll(() => server.close());
beforeEach(async () => {
  cacheDir = await mkdtemp(join(tmpdir(), 'rpm-index-'));
  server.files.clear();
  server.requests.length = 0;
});
// What is refused may leave another repository's index on its way to the cache.
afterEach(() => rm(cacheDir, { recursive: true, force: true, maxRetries: 10 }));

const options = (more: Partial<ResolveOptions> = {}): ResolveOptions => ({
  cacheDir,
  mirror: server.origin,
  archiveUrl: `${server.origin}/old`,
  proxy: '',
  hostDistro: null,
  ...more,
});
const list = async (id: string): Promise<string[]> =>
  (await availableKernels(findRow(rows, id), options())).map(
    (k) => `${k.release} ${k.packageVersion} ${k.suite}`,
  );

describe('kernels of a row, newest first', () => {
  test('CentOS Stream: the image counts, what else is called kernel does not', async () => {
    putRepo(server, '/9-stream/BaseOS/x86_64/os', [
      { name: 'kernel-core', evr: '5.14.0-499.el9' },
      { name: 'kernel-core', evr: '5.14.0-503.el9' },
      { name: 'kernel', evr: '5.14.0-503.el9' },
      { name: 'kernel-headers', evr: '5.14.0-503.el9' },
      { name: 'kernel-core', evr: '5.14.0-504.el9', arch: 'i686' },
      { name: 'bash', evr: '5.1-1.el9' },
    ]);
    putRepo(server, '/9-stream/RT/x86_64/os', [{ name: 'kernel-rt-core', evr: '5.14.0-503.el9' }]);
    expect(await list('centos-stream-9')).toEqual([
      '5.14.0-503.el9.x86_64+rt 5.14.0-503.el9 rt',
      '5.14.0-503.el9.x86_64 5.14.0-503.el9 baseos',
      '5.14.0-499.el9.x86_64 5.14.0-499.el9 baseos',
    ]);
  });

  test('a variant that provides the plain kernel is not taken for it', async () => {
    const evr = '5.14.0-503.el9';
    putRepo(server, '/9-stream/RT/x86_64/os', [
      { name: 'kernel-rt-core', evr, unameR: '5.14.0-503.el9.x86_64' },
    ]);
    expect(await list('centos-stream-9')).toEqual([`${evr}.x86_64+rt ${evr} rt`]);
  });

  test('Fedora packs with zstd, updates come first', async () => {
    const core = (evr: string): { name: string; evr: string } => ({ name: 'kernel-core', evr });
    putRepo(server, '/linux/releases/43/Everything/x86_64/os', [core('6.17.1-300.fc43')], 'zst');
    putRepo(server, '/linux/updates/43/Everything/x86_64', [core('6.17.10-300.fc43')], 'xz');
    expect(await list('fedora-43')).toEqual([
      '6.17.10-300.fc43.x86_64 6.17.10-300.fc43 updates',
      '6.17.1-300.fc43.x86_64 6.17.1-300.fc43 fedora',
    ]);
    expect(await resolve(['latest'], { distro: 'fedora-43' })).toEqual(['fedora-43 6.17.10-300.fc43.x86_64']);
  });

  test('openSUSE: the build counter is no part of the release', async () => {
    putRepo(server, '/update/leap/15.6/sle', [
      { name: 'kernel-default', evr: '6.4.0-150600.23.25.1' },
      { name: 'kernel-default-base', evr: '6.4.0-150600.23.25.1.150600.12.11.2' },
      { name: 'kernel-devel', evr: '6.4.0-150600.23.25.2', arch: 'noarch' },
      { name: 'kernel-azure', evr: '6.4.0-150600.8.14.1' },
    ]);
    expect(await list('opensuse-leap-15.6')).toEqual([
      '6.4.0-150600.23.25-default 6.4.0-150600.23.25.1 update-sle',
      '6.4.0-150600.8.14-azure 6.4.0-150600.8.14.1 update-sle',
    ]);
  });

  test('Oracle: two kernels side by side; the default one is UEK', async () => {
    putRepo(server, '/OL9/baseos/latest/x86_64', [{ name: 'kernel-core', evr: '5.14.0-503.11.1.el9_5' }]);
    putRepo(server, '/OL9/UEKR7/x86_64', [
      { name: 'kernel-uek-core', evr: '5.15.0-302.167.6.el9uek' },
      { name: 'kernel-uek', evr: '5.15.0-302.167.6.el9uek' },
    ]);
    expect(await list('oracle-9')).toEqual([
      '5.15.0-302.167.6.el9uek.x86_64 5.15.0-302.167.6.el9uek uekr7',
      '5.14.0-503.11.1.el9_5.x86_64 5.14.0-503.11.1.el9_5 baseos',
    ]);
    expect(await resolve(['latest'], { distro: 'oracle-9' })).toEqual([
      'oracle-9 5.15.0-302.167.6.el9uek.x86_64',
    ]);
  });

  test('Amazon: the repository is named by a list, each series by a package', async () => {
    server.put('/core/mirrors/latest/x86_64/mirror.list', `${server.origin}/core/guids/abc/$basearch/\n`);
    putRepo(server, '/core/guids/abc/x86_64', [
      { name: 'kernel', evr: '6.1.112-122.189.amzn2023' },
      { name: 'kernel6.12', evr: '6.12.22-27.96.amzn2023' },
    ]);
    expect(await list('amazon-2023')).toEqual([
      '6.12.22-27.96.amzn2023.x86_64 6.12.22-27.96.amzn2023 amazonlinux',
      '6.1.112-122.189.amzn2023.x86_64 6.1.112-122.189.amzn2023 amazonlinux',
    ]);
  });

  test('the index is cached', async () => {
    putRepo(server, '/9/BaseOS/x86_64/os', [{ name: 'kernel-core', evr: '5.14.0-503.11.1.el9_5' }]);
    await list('rocky-9');
    server.files.clear();
    expect(await list('rocky-9')).toHaveLength(1);
  });
});

const resolve = async (wanted: string[], more?: Partial<ResolveOptions>): Promise<string[]> =>
  (await resolveKernels(wanted, rows, options(more))).map((t) => `${t.distro} ${t.release}`);

describe('a kernel asked for', () => {
  const core = (evr: string): { name: string; evr: string } => ({ name: 'kernel-core', evr });

  test('of several rebuilds must be said whose; a glob finds its family', async () => {
    // Rocky's and Alma's trees look alike from one server.
    putRepo(server, '/9/BaseOS/x86_64/os', [core('5.14.0-503.11.1.el9_5'), core('5.14.0-503.14.1.el9_5')]);
    await expect(resolve(['5.14.0-503.11.1.el9_5.x86_64'])).rejects.toMatchObject({
      fault: 'usage',
      hint: expect.stringMatching(/--distro alma-9 or --distro rocky-9/) as string,
    });
    expect(await resolve(['5.14.0-503.11.1.el9_5.x86_64'], { distro: 'rocky-9' })).toEqual([
      'rocky-9 5.14.0-503.11.1.el9_5.x86_64',
    ]);
    expect(await resolve(['5.14.0-503.*.el9_5.x86_64'], { distro: 'rocky-9' })).toHaveLength(2);
    await expect(resolve(['5.14.0-503.*.el9_5.x86_64'])).rejects.toMatchObject({ fault: 'usage' });
    expect(server.requests.filter((url) => url.includes('fedora') || url.includes('dists'))).toEqual([]);
  });
});

describe('a repository that the row pins a key for', () => {
  const at = '/tumbleweed/repo/oss';
  const key = `${at}/repodata/repomd.xml.key`;
  const signature = `${at}/repodata/repomd.xml.asc`;
  let tumbleweed: CatalogueRow;
  let own: SigningKey;
  let other: SigningKey;

  beforeAll(async () => {
    const folder = await mkdtemp(join(tmpdir(), 'rpm-index-key-'));
    own = (await makeKey(folder)).key!;
    other = (await makeKey(folder)).key!;
    await rm(folder, { recursive: true });
    // As the catalogue has it, but for the fingerprint: nobody here can sign with openSUSE's key.
    tumbleweed = structuredClone(findRow(rows, 'tumbleweed'));
    tumbleweed.repos[0]!.key!.keyFingerprint = own.fingerprint;
  });

  beforeEach(() => {
    putRepo(server, at, [{ name: 'kernel-default', evr: '6.15.3-1.1' }]);
    server.put(key, own.publicKey);
  });

  const sign = async (by: SigningKey): Promise<void> => {
    const repomd = server.files.get(`${at}/repodata/repomd.xml`)!.toString();
    server.put(signature, await by.detachSign(repomd));
  };
  const kernels = async (row = tumbleweed): Promise<string[]> =>
    (await availableKernels(row, options())).map(({ release }) => release);

  test('is read when the key signed its repomd.xml', async () => {
    await sign(own);
    expect(await kernels()).toEqual(['6.15.3-1-default']);
  });

  test('is refused, by URL and key, when another key did, and when repomd.xml changed since', async () => {
    await sign(other);
    const bad = {
      fault: 'transient',
      message: expect.stringMatching(
        `^${server.origin}${at}/repodata/repomd.xml has no good signature by ${own.fingerprint}`,
      ) as string,
    };
    await expect(kernels()).rejects.toMatchObject(bad);
    await sign(own);
    putRepo(server, at, [{ name: 'kernel-default', evr: '6.66.6-1.1' }]);
    await expect(kernels()).rejects.toMatchObject(bad);
  });

  test('is refused without a signature, and when the key is another one', async () => {
    await expect(kernels()).rejects.toMatchObject({
      message: `${server.origin}${signature} is missing, so ${own.fingerprint} does not vouch for ${server.origin}${at}/repodata/repomd.xml`,
    });
    await rm(join(cacheDir, 'keys'), { recursive: true });
    await sign(other);
    server.put(key, other.publicKey);
    await expect(kernels()).rejects.toMatchObject({
      message: `${server.origin}${key} holds ${other.fingerprint}, not the pinned key ${own.fingerprint}`,
    });
  });

  test('is not taken from an index that was read before the row pinned a key', async () => {
    const { key: _, ...unsigned } = tumbleweed.repos[0]!;
    expect(await kernels({ ...tumbleweed, repos: [unsigned] })).toHaveLength(1);
    await expect(kernels()).rejects.toThrow(/is missing/);
  });
});

describe('what is refused', () => {
  const at = '/9/BaseOS/x86_64/os';
  const refused = async (): Promise<unknown> => list('rocky-9').catch((error: unknown) => error);

  test('metadata that are not the ones repomd.xml promises', async () => {
    putRepo(server, at, [{ name: 'kernel-core', evr: '5.14.0-1.el9_5' }]);
    const primary = [...server.files.keys()].find((path) => path.includes('primary'))!;
    server.put(primary, gzipSync('<metadata/>'));
    expect(await refused()).toMatchObject({ fault: 'transient' });
    server.files.delete(primary);
    expect(await refused()).toMatchObject({ message: expect.stringContaining('is missing') as string });
  });

  test.each([
    ['no XML', 'nothing here'],
    [
      'a way out of the repository',
      '<repomd><data type="primary"><checksum type="sha256">00</checksum><location href="../../x"/></data></repomd>',
    ],
    [
      'a weak checksum',
      '<repomd><data type="primary"><checksum type="sha1">00</checksum><location href="x"/></data></repomd>',
    ],
  ])('%s', async (_what, text) => {
    server.put(`${at}/repodata/repomd.xml`, text);
    expect(await refused()).toMatchObject({ fault: 'transient' });
  });

  test('a package whose place is not fit for a URL is passed over, and broken XML is an error', async () => {
    const primary = (body: string): void => {
      const packed = gzipSync(`<metadata>${body}</metadata>`);
      server.put(`${at}/primary.xml.gz`, packed);
      server.put(
        `${at}/repodata/repomd.xml`,
        `<repomd><data type="primary"><checksum type="sha256">${sha256(packed)}</checksum><location href="primary.xml.gz"/></data></repomd>`,
      );
    };
    const rpm = (href: string): string =>
      `<package><name>kernel-core</name><arch>x86_64</arch><version epoch="0" ver="5.14.0" rel="1.el9_5"/>` +
      `<checksum type="sha256">${'a'.repeat(64)}</checksum><location href="${href}"/></package>`;
    primary(rpm('../../etc/passwd'));
    expect(await refused()).toEqual([]);
    await rm(join(cacheDir, 'index'), { recursive: true });
    primary('<package><name>kernel-core</arch>');
    expect(await refused()).toMatchObject({
      fault: 'transient',
      message: expect.stringMatching(/XML/) as string,
    });
  });
});
