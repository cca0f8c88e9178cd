import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { hostMirrors } from '../../src/distro/mirrors.js';
import { RIG_ROWS, serve, writeRigCatalogue, type Served } from '../rig/official.js';
import { forwardProxy, type Proxy } from '../rig/proxy.js';
import { DISTRO, FIXTURES, kernels, ROAD, temporary, tool, type Document } from './tool.js';

// The road of the distro's own cloud image from its download on, and what other files do not walk: their runs take it, too.
const road = inject('road');
const real = road.origin === '';
const skipped = road.missing ? ` (skipped: no ${road.missing})` : '';
// Too long for each commit: `npm run test:official` runs them.
const whole = process.env.DKMS2BIN_TEST_WHOLE === '1';
const later = skipped || (whole ? '' : ' (skipped: npm run test:official runs it)');
const { main = '', security = '' } = await hostMirrors();

let folder = '';
let env: Record<string, string> = {};
let kernel = '';
let out = '';
let proxy: Proxy;
/** Leads what is asked of a mirror on to the host's, and is an archive of old packages. */
let mirror: Served;
const asked: string[] = [];
/** The kernel that only the archive has. */
let old = { release: '', packageVersion: '' };

/** An address of this host that its guests reach, too. */
const address =
  Object.values(networkInterfaces())
    .flatMap((each) => each ?? [])
    .find(({ family, internal }) => family === 'IPv4' && !internal)?.address ?? '127.0.0.1';

/** What Debian's archive of old packages says of the old kernel; its dated archives hold what the mirror has. */
function archived(path: string): object | undefined {
  const binary = `/mr/binary/linux-image-${old.release}/`;
  if (path === binary) return { result: [{ binary_version: old.packageVersion }] };
  if (path !== `${binary}${old.packageVersion}/binfiles`) return undefined;
  const hash = 'a'.repeat(40);
  return {
    result: [{ architecture: 'amd64', hash }],
    fileinfo: { [hash]: [{ archive_name: 'debian-security', first_seen: '20260801T030000Z' }] },
  };
}

beforeAll(async () => {
  if (road.missing) return;
  folder = await temporary('official');
  out = join(folder, 'out');
  proxy = await forwardProxy(address);
  mirror = await serve((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname);
    asked.push(path);
    const answer = archived(path);
    if (answer) return void response.end(JSON.stringify(answer));
    const to = path
      .replace(/^\/archive\/debian-security\/[^/]+/, security)
      .replace(/^\/debian-security/, security)
      .replace(/^\/debian/, main);
    if (to === path) response.writeHead(404).end();
    else response.writeHead(302, { location: to }).end();
  });
  env = { DKMS2BIN_STATE: join(folder, 'state'), DKMS2BIN_CACHE: join(folder, 'cache') };
  kernel = (await kernels()).newest;
});

afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await mirror?.[Symbol.asyncDispose]();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** SHA-256 of the only module in a package. */
async function moduleOf(file: string): Promise<string> {
  const to = await mkdtemp(join(folder, 'package-'));
  await execa('dpkg-deb', ['-x', file, to]);
  const { stdout } = await execa('find', [to, '-name', '*.ko*', '-type', 'f']);
  return createHash('sha256')
    .update(await readFile(stdout))
    .digest('hex');
}

const fixture = (name: string): string[] => ['--dkms', join(FIXTURES, name)];
const cellsOf = ({ stdout }: { stdout: string }): Document['cells'] => (JSON.parse(stdout) as Document).cells;

/** The package of the small module, and its module's hash. */
let built = '';
let bytes = '';

