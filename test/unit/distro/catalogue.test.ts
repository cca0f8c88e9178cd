/* oxlint-disable typescript/no-explicit-any, typescript/no-unsafe-member-access, typescript/no-unsafe-return, typescript/no-unsafe-call, typescript/no-unsafe-assignment --
   rows are broken here on purpose, as plain data */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { PACKAGE_ROOT } from '../../../src/lib/paths.js';
import { kernelPackages } from '../../../src/distro/packages.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../../../src/distro/catalogue.js';
import { cpuLevelOf } from '../../../src/distro/row.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'catalogue-'));
});
afterEach(() => rm(dir, { recursive: true }));

interface Loose {
  family: string;
  rows: Record<string, any>[];
}

/** The shipped Debian file as plain data, to break or to extend. */
async function debian(): Promise<Loose> {
  const text = await readFile(join(PACKAGE_ROOT, 'images', 'debian.yaml'), 'utf8');
  const plain = JSON.stringify(parse(text, { merge: true }));
  const { family, rows } = JSON.parse(plain) as Loose;
  return { family, rows };
}

async function load(content: unknown): ReturnType<typeof loadCatalogue> {
  await writeFile(join(dir, 'test.yaml'), stringify(content));
  return loadCatalogue(dir);
}

it("takes a folder of the user's own rows besides, and a row in both for a mistake", async () => {
  const [row] = (await debian()).rows;
  const own = { ...row, id: 'rig', aliases: [] };
  await writeFile(join(dir, 'test.yaml'), stringify({ family: 'debian', rows: [own] }));
  process.env.DKMS2BIN_CATALOGUE = dir;
  try {
    const rows = await loadCatalogue();
    expect(findRow(rows, 'rig').file).toBe(join(dir, 'test.yaml'));
    expect(findRow(rows, 'debian-12').file).not.toContain(dir);
    await writeFile(join(dir, 'test.yaml'), stringify({ family: 'debian', rows: [row] }));
    await expect(loadCatalogue()).rejects.toThrow('already names');
  } finally {
    delete process.env.DKMS2BIN_CATALOGUE;
  }
});

it('names a file or folder that cannot be read', async () => {
  await mkdir(join(dir, 'test.yaml'));
  for (const path of [dir, join(dir, 'none')]) {
    await expect(loadCatalogue(path)).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringContaining(`Cannot read the image catalogue ${path}`) as string,
    });
  }
});

describe('the shipped catalogue', () => {
  let rows: CatalogueRow[];
  beforeAll(async () => void (rows = await loadCatalogue()));

  it('fills Debian rows in', () => {
    const bookworm = findRow(rows, 'bookworm');
    expect(bookworm).toBe(findRow(rows, 'debian-12'));
    expect(new URL(bookworm.arch.x86_64.image.url).pathname).toBe(
      '/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2',
    );
    expect(bookworm).toMatchObject({ proposed: 'bookworm-proposed-updates', next: 'debian-13' });
    expect(bookworm.suites.map((s) => s.name)).toEqual([
      'bookworm',
      'bookworm-updates',
      'bookworm-security',
      'bookworm-backports',
    ]);
    expect(kernelPackages(bookworm, '6.1.0-56-amd64').headers).toContain('linux-headers-6.1.0-56-amd64');
    expect(findRow(rows, 'bullseye').bootstrap?.includes).toContain('ifupdown');
    expect(bookworm.bootstrap?.includes).not.toContain('ifupdown');
    expect(new URL(findRow(rows, 'sid').arch.x86_64.image.url).pathname).toBe(
      '/images/cloud/sid/daily/latest/debian-sid-genericcloud-amd64-daily.qcow2',
    );
    expect(JSON.stringify(rows.map((r) => [r.arch, r.mirrors, r.suites]))).not.toMatch(/[{]\w+[}]/);
  });

  it("has images of aarch64 in every row but those whose distros have none for QEMU's board", () => {
    const without = rows.filter((row) => !row.arch.aarch64).map(({ id }) => id);
    expect(without).toEqual(['centos-7', 'ubuntu-14.04']);
    for (const { arch } of rows) {
      expect(arch.x86_64.image.url).not.toMatch(/arm64|aarch64/);
      if (!arch.aarch64) continue;
      expect(arch.aarch64.image.url).toMatch(/arm64|aarch64/);
      expect(arch.aarch64.image.url + arch.aarch64.image.sums.url).not.toMatch(/amd64|x86_64/);
      expect(JSON.stringify(arch.aarch64)).not.toContain('amd64');
    }
  });

  it('says which distros there are', () => {
    expect(() => findRow(rows, 'hurd')).toThrow(expect.objectContaining({ fault: 'usage' }));
  });
});

