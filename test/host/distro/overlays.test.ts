import { loadConfig } from '../../../src/options/config.js';
import { optionsOf } from '../../../src/options/merge.js';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import * as openpgp from 'openpgp';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { catalogueOf, findRow, loadCatalogue, type CatalogueRow } from '../../../src/distro/catalogue.js';
import { offeredKernels } from '../../../src/distro/kernels.js';
import { resolveKernels, type ResolveOptions } from '../../../src/distro/resolve.js';
import { FileServer, putRepo, sha256 } from '../../unit/fixtures/file-server.js';

let server: FileServer;
let cacheDir: string;
let catalogue: CatalogueRow[];
let signer: openpgp.PrivateKey;
beforeAll(async () => {
  server = await new FileServer().open();
  catalogue = await loadCatalogue();
  const { privateKey } = await openpgp.generateKey({
    userIDs: [{ name: 'kernels' }],
    type: 'rsa',
    rsaBits: 2048,
    format: 'object',
  });
  signer = privateKey;
});
afterAll(() => server.close());
beforeEach(async () => void (cacheDir = await mkdtemp(join(tmpdir(), 'overlays-'))));
afterEach(() => rm(cacheDir, { recursive: true, force: true, maxRetries: 5 }));

/** The catalogue's own row with its repositories on the test's server, signed by the test's key. */
async function served(row: CatalogueRow, key = signer): Promise<CatalogueRow> {
  if (!row.overlay) return row;
  const fingerprint = key.getFingerprint().toUpperCase();
  const keyFile = join(cacheDir, 'key.asc');
  await writeFile(keyFile, signer.toPublic().armor());
  return {
    ...row,
    archives: row.archives.map((archive) =>
      archive.kind === 'mainline'
        ? { ...archive, url: archive.url.replace(/^https?:\/\/[^/]+/, server.origin) }
        : archive,
    ),
    overlay: {
      ...row.overlay,
      key: { keyFingerprint: fingerprint, keyFile },
      repositories: row.overlay.repositories.map((each) => ({
        ...each,
        url: each.url.replace(/^https?:\/\/[^/]+/, server.origin),
      })),
    },
  };
}

const allServed = (): Promise<CatalogueRow[]> => Promise.all(catalogue.map((row) => served(row)));

/** A suite as a repository has it, signed. */
async function suite(place: readonly string[], packages: string[]): Promise<void> {
  const [folder = '', name = '', component = '', arch = ''] = place;
  const text = packages.join('\n');
  const packed = gzipSync(text);
  const release =
    `Origin: kernels\nSuite: ${name}\nSHA256:\n` +
    ` ${sha256(packed)} ${packed.length} ${component}/binary-${arch}/Packages.gz\n`;
  const message = await openpgp.createCleartextMessage({ text: release });
  const signed = await openpgp.sign({ message, signingKeys: signer });
  server.put(`${folder}/dists/${name}/InRelease`, signed);
  server.put(`${folder}/dists/${name}/${component}/binary-${arch}/Packages.gz`, packed);
}

const stanza = (name: string, version: string, depends = ''): string =>
  `Package: ${name}\nVersion: ${version}\nArchitecture: amd64\n${depends && `Depends: ${depends}\n`}Description: of a kernel\n`;

const PROXMOX = [
  stanza('proxmox-kernel-7.0.14-14-pve-signed', '7.0.14-14'),
  stanza('proxmox-kernel-7.0.14-14-pve', '7.0.14-14'),
  stanza('proxmox-kernel-7.0.14-14-pve-signed-template', '7.0.14-14'),
  stanza('proxmox-headers-7.0.14-14-pve', '7.0.14-14'),
  stanza('proxmox-kernel-6.14.11-4-pve', '6.14.11-4'),
  stanza('proxmox-headers-6.14.11-4-pve', '6.14.11-4'),
  stanza('proxmox-kernel-6.17.2-1-pve-signed', '6.17.2-1'),
  stanza(
    'proxmox-kernel-7.0',
    '7.0.14-14',
    'proxmox-kernel-7.0.14-14-pve-signed | proxmox-kernel-7.0.14-14-pve, pve-firmware',
  ),
  stanza('proxmox-headers-7.0', '7.0.14-14', 'proxmox-headers-7.0.14-14-pve'),
  stanza('proxmox-default-kernel', '2.0.1', 'proxmox-kernel-7.0'),
  stanza('pve-manager', '9.2', 'proxmox-kernel-helper'),
];