test.skipIf(skipped !== '')(
  `from the download to packages that load, by a mirror and a proxy${skipped}`,
  async () => {
    const sources = ['tiny', 'host-program', 'large'].flatMap(fixture);
    const where = ['--mirror', `${mirror.origin}/debian`, '--proxy', proxy.origin, '--out-dir', out];
    const ended = await tool(
      [...sources, ...ROAD, '--kernel', kernel, ...where, '--repo', '--json', '--verbose'],
      { env },
    );
    expect(ended.code, ended.stderr).toBe(0);
    const cells = cellsOf(ended);
    // `large` does not fit on an image's disk as it comes.
    expect(cells.map(({ module, verdict, reason }) => [module, verdict, reason])).toEqual([
      ['dk2b-tiny', 'built', null],
      ['dk2b-host-program', 'built', null],
      ['dk2b-large', 'built', null],
    ]);

    // Made on the host, with a snapshot, and without a second kernel.
    expect(ended.stderr).toContain('image root done');
    expect(ended.stderr).toContain('kernel packages done');
    expect(ended.stderr).not.toMatch(/made in a VM|Booting cold|cc-probes/);
    expect(ended.stderr).toContain('Setting up libc6-dev');
    const images = [...ended.stderr.matchAll(/Setting up (linux-image-\S+)/g)].map(([, name]) => name);
    expect(new Set(images)).toEqual(new Set([`linux-image-${kernel}`]));
    expect(new Set(ended.stderr.match(/update-initramfs: Generating \S+/g))).toEqual(
      new Set([`update-initramfs: Generating /boot/initrd.img-${kernel}`]),
    );

    // The mirror serves apt, the security archive too; no index of sources.
    expect(asked.filter((path) => path.startsWith('/debian-security/'))).not.toEqual([]);
    expect(asked.filter((path) => path.endsWith('.deb'))).not.toEqual([]);
    expect(asked.filter((path) => path.includes('/source/'))).toEqual([]);
    // All of it, and the image, by the proxy.
    const paths = new Set(proxy.asked.map(({ url }) => decodeURIComponent(url.replace(mirror.origin, ''))));
    expect(asked.filter((path) => !paths.has(path))).toEqual([]);
    expect([...paths].some((url) => (real ? /^cloud\./.test(url) : url.endsWith('.qcow2')))).toBe(true);

    const listed = await tool(['images', '--json'], { env });
    const { images: rows } = JSON.parse(listed.stdout) as { images: { kind: string; on: string | null }[] };
    expect(rows.find(({ kind }) => kind === 'layer')?.on).toContain(`${DISTRO} official `);
    built = cells[0]!.package!;
    bytes = await moduleOf(built);
  },
);

test.skipIf(skipped !== '')(
  `warm and with --offline: nothing is asked for, and the bytes stay${skipped}`,
  async () => {
    const before = [asked.length, proxy.asked.length];
    const to = join(folder, 'offline');
    const where = [
      '--mirror',
      `${mirror.origin}/debian`,
      '--proxy',
      proxy.origin,
      '--offline',
      '--out-dir',
      to,
    ];
    const ended = await tool([...fixture('tiny'), ...ROAD, '--kernel', kernel, ...where, '--json'], { env });
    expect(ended.code, ended.stderr).toBe(0);
    expect(ended.stderr).not.toMatch(/(?:layer|snapshot) \S+ …|Booting cold/);
    expect([asked.length, proxy.asked.length]).toEqual(before);
    expect(await moduleOf(cellsOf(ended)[0]!.package!)).toBe(bytes);
  },
);

test.skipIf(later !== '' || real)(
  `an archived kernel of another flavour, without a memory snapshot${later}`,
  async () => {
    // The mirror still has those of the security archive: a row without that suite does not.
    const { stdout } = await tool(['kernels', '--distro', RIG_ROWS.bookworm, '--json']);
    const { kernels: all } = JSON.parse(stdout) as { kernels: (typeof old & { suite: string })[] };
    old = all.find(
      ({ release, suite }) => /^6\.1\..*-cloud-amd64$/.test(release) && suite === 'bookworm-security',
    )!;
    const catalogue = join(folder, 'catalogue');
    await writeRigCatalogue(join(catalogue, 'rigs.yaml'), road.origin, (row) => {
      row.suites = (row.suites as { role: string }[]).filter(({ role }) => role !== 'security');
    });
    const where = ['--archive', mirror.origin, '--no-verify', '--out-dir', join(folder, 'old')];
    const ended = await tool(
      [...fixture('tiny'), ...ROAD, '--kernel', old.release, ...where, '--json', '--verbose'],
      { env: { ...env, DKMS2BIN_CATALOGUE: catalogue, DKMS2BIN_NO_SNAPSHOT: '1' } },
    );
    expect(ended.code, ended.stderr).toBe(0);
    expect(cellsOf(ended)).toMatchObject([{ verdict: 'built', kernel: old.release }]);
    expect(ended.stderr).toContain('kernel packages done');
    expect(ended.stderr).toContain('DKMS2BIN_NO_SNAPSHOT is set');
    expect(ended.stderr).not.toMatch(/memory snapshot \S+ …/);
    expect(
      asked.some((path) => /^\/archive\/debian-security\/\d+T\d+Z\/pool\/.*cloud-amd64_.*\.deb$/.test(path)),
    ).toBe(true);
  },
);