describe('a catalogue file', () => {
  it.each<[string, (row: Record<string, any>) => void, RegExp]>([
    ['an unknown field', (r) => (r.colour = 'red'), /test\.yaml: row debian-12: .*colour/],
    ['a number for the version', (r) => (r.version = 12), /row debian-12: version:/],
    [
      'a bad URL',
      (r) => (r.arch.x86_64.image.url = 'ftp://x/y'),
      /row debian-12: arch\.x86_64\.image\.url: must be/,
    ],
    [
      'a misspelt placeholder',
      (r) => (r.arch.x86_64.image.sums.url = 'https://x/{codname}/S'),
      /row debian-12: arch\.x86_64\.image\.sums\.url: unknown placeholder \{codname\}/,
    ],
    [
      'a short pin',
      (r) => (r.arch.x86_64.image.digest = 'sha512:abc'),
      /arch\.x86_64\.image\.digest: sha512/,
    ],
    [
      'a short fingerprint',
      (r) =>
        (r.arch.x86_64.image.signature = {
          kind: 'detached',
          url: 'https://x/S',
          keyFile: 'k',
          keyFingerprint: 'AB',
        }),
      /arch\.x86_64\.image\.signature\.keyFingerprint: a full fingerprint/,
    ],
    [
      'a signature without a key',
      (r) => (r.arch.x86_64.image.signature = { kind: 'clearsigned', keyFingerprint: 'A'.repeat(40) }),
      /arch\.x86_64\.image\.signature: keyFile or keyUrl is missing/,
    ],
    [
      'an aarch64 that boots by BIOS',
      (r) => (r.arch.aarch64.firmware = 'bios'),
      /row debian-12: arch\.aarch64\.firmware:/,
    ],
    [
      'a * in a folder',
      (r) => (r.arch.x86_64.image.url = 'https://x/*/y.qcow2'),
      /arch\.x86_64\.image\.url: one \*/,
    ],
    [
      'a package of an unknown placeholder',
      (r) => r.packages.headers.push('linux-headers-{flavor}'),
      /packages\.headers: unknown placeholder \{flavor\}/,
    ],
    ['no place to list kernels from', (r) => (r.packageManager = 'dnf'), /repos: must not be empty/],
    [
      'a security suite without mirror',
      (r) => delete r.mirrors.security,
      /suites\.2\.mirror: the row has no/,
    ],
    [
      'a release to follow that there is none of',
      (r) => (r.next = 'debian-99'),
      /debian-12: next: there is no row debian-99/,
    ],
    [
      'a misspelt suite of what is proposed',
      (r) => (r.proposed = '{codname}-x'),
      /row debian-12: proposed: unknown/,
    ],
    [
      'a taken alias',
      (r) => r.aliases.push('sid'),
      /aliases: sid already names debian-sid|sid already names debian-12/,
    ],
  ])('names file, row and field of %s', async (_what, breakIt, message) => {
    const content = await debian();
    breakIt(content.rows.find((r) => r.id === 'debian-12')!);
    await expect(load(content)).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringMatching(message) as string,
    });
  });

  it('reports a row without an id by its number, and all mistakes at once', async () => {
    const content = await debian();
    delete content.rows[1]!.id;
    content.rows[2]!.user = 'No Such';
    const error = await load(content).then(
      () => '',
      (e: Error) => e.message,
    );
    expect(error).toMatch(/row #2: id:/);
    expect(error).toMatch(/row debian-13: user:/);
  });

  it('reports broken YAML with its line', async () => {
    await writeFile(join(dir, 'broken.yaml'), 'family: debian\nrows: [\n');
    await expect(loadCatalogue(dir)).rejects.toThrow(/broken\.yaml: .*line/s);
  });

  it('fits Ubuntu and the RPM family', async () => {
    const { rows } = await debian();
    const sid = rows.find((r) => r.id === 'debian-sid')!;
    const key = { keyFingerprint: 'D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81', keyFile: 'keys/u.asc' };
    const url = 'https://images.{domain}/{codename}/{arch}.img';
    const image = (form: string, signature: object): object => ({
      url,
      sums: { url: `${url}.sums`, form },
      signature,
    });
    const [trusty] = await load({
      family: 'ubuntu',
      rows: [
        {
          ...sid,
          id: 'ubuntu-14.04',
          aliases: ['trusty'],
          domain: 'example.org',
          codename: 'trusty',
          version: '14.04',
          arch: {
            x86_64: {
              ...sid.arch.x86_64,
              kernelFlavours: ['generic', 'lowlatency'],
              image: image('sha256sums', { kind: 'detached', url: `${url}.gpg`, ...key }),
            },
          },
          packages: {
            image: ['linux-image-{release}'],
            headers: ['linux-headers-{release}', '{source}-headers-{abi}'],
            extra: ['linux-image-extra-{release}'],
          },
          archives: [{ kind: 'launchpad', url: 'https://lp.{domain}', api: 'https://api.{domain}' }],
          seed: { quirks: ['cloud-init-0.7'] },
        },
      ],
    });
    expect(trusty!.arch.x86_64.image.signature).toMatchObject({ keyFile: join(dir, 'keys/u.asc') });
    const { bootstrap: _none, archives: _gone, components: _no, suites: _not, ...rest } = sid;
    const [fedora] = await load({
      family: 'fedora',
      rows: [
        {
          ...rest,
          id: 'fedora-42',
          aliases: [],
          domain: 'example.org',
          packageManager: 'dnf',
          arch: {
            x86_64: {
              firmware: 'uefi',
              cpuLevel: 3,
              defaultKernel: 'kernel-core',
              kernelFlavours: [''],
              image: image('bsd-checksum', { kind: 'clearsigned', ...key }),
            },
          },
          repos: [{ name: 'fedora', url: '{mirror}/releases/{version}/{arch}/os' }],
          packages: { image: ['kernel-core'], headers: ['kernel-devel'] },
        },
      ],
    });
    expect(fedora).toMatchObject({ suites: [], packages: { extra: [] }, seed: { quirks: [] } });
    expect(fedora!.repos[0]!.url).toBe(`{mirror}/releases/${fedora!.version}/{arch}/os`);
  });
});

it.each([
  ['debian-13', '6.12.90+deb13-amd64', 1],
  ['xanmod', '6.12.9-x64v1-xanmod1', 1],
  ['xanmod', '6.12.9-x64v3-xanmod1', 3],
  ['alma-10', '6.12.0-55.9.1.el10_0.x86_64', 3],
])('%s, kernel %s: x86-64-v%i', async (id, release, level) => {
  expect(cpuLevelOf(findRow(await loadCatalogue(), id), release)).toBe(level);
});