const options = (more: Partial<ResolveOptions> = {}): ResolveOptions => ({
  ...{ cacheDir, proxy: '', maxAge: 0, hostDistro: null },
  ...more,
});

const resolved = async (wanted: string[], more: Partial<ResolveOptions> = {}): Promise<string[]> =>
  (await resolveKernels(wanted, await allServed(), options(more))).map(
    ({ distro, release, packageVersion }) => `${distro} ${release} ${packageVersion ?? ''}`,
  );

describe('Proxmox VE', () => {
  beforeEach(async () => {
    await suite(['/debian/pve', 'trixie', 'pve-no-subscription', 'amd64'], PROXMOX);
    await suite(
      ['/debian/pve', 'bookworm', 'pve-no-subscription', 'amd64'],
      [
        stanza('pve-kernel-6.2.16-3-pve', '6.2.16-3'),
        stanza('pve-headers-6.2.16-3-pve', '6.2.16-3'),
        stanza('proxmox-kernel-6.8.12-4-pve-signed', '6.8.12-4'),
        stanza('proxmox-headers-6.8.12-4-pve', '6.8.12-4'),
        stanza('proxmox-kernel-6.14.8-2-bpo12-pve-signed', '6.14.8-2~bpo12+1'),
        stanza('proxmox-headers-6.14.8-2-bpo12-pve', '6.14.8-2~bpo12+1'),
      ],
    );
  });

  test('kernels with headers, and the metapackages that lead to them', async () => {
    const row = findRow(await allServed(), 'proxmox-9');
    const { kernels, metas, heads } = await offeredKernels(row, options());
    expect(kernels.map(({ release, flavour }) => `${release} ${flavour}`).sort()).toEqual([
      '6.14.11-4-pve pve',
      '7.0.14-14-pve pve',
    ]);
    expect(metas.map(({ name, release }) => `${name} ${release}`).sort()).toEqual([
      'proxmox-default-kernel 7.0.14-14-pve',
      'proxmox-kernel-7.0 7.0.14-14-pve',
    ]);
    expect(heads).toEqual(['7.0.14-14-pve']);
  });

  test('a release, a pattern and latest find their row', async () => {
    expect(await resolved(['6.8.12-4-pve'])).toEqual(['proxmox-8 6.8.12-4-pve 6.8.12-4']);
    expect(await resolved(['6.2.16-3-pve'])).toEqual(['proxmox-8 6.2.16-3-pve 6.2.16-3']);
    expect(await resolved(['6.14.8-2-bpo12-pve'])).toEqual(['proxmox-8 6.14.8-2-bpo12-pve 6.14.8-2~bpo12+1']);
    expect(await resolved(['*-pve'], { distro: 'proxmox-9' })).toEqual([
      'proxmox-9 6.14.11-4-pve 6.14.11-4',
      'proxmox-9 7.0.14-14-pve 7.0.14-14',
    ]);
    expect(await resolved(['7.0.*-pve'])).toEqual(['proxmox-9 7.0.14-14-pve 7.0.14-14']);
    expect(await resolved(['latest'], { distro: 'pve-9' })).toEqual(['proxmox-9 7.0.14-14-pve 7.0.14-14']);
    // The distro that it stands on means it, too.
    expect(await resolved(['6.8.12-4-pve'], { distro: 'debian-12' })).toEqual([
      'proxmox-8 6.8.12-4-pve 6.8.12-4',
    ]);
  });

  test('a repository that another key has signed is refused, and so is a key of another fingerprint', async () => {
    const { privateKey: other } = await openpgp.generateKey({
      userIDs: [{ name: 'other' }],
      format: 'object',
    });
    const row = await served(findRow(catalogue, 'proxmox-9'), other);
    await expect(offeredKernels(row, options())).rejects.toMatchObject({
      fault: 'host',
      message: expect.stringContaining('not the pinned key') as string,
    });
    const keyFile = join(cacheDir, 'other.asc');
    await writeFile(keyFile, other.toPublic().armor());
    const key = { keyFingerprint: other.getFingerprint().toUpperCase(), keyFile };
    const wrong = { ...row, overlay: { ...row.overlay!, key } };
    await expect(offeredKernels(wrong, options())).rejects.toMatchObject({
      fault: 'host',
      message: expect.stringContaining('does not verify') as string,
    });
  });
});

