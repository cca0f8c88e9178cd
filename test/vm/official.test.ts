import { execa } from 'execa';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hostMirrors } from '../../src/distro/mirrors.js';
import { cacheDir } from '../../src/lib/paths.js';
import { FIXTURES, kernels, temporary, tool, type Document } from './tool.js';

// The road of the distro's own cloud image, with one that is made like Debian's (test/rig/official) and served as Debian serves its own.
const RIG = fileURLToPath(new URL('../rig/official', import.meta.url));
const SCRIPTS = ['make-debian.sh', 'customize-debian.sh', 'finish-root.sh', 'write-root.sh', 'grub-bios.py'];
const IMAGE = 'debian-12-genericcloud-amd64.qcow2';
const { main, security } = await hostMirrors();
const missing: string[] = [];
if (main === undefined || security === undefined)
  missing.push("mirrors of Debian in this host's apt configuration");
for (const each of ['mmdebstrap', 'mke2fs', 'sfdisk', 'mkfs.vfat', 'mcopy', 'python3']) {
  const { exitCode } = await execa('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin; command -v ${each}`], {
    reject: false,
  });
  if (exitCode !== 0) missing.push(each);
}
const skipped = missing.length > 0 ? ` (skipped: no ${missing.join(', ')})` : '';

let folder = '';
let server: Server | undefined;
let env: Record<string, string> = {};
let origin = '';
let kernel = '';
/** The package of the small module. */
let built = '';
/** Paths of the requests that the stand-in for a mirror got. */
const asked: string[] = [];

/** The rig's folder in the cache; made when it is not there, or was made by other scripts. */
async function rig(): Promise<string> {
  const hash = createHash('sha256');
  for (const name of [...SCRIPTS, 'bookworm.packages']) hash.update(await readFile(join(RIG, name)));
  const rigs = join(cacheDir(), 'test-rigs');
  const made = join(rigs, `official-bookworm-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(join(made, IMAGE))) return made;
  await mkdir(rigs, { recursive: true });
  const making = await mkdtemp(join(rigs, '.making-'));
  try {
    await execa(join(RIG, 'make-debian.sh'), ['bookworm', main!, security!, making], { timeout: 1_200_000 });
    await rename(making, made);
  } finally {
    await rm(making, { recursive: true, force: true });
  }
  return made;
}

/** Serves the rig in the layout of Debian's server, and leads what is asked of a mirror on to the host's. */
async function serve(images: string): Promise<void> {
  server = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://x').pathname;
    if (path.startsWith('/images/cloud/bookworm/latest/')) {
      const file = join(images, basename(path));
      void stat(file).then(
        ({ size }) => {
          response.writeHead(200, { 'content-length': size });
          createReadStream(file).pipe(response);
        },
        () => response.writeHead(404).end(),
      );
      return;
    }
    asked.push(path);
    const to = path.startsWith('/debian-security/')
      ? path.replace('/debian-security', security!)
      : path.replace('/debian', main!);
    response.writeHead(302, { location: to }).end();
  });
  await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve));
  origin = `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

beforeAll(async () => {
  if (missing.length > 0) return;
  folder = await temporary('official');
  await serve(await rig());
  const catalogue = join(folder, 'catalogue');
  await mkdir(catalogue);
  const row = await readFile(join(RIG, 'debian.yaml'), 'utf8');
  await writeFile(
    join(catalogue, 'debian.yaml'),
    row.replaceAll('{domain}', origin).replaceAll('{mirror}', main!).replaceAll('{security}', security!),
  );
  env = {
    DKMS2BIN_STATE: join(folder, 'state'),
    DKMS2BIN_CATALOGUE: catalogue,
    DKMS2BIN_CACHE: join(folder, 'cache'),
  };
  kernel = (await kernels()).newest;
});

afterAll(async () => {
  server?.closeAllConnections();
  server?.close();
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

test.skipIf(missing.length > 0)(
  `an official image, from its download to packages that load${skipped}`,
  async () => {
    const out = join(folder, 'out');
    const fixtures = ['tiny', 'host-program'].flatMap((name) => ['--dkms', join(FIXTURES, name)]);
    const more = ['--mirror', `http://${origin}/debian`, '--out-dir', out, '--json', '--verbose'];
    const of = ['--distro', 'debian-rig', '--kernel', kernel, '--image', 'official'];
    const ended = await tool([...fixtures, ...of, ...more], { env });
    expect(ended.code, ended.stderr).toBe(0);
    const { cells } = JSON.parse(ended.stdout) as Document;
    expect(cells.map(({ module, verdict, reason }) => [module, verdict, reason])).toEqual([
      ['dk2b-tiny', 'built', null],
      ['dk2b-host-program', 'built', null],
    ]);

    // Made on the host, with a snapshot, and without a second kernel.
    expect(ended.stderr).toContain('image root done');
    expect(ended.stderr).toContain('kernel packages done');
    expect(ended.stderr).not.toMatch(/made in a VM|Booting cold|cc-probes/);
    expect(ended.stderr).toContain('Setting up libc6-dev');
    const images = [...ended.stderr.matchAll(/Setting up (linux-image-\S+)/g)].map(([, name]) => name);
    expect(images).toEqual([`linux-image-${kernel}`]);
    expect(ended.stderr.match(/update-initramfs: Generating \S+/g)).toEqual([
      `update-initramfs: Generating /boot/initrd.img-${kernel}`,
    ]);
    // --mirror serves apt, the security archive too; no index of sources.
    expect(asked.filter((path) => path.startsWith('/debian-security/'))).not.toEqual([]);
    expect(asked.filter((path) => path.endsWith('.deb'))).not.toEqual([]);
    expect(asked.filter((path) => path.includes('/source/'))).toEqual([]);

    const listed = await tool(['images', '--json'], { env });
    const { images: rows } = JSON.parse(listed.stdout) as { images: { kind: string; on: string | null }[] };
    expect(rows.find(({ kind }) => kind === 'layer')?.on).toMatch(/^debian-rig official [0-9a-f]{12}/);
    built = cells[0]!.package!;
  },
);

test.skipIf(missing.length > 0)(
  `a module that was built on it has the same bytes as one of a bootstrapped image${skipped}`,
  async () => {
    const bootstrapped = ['--distro', 'debian-12', '--kernel', kernel, '--image', 'bootstrap', '--no-verify'];
    const tiny = ['--dkms', join(FIXTURES, 'tiny')];
    const there = await tool([...tiny, ...bootstrapped, '--out-dir', join(folder, 'other'), '--json'], {
      env: { DKMS2BIN_STATE: join(folder, 'state') },
    });
    expect(there.code, there.stderr).toBe(0);
    const [other] = (JSON.parse(there.stdout) as Document).cells;
    expect(await moduleOf(built)).toBe(await moduleOf(other!.package!));
  },
);