test.skipIf(later !== '' || real)(
  `an image file that boots by UEFI: its layer is made in a VM, by the proxy${later}`,
  async () => {
    const catalogue = join(folder, 'uefi');
    await writeRigCatalogue(join(catalogue, 'rigs.yaml'), road.origin, (row) => {
      (row.arch as Record<string, { firmware: string }>).x86_64!.firmware = 'uefi';
    });
    const images = join(folder, 'cache', 'images');
    const image = (await readdir(images)).find((name) => name.endsWith('.qcow2'))!;
    proxy.asked.length = 0;
    // Its own sources are https, by authorities that a test's host may replace.
    const more = ['--module', 'dk2b_tiny', '--mirror', main, '--proxy', proxy.origin, '--verbose', '--json'];
    const ended = await tool(
      ['prove', out, '--kernel', kernel, '--distro', DISTRO, '--image', join(images, image), ...more],
      { env: { ...env, DKMS2BIN_CATALOGUE: catalogue } },
    );
    expect(ended.code, ended.stderr).toBe(0);
    expect(JSON.parse(ended.stdout)).toMatchObject({ modules: [{ verdict: 'loaded' }] });
    expect(ended.stderr).not.toMatch(/cloud-init ended with errors/);
    const { stdout } = await tool(['images', '--json'], { env });
    const { images: rows } = JSON.parse(stdout) as { images: { kind: string; name: string }[] };
    const runtime = rows.filter(({ kind, name }) => kind === 'layer' && name.startsWith('runtime'));
    expect(runtime).toHaveLength(1);
    const debs = proxy.asked.filter(({ agent, url }) => /APT/.test(agent) && url.endsWith('.deb'));
    expect(debs.map(({ url }) => /linux-image-[^_]+_/.exec(url)?.[0])).toContain(`linux-image-${kernel}_`);
    expect(await rootGiB(join(folder, 'cache'), runtime[0]!.name.split(' ').pop()!)).toBeGreaterThan(15);
  },
);

/** The size of the root file system of a layer, named as `images` does. */
async function rootGiB(cache: string, layer: string): Promise<number> {
  const name = (await readdir(join(cache, 'layers'))).find(
    (each) => each.startsWith(layer) && !each.endsWith('.lock'),
  )!;
  const raw = join(folder, 'disk.raw');
  await execa('qemu-img', ['convert', '-O', 'raw', join(cache, 'layers', name, 'disk.qcow2'), raw]);
  const options = { env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` } };
  const { stdout: facts } = await execa('dumpe2fs', ['-h', `${raw}?offset=${262144 * 512}`], options);
  const blocks = Number(/^Block count: +(\d+)$/m.exec(facts)?.[1]);
  return (blocks * Number(/^Block size: +(\d+)$/m.exec(facts)?.[1])) / 1024 ** 3;
}

test.skipIf(skipped !== '')(
  `a bootstrapped image, from nothing, gives the same bytes${skipped}`,
  async () => {
    const where = [
      '--distro',
      'debian-12',
      '--image',
      'bootstrap',
      '--no-verify',
      '--out-dir',
      join(folder, 'other'),
    ];
    const ended = await tool([...fixture('tiny'), '--kernel', kernel, ...where, '--json'], {
      env: { ...env, DKMS2BIN_CACHE: join(folder, 'bootstrapped'), DKMS2BIN_NO_SNAPSHOT: '1' },
    });
    expect(ended.code, ended.stderr).toBe(0);
    expect(ended.stderr).toContain('bootstrap packages done');
    expect(await moduleOf(cellsOf(ended)[0]!.package!)).toBe(bytes);
  },
);