test.each([
  {
    of: ['raspios-13', '/debian', 'trixie', 'main', 'arm64'],
    packages: [
      stanza('linux-image-6.12.47+rpt-rpi-v8', '1:6.12.47-1+rpt1', 'kmod, linux-base'),
      stanza(
        'linux-headers-6.12.47+rpt-rpi-v8',
        '1:6.12.47-1+rpt1',
        'linux-headers-6.12.47+rpt-common-rpi, linux-kbuild-6.12.47+rpt',
      ),
      stanza('linux-headers-6.12.47+rpt-common-rpi', '1:6.12.47-1+rpt1'),
      stanza('linux-image-6.12.47+rpt-rpi-2712', '1:6.12.47-1+rpt1'),
      stanza('linux-headers-6.12.47+rpt-rpi-2712', '1:6.12.47-1+rpt1'),
      stanza('linux-image-6.12.47+rpt-rpi-v8-dbg', '1:6.12.47-1+rpt1'),
      stanza('linux-image-rpi-v8', '1:6.12.47-1+rpt1', 'linux-image-6.12.47+rpt-rpi-v8 (= 1:6.12.47-1+rpt1)'),
    ],
    latest: '6.12.47+rpt-rpi-v8',
    flavours: ['rpi-2712', 'rpi-v8'],
  },
  {
    of: ['kali-rolling', '/kali', 'kali-rolling', 'main', 'amd64'],
    packages: [
      stanza('linux-image-6.12.25+kali-amd64', '6.12.25-1kali1'),
      stanza('linux-headers-6.12.25+kali-amd64', '6.12.25-1kali1'),
      stanza('linux-image-amd64', '6.12.25-1kali1', 'linux-image-6.12.25+kali-amd64 (= 6.12.25-1kali1)'),
    ],
    latest: '6.12.25+kali-amd64',
    flavours: ['amd64'],
  },
  {
    of: ['xanmod', '', 'trixie', 'main', 'amd64'],
    packages: [
      stanza('linux-image-6.12.9-x64v3-xanmod1', '6.12.9-x64v3-xanmod1-0~20250110'),
      stanza('linux-headers-6.12.9-x64v3-xanmod1', '6.12.9-x64v3-xanmod1-0~20250110'),
      stanza('linux-image-6.12.9-x64v2-xanmod1', '6.12.9-x64v2-xanmod1-0~20250110'),
      stanza('linux-headers-6.12.9-x64v2-xanmod1', '6.12.9-x64v2-xanmod1-0~20250110'),
      stanza(
        'linux-xanmod-x64v3',
        '6.12.9-xanmod1-0',
        'linux-image-6.12.9-x64v3-xanmod1, linux-headers-6.12.9-x64v3-xanmod1',
      ),
    ],
    latest: '6.12.9-x64v3-xanmod1',
    flavours: ['x64v2-xanmod', 'x64v3-xanmod'],
  },
  {
    of: ['liquorix', '/debian', 'trixie', 'main', 'amd64'],
    packages: [
      stanza('linux-image-6.15.3-1-liquorix-amd64', '6.15-6ubuntu1~trixie'),
      stanza('linux-headers-6.15.3-1-liquorix-amd64', '6.15-6ubuntu1~trixie'),
      stanza('linux-image-liquorix-amd64', '6.15-6', 'linux-image-6.15.3-1-liquorix-amd64'),
    ],
    latest: '6.15.3-1-liquorix-amd64',
    flavours: ['liquorix-amd64'],
  },
  {
    of: ['zabbly', '/kernel/stable', 'trixie', 'main', 'amd64'],
    packages: [
      stanza('linux-image-6.12.9-zabbly+', '6.12.9-amd64-202501091956'),
      stanza('linux-headers-6.12.9-zabbly+', '6.12.9-amd64-202501091956'),
      stanza(
        'linux-zabbly',
        '6.12.9-amd64-202501091956',
        'linux-image-6.12.9-zabbly+, linux-headers-6.12.9-zabbly+',
      ),
    ],
    latest: '6.12.9-zabbly+',
    flavours: ['zabbly+'],
  },
  {
    of: ['pop-22.04', '/release', 'jammy', 'main', 'amd64'],
    packages: [
      stanza('linux-image-6.9.3-76060903-generic', '6.9.3-76060903.202405300957'),
      stanza(
        'linux-headers-6.9.3-76060903-generic',
        '6.9.3-76060903.202405300957',
        'linux-headers-6.9.3-76060903',
      ),
      stanza('linux-image-generic', '6.9.3.76060903', 'linux-image-6.9.3-76060903-generic, linux-firmware'),
    ],
    latest: '6.9.3-76060903-generic',
    flavours: ['generic'],
  },
])('the form of $of.0: list, latest, pattern', async ({ of, packages, latest, flavours }) => {
  const [id = '', ...place] = of;
  const arch = place.at(-1);
  await suite(place, packages);
  const asked = { arch: arch === 'arm64' ? 'aarch64' : 'x86_64' } as const;
  const offered = await offeredKernels(findRow(await allServed(), id), options(asked));
  expect(offered.kernels.map(({ flavour }) => flavour).sort()).toEqual(flavours);
  const [found] = await resolveKernels(['latest'], await allServed(), options({ ...asked, distro: id }));
  expect(found).toMatchObject({ release: latest, distro: id });
  const pattern = latest.replace(/\.\d+(?=[-+])/, '.*');
  const matching = await resolveKernels([pattern], await allServed(), options({ ...asked, distro: id }));
  expect(matching).toMatchObject([{ release: latest, distro: id }]);
});

