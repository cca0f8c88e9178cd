import { execa } from 'execa';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decompress, compressionOf } from '../../src/formats/decompress.js';
import { readModule } from '../../src/formats/elf.js';
import { readDeb } from '../../src/formats/deb.js';
import { hostAddress } from '../rig/https.js';
import { lacking } from '../rig/images.js';
import { FORMS, serveKernelRepos, type KernelRepos } from '../rig/kernel-repos.js';
import { FIXTURES, temporary, tool, type Document } from './tool.js';

// Everything cold takes longer than other tests may: the image's packages are set up by emulated programs.
const timeout = 3 * 3600_000;
const KERNELS = [
  { of: 'of debian-12', distro: 'debian-12', releases: /^6\.1\.0-\d+-arm64$/ },
  { of: 'with pages of 16 KiB', distro: 'debian-12', releases: /^[\d.]+\+deb12-arm64-16k$/ },
  { of: "in the form of Raspberry Pi OS's", distro: 'rpi-rig', releases: /\+rpt-rpi-v8$/ },
];

let missing: string[] = [];
let folder = '';
let served: KernelRepos | undefined;
let env: Record<string, string> = {};

beforeAll(async () => {
  if (!process.env.DKMS2BIN_TEST_AARCH64) missing = ['takes long: npm run test:aarch64'];
  else {
    const doctor = await tool(['doctor', '--arch', 'aarch64', '--json']);
    const { checks } = JSON.parse(doctor.stdout) as { checks: { name: string; status: string }[] };
    const wanted = ['qemu-system-aarch64', 'UEFI firmware', 'aarch64 programs'];
    missing = checks
      .filter(({ name, status }) => wanted.includes(name) && status !== 'ok')
      .map((c) => c.name);
    missing.push(...(await lacking(['dpkg-scanpackages', 'dpkg-deb', 'apt-get', 'zstd', 'xz'])));
  }
  if (missing.length > 0) return;
  folder = await temporary('aarch64');
  const catalogue = join(folder, 'catalogue');
  await mkdir(catalogue);
  const address = hostAddress() ?? '127.0.0.1';
  served = await serveKernelRepos(['rpi'], { folder, address, catalogue, on: 'debian-12' });
  env = { DKMS2BIN_STATE: join(folder, 'state'), DKMS2BIN_CATALOGUE: catalogue };
}, timeout);

afterAll(async () => {
  await served?.[Symbol.asyncDispose]();
  if (folder) await rm(folder, { recursive: true, force: true });
});

test.for(KERNELS)(
  'a module for an aarch64 kernel $of: built, packed and loaded in emulated VMs',
  { timeout },
  async ({ distro, releases }, { skip }) => {
    skip(missing.length > 0, missing.join(', '));
    const of = ['--arch', 'aarch64', '--distro', distro];
    const listed = await tool(['kernels', ...of, '--json'], { env });
    expect(listed.code, listed.stderr).toBe(0);
    const { kernels } = JSON.parse(listed.stdout) as { kernels: { release: string }[] };
    const release = kernels.map((each) => each.release).find((each) => releases.test(each))!;
    const out = join(folder, `out-${release}`);
    const args = ['--dkms', join(FIXTURES, 'tiny'), ...of, '--kernel', release, '--out-dir', out, '--json'];
    const ended = await tool(args, { env });
    expect(ended.code, ended.stderr).toBe(0);
    const { cells, accelerator } = JSON.parse(ended.stdout) as Document;
    const [cell] = cells;
    expect(cell).toMatchObject({ verdict: 'built', reason: null, arch: 'aarch64', kernel: release });
    expect(cell!.phases.verify).toBeGreaterThan(0);
    expect(accelerator).toBe('tcg');
    expect(cell!.package).toBe(join(out, `dk2b-tiny_${cell!.version}-${release}_aarch64.deb`));

    const field = async (name: string): Promise<string> =>
      (await execa('dpkg-deb', ['-f', cell!.package!, name])).stdout;
    expect(await field('Architecture')).toBe('arm64');
    expect(await field('Depends')).toContain(`linux-image-${release}`);
    const { files } = await readDeb(cell!.package!);
    const ko = files.find(({ path }) => /\.ko(\.\w+)?$/.test(path))!;
    const bytes = await decompress(ko.bytes(), compressionOf(ko.bytes()), 2 ** 24, ko.path);
    const module = readModule(bytes);
    expect(module.machine).toBe('aarch64');
    expect(module.vermagic?.split(' ')[0]).toBe(release);
    expect(module.vermagic).toMatch(/\baarch64$/);
  },
);

test(
  "in the form of Raspberry Pi OS's: latest, what follows its kernels, and a clean machine that loads the module",
  { timeout },
  async ({ skip }) => {
    skip(missing.length > 0, missing.join(', '));
    const of = ['--arch', 'aarch64', '--distro', 'rpi-rig'];
    const [out, kernel] = [join(folder, 'out-repo'), served!.releases.rpi!];
    const args = ['--dkms', join(FIXTURES, 'tiny'), ...of, '--kernel', 'latest', '--out-dir', out];
    const ended = await tool([...args, '--repo', '--no-verify', '--json'], { env });
    expect(ended.code, ended.stderr).toBe(0);
    expect((JSON.parse(ended.stdout) as Document).cells).toMatchObject([{ verdict: 'built', kernel }]);
    const packages = (await readFile(join(out, 'Packages'), 'utf8')).split('\n\n');
    const [follows = ''] = packages.filter((each) => each.includes(FORMS.rpi.leads));
    expect(follows).toMatch(/^Package: dk2b-tiny-modules-/m);

    const proved = await tool(
      ['prove', out, '--distro', 'rpi-rig', '--kernel', kernel, '--module', 'dk2b_tiny', '--json'],
      { env },
    );
    expect(proved.code, proved.stderr).toBe(0);
    expect(JSON.parse(proved.stdout)).toMatchObject({ kernel, modules: [{ verdict: 'loaded' }] });
  },
);
