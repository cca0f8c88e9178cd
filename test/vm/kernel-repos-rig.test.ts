import { execa } from 'execa';
import { copyFile, mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { hostAddress } from '../rig/https.js';
import { lacking, lookingTiny } from '../rig/images.js';
import { FORMS, serveKernelRepos, type KernelRepos } from '../rig/kernel-repos.js';
import { DISTRO, FIXTURES, IMAGE, ROAD, temporary, tool, type Document } from './tool.js';

// Repositories of kernels as Proxmox, XanMod and zabbly have them, signed and served here: their rows are the catalogue's own, the
// kernels Debian's in their packages and under their releases. See test/rig.
const road = inject('road');
const missing = process.env.DKMS2BIN_TEST_KERNELS
  ? []
  : ['DKMS2BIN_TEST_KERNELS, as npm run test:kernels sets it'];
if (road.missing) missing.push(road.missing);
const address = hostAddress();
if (address === undefined) missing.push('an address that guests reach');
missing.push(...(await lacking(['dpkg-scanpackages', 'dpkg-deb', 'apt-get', 'zstd', 'xz'])));
const skipped = missing.length > 0 ? ` (skipped: no ${missing.join(', ')})` : '';

const forms = ['proxmox', 'xanmod', 'zabbly'] as const;

let folder = '';
let served: KernelRepos | undefined;
let source = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  if (missing.length > 0) return;
  folder = await temporary('kernel-repos');
  source = await lookingTiny(FIXTURES, folder);
  const catalogue = join(folder, 'catalogue');
  await mkdir(catalogue);
  await copyFile(join(road.catalogue, 'rigs.yaml'), join(catalogue, 'rigs.yaml'));
  served = await serveKernelRepos(forms, { folder, address: address!, catalogue, on: DISTRO });
  env = {
    DKMS2BIN_STATE: join(folder, 'state'),
    DKMS2BIN_CATALOGUE: catalogue,
  };
});

afterAll(async () => {
  await served?.[Symbol.asyncDispose]();
  if (folder) await rm(folder, { recursive: true, force: true });
});

test.skipIf(missing.length > 0).each(forms)(
  `%s: its kernels, the one it leads to, a layer, a module that loads, and what follows its kernels${skipped}`,
  async (form) => {
    const release = served!.releases[form]!;
    const distro = ['--distro', `${form}-rig`];
    const listed = await tool(['kernels', ...distro, '--json'], { env });
    expect(listed.code, listed.stderr).toBe(0);
    expect(JSON.parse(listed.stdout)).toMatchObject({ kernels: [{ release }] });

    const out = join(folder, `out-${form}`);
    const more = ['--out-dir', out, '--repo', '--json', '--verbose'];
    const ended = await tool(['--dkms', source, ...distro, ...IMAGE, '--kernel', 'latest', ...more], { env });
    expect(ended.code, ended.stderr).toBe(0);
    const [cell] = (JSON.parse(ended.stdout) as Document).cells;
    expect(cell).toMatchObject({ verdict: 'built', kernel: release, reason: null });
    const maker = form === 'proxmox' ? 'proxmox' : 'linux';
    expect(ended.stderr).toContain(`Setting up ${maker}-headers-${release} `);
    // A kernel for x86-64-v3 boots on a CPU that is one.
    expect(await readFile(cell!.log!, 'utf8')).toContain(`AVX2: ${form === 'xanmod' ? 1 : 0}`);

    const { stdout: image } = await execa('dpkg-deb', ['-f', cell!.package!, 'Depends']);
    expect(image).toContain(
      form === 'proxmox' ? `proxmox-kernel-${release}-signed` : `linux-image-${release}`,
    );
    const packages = await readFile(join(out, 'Packages'), 'utf8');
    const follows = packages.split('\n\n').filter((each) => each.includes(FORMS[form].leads));
    expect(follows.join('\n\n')).toMatch(/^Package: dk2b-tiny-modules-/m);
  },
);

test.skipIf(missing.length > 0).each(forms)(
  `%s: a clean machine with its kernel takes the package and loads the module${skipped}`,
  async (form) => {
    const [out, kernel] = [join(folder, `out-${form}`), served!.releases[form]!];
    const asked = [
      '--kernel',
      kernel,
      '--distro',
      `${form}-rig`,
      ...IMAGE,
      '--module',
      'dk2b_tiny',
      '--json',
    ];
    const ended = await tool(['prove', out, ...asked], { env });
    expect(ended.code, ended.stderr).toBe(0);
    expect(JSON.parse(ended.stdout)).toMatchObject({ kernel, modules: [{ verdict: 'loaded' }] });
  },
);

test.skipIf(missing.length > 0)(
  `Debian's own kernel with PREEMPT_RT: a module is built and loads on it${skipped}`,
  async () => {
    const listed = await tool(['kernels', '--distro', DISTRO, '--json'], { env });
    const { kernels } = JSON.parse(listed.stdout) as { kernels: { release: string }[] };
    const release = kernels.map((each) => each.release).find((each) => /^6\.1\.0-\d+-rt-amd64$/.test(each))!;
    const out = join(folder, 'out-rt');
    const args = ['--dkms', source, ...ROAD, '--kernel', release, '--out-dir', out, '--json'];
    const ended = await tool(args, { env });
    expect(ended.code, ended.stderr).toBe(0);
    const [cell] = (JSON.parse(ended.stdout) as Document).cells;
    expect(cell).toMatchObject({ verdict: 'built', kernel: release, reason: null });
    expect(cell!.phases.verify).toBeGreaterThan(0);
  },
);