test("ELRepo's long-term and mainline kernels", async () => {
  putRepo(server, '/linux/kernel/el9/x86_64', [
    { name: 'kernel-lt-core', evr: '6.1.119-1.el9.elrepo' },
    { name: 'kernel-lt-devel', evr: '6.1.119-1.el9.elrepo' },
    { name: 'kernel-ml-core', evr: '6.15.4-1.el9.elrepo' },
    { name: 'kernel-core', evr: '5.14.0-503.el9' },
  ]);
  expect(await resolved(['6.15.4-1.el9.elrepo.x86_64', '6.1.119-1.el9.elrepo.x86_64'])).toEqual([
    'elrepo-9 6.15.4-1.el9.elrepo.x86_64 6.15.4-1.el9.elrepo',
    'elrepo-9 6.1.119-1.el9.elrepo.x86_64 6.1.119-1.el9.elrepo',
  ]);
});

describe("Ubuntu's mainline builds", () => {
  const folder = '/mainline/v6.11.5/amd64';
  const release = '6.11.5-061105-generic';
  const version = '6.11.5-061105.202410221550';
  const names = [
    `linux-headers-${release}_${version}_amd64.deb`,
    `linux-headers-6.11.5-061105_${version}_all.deb`,
    `linux-image-unsigned-${release}_${version}_amd64.deb`,
    `linux-modules-${release}_${version}_amd64.deb`,
  ];
  const sums = (): string =>
    `# Checksums-Sha1:\n${names.map((name) => `${'0'.repeat(40)}  ${name}`).join('\n')}\n` +
    `# Checksums-Sha256:\n${names.map((name) => `${sha256(name)}  ${name}`).join('\n')}\n`;
  const sign = async (text: string): Promise<void> => {
    const message = await openpgp.createMessage({ text });
    server.put(`${folder}/CHECKSUMS`, text);
    const signature = (await openpgp.sign({ message, signingKeys: signer, detached: true })) as string;
    server.put(`${folder}/CHECKSUMS.gpg`, signature);
  };

  test('its files by their signed checksums, on the distro that is asked for', async () => {
    await sign(sums());
    const rows = await allServed();
    for (const [distro, id] of [
      [undefined, 'ubuntu-mainline'],
      ['debian-12', 'ubuntu-mainline-debian-12'],
    ] as const) {
      const [found] = await resolveKernels([release], rows, options({ distro }));
      expect(found).toMatchObject({ distro: id, release, packageVersion: version });
      expect(found?.files?.map(({ url }) => url.split('/').at(-1)).sort()).toEqual([...names].sort());
      expect(found?.files?.every(({ sha256: sum, url }) => sum === sha256(url.split('/').at(-1)!))).toBe(
        true,
      );
    }
  });

  test('checksums that were changed after signing are refused', async () => {
    await sign(sums());
    server.put(`${folder}/CHECKSUMS`, sums().replace(/[0-9a-f]{64}/, 'a'.repeat(64)));
    await expect(resolved([release])).rejects.toMatchObject({
      message: expect.stringContaining('no valid signature') as string,
    });
  });

  test('a version that was never built is looked for, and the place is named', async () => {
    await expect(resolved(['6.11.6-061106-generic'])).rejects.toMatchObject({
      fault: 'not-found',
      message: expect.stringMatching(/mainline\/v6\.11\.6\/amd64\/ .*not there/) as string,
    });
  });
});

describe("a house's own repository", () => {
  const packages = [
    stanza('linux-image-6.12.3-house', '6.12.3-1', 'kmod'),
    stanza('linux-headers-6.12.3-house', '6.12.3-1'),
    stanza('linux-image-6.12.4-house', '6.12.4-1', 'kmod'),
    stanza('linux-headers-6.12.4-house', '6.12.4-1'),
    stanza('linux-image-6.12.4-house-dbg', '6.12.4-1'),
    stanza('linux-image-house', '6.12.3', 'linux-image-6.12.3-house'),
  ];
  beforeEach(() => suite(['/house', 'bookworm', 'main', 'amd64'], packages));
  const sources = (signedBy: string, more = ''): string =>
    `# Kernels of the house\nTypes: deb\nURIs: ${server.origin}/house\nSuites: bookworm\nComponents: main\n${signedBy}\n${more}`;
  const put = async (name: string, text: string): Promise<string> => {
    await writeFile(join(cacheDir, name), text);
    return name;
  };
  const found = async (file: string, wanted: string[], distro?: string): Promise<string[]> => {
    const rows = await catalogueOf({ cwd: cacheDir, kernelRepos: [file], distro });
    const targets = await resolveKernels(wanted, rows, options({ distro }));
    return targets.map((target) => `${target.distro} ${target.release}`);
  };

  test("kernels of the config file stand beside the catalogue's own", async () => {
    await writeFile(join(cacheDir, 'house.asc'), signer.toPublic().armor());
    const overlay = {
      id: 'house',
      on: ['debian-12'],
      releases: String.raw`^[\d.]+-(?<flavour>house)$`,
      repositories: [{ url: `${server.origin}/house`, suite: '{codename}' }],
      key: { keyFingerprint: signer.getFingerprint().toUpperCase(), keyFile: 'house.asc' },
      packages: {
        image: ['linux-image-{release}'],
        headers: ['linux-headers-{release}'],
        modules: [],
        extra: [],
      },
      defaultKernel: 'linux-image-house',
    };
    const of = async (overlays: object[]): Promise<string[]> => {
      await put('dkms2bin.yaml', JSON.stringify({ kernels: overlays }));
      const { config } = await loadConfig({ cwd: cacheDir });
      return optionsOf('kernels', {}, { ...config }).kernelRepos;
    };
    const [file = '', ...more] = await of([overlay]);
    expect(more).toEqual([]);
    // By its release alone, and the distro's own by theirs: a place where neither is says which was asked.
    expect(await found(file, ['6.12.4-house'])).toEqual(['house 6.12.4-house']);
    expect(await found(file, ['latest'], 'house')).toEqual(['house 6.12.3-house']);
    await expect(found(file, ['6.1.0-999-amd64'])).rejects.toMatchObject({
      message: expect.stringContaining('debian-12') as string,
    });
    await expect(
      found((await of([{ ...overlay, on: ['debian-99'] }]))[0]!, ['latest']),
    ).rejects.toMatchObject({
      fault: 'usage',
      message: `${file}: kernels: on.0: there is no row debian-99`,
    });
    await expect(found((await of([{ ...overlay, suite: 'x' }]))[0]!, ['latest'])).rejects.toMatchObject({
      message: expect.stringContaining(`${file}: kernels.0.`) as string,
    });
  });

  test('a .sources file with a key: list, pattern, latest, on the distro of its suite or of --distro', async () => {
    await writeFile(join(cacheDir, 'house.asc'), signer.toPublic().armor());
    const file = await put('House Kernels.sources', sources('Signed-By: ./house.asc'));
    const row = (await catalogueOf({ cwd: cacheDir, kernelRepos: [file] })).find(
      ({ overlay }) => overlay?.asked,
    )!;
    expect(row).toMatchObject({ id: 'house-kernels', overlay: { on: 'debian-12' } });
    const offered = await offeredKernels(row, options());
    expect(offered.kernels.map(({ release, flavour }) => `${release} ${flavour}`).sort()).toEqual([
      '6.12.3-house house',
      '6.12.4-house house',
    ]);
    expect(offered.metas).toMatchObject([{ name: 'linux-image-house', release: '6.12.3-house' }]);
    expect(await found(file, ['latest', '6.12.3-*'])).toEqual([
      'house-kernels 6.12.4-house',
      'house-kernels 6.12.3-house',
    ]);
    expect(await found(file, ['6.12.3-house'], 'debian-13')).toEqual(['house-kernels 6.12.3-house']);
    await expect(found(file, ['6.1.0-56-amd64'])).rejects.toMatchObject({
      fault: 'not-found',
      hint: expect.stringContaining('6.12.4-house') as string,
    });
  });

  test('a key in the file itself, none with Trusted, and what cannot be used is named', async () => {
    const armored = signer
      .toPublic()
      .armor()
      .trim()
      .split('\n')
      .map((line) => ` ${line.trim() || '.'}`);
    expect(
      await found(await put('a.sources', sources(`Signed-By:\n${armored.join('\n')}`)), ['latest']),
    ).toEqual(['a 6.12.4-house']);
    expect(await found(await put('b.sources', sources('Trusted: yes')), ['latest'])).toEqual([
      'b 6.12.4-house',
    ]);
    for (const [name, text, message] of [
      ['c.sources', sources('X: y'), /no Signed-By/],
      ['d.sources', sources('Signed-By: gone.asc'), /its key cannot be read/],
      ['e.sources', sources('Trusted: yes').replace('bookworm', 'stable'), /which distro/],
      ['debian-12.sources', sources('Trusted: yes'), /name of a distro already/],
      ['f.sources', sources('Trusted: yes').replace('http:', 'file:'), /repositories.*url/],
      ['g.sources', 'nothing', /no repository in it/],
      ['h.yaml', 'overlays: []', /no overlays in it/],
    ] as const)
      await expect(found(await put(name, text), ['latest']), name).rejects.toMatchObject({
        fault: 'usage',
        message: expect.stringMatching(message) as string,
      });
    await expect(found('gone.sources', ['latest'])).rejects.toThrow('ENOENT');
  });

  test('a .repo file of dnf, and one in the form of the catalogue with a metapackage', async () => {
    putRepo(server, '/el9', [
      { name: 'kernel-core', evr: '6.12.5-1.house' },
      { name: 'kernel-devel', evr: '6.12.5-1.house' },
    ]);
    const repo = await put('el.repo', `[house]\nname=House\nbaseurl=${server.origin}/el9\ngpgcheck=0\n`);
    expect(await found(repo, ['latest'], 'rocky-9')).toEqual(['el 6.12.5-1.house.x86_64']);
    const overlay = `overlays:
  - id: house-own
    on: [debian-12]
    releases: '^.*-house$'
    repositories: [{ url: '${server.origin}/house', suite: '{codename}' }]
    packages: { image: ['linux-image-{release}'], headers: ['linux-headers-{release}'] }
    defaultKernel: linux-image-house
`;
    expect(await found(await put('own.yaml', overlay), ['latest'])).toEqual(['house-own 6.12.3-house']);
  });
});
