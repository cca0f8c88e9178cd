import { execa } from 'execa';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { decompress, compressionOf } from '../../src/formats/decompress.js';
import { readModule } from '../../src/formats/elf.js';
import { readDeb } from '../../src/formats/deb.js';
import { FIXTURES, temporary, tool, type Document } from './tool.js';

// Everything cold takes longer than other tests may: the image's packages are set up by emulated programs.
const timeout = 3 * 3600_000;

test.for([
  { of: '', releases: /^6\.1\.0-\d+-arm64$/ },
  { of: ' with pages of 16 KiB', releases: /^[\d.]+\+deb12-arm64-16k$/ },
])(
  'a module for an aarch64 kernel of debian-12$of: built, packed and loaded in emulated VMs',
  { timeout },
  async ({ releases }, { skip }) => {
    skip(!process.env.DKMS2BIN_TEST_AARCH64, 'takes long: npm run test:aarch64');
    const doctor = await tool(['doctor', '--arch', 'aarch64', '--json']);
    const { checks } = JSON.parse(doctor.stdout) as { checks: { name: string; status: string }[] };
    const wanted = ['qemu-system-aarch64', 'UEFI firmware', 'aarch64 programs'];
    const missing = checks.filter(({ name, status }) => wanted.includes(name) && status !== 'ok');
    skip(missing.length > 0, `${missing.map(({ name }) => name).join(', ')} not on this host`);

    const out = await temporary('out');
    const state = await temporary('state');
    try {
      const of = ['--arch', 'aarch64', '--distro', 'debian-12'];
      const listed = await tool(['kernels', ...of, '--json']);
      const { kernels } = JSON.parse(listed.stdout) as { kernels: { release: string }[] };
      const newest = kernels.map(({ release }) => release).filter((each) => releases.test(each));
      const asked = [...of, '--kernel', newest[0]!];
      const ended = await tool(['--dkms', join(FIXTURES, 'tiny'), ...asked, '--out-dir', out, '--json'], {
        env: { DKMS2BIN_STATE: state },
      });
      expect(ended.code, ended.stderr).toBe(0);
      const { cells, accelerator } = JSON.parse(ended.stdout) as Document;
      const [cell] = cells;
      expect(cell).toMatchObject({ verdict: 'built', reason: null, arch: 'aarch64' });
      expect(cell!.kernel).toBe(newest[0]);
      expect(cell!.phases.verify).toBeGreaterThan(0);
      expect(accelerator).toBe('tcg');
      expect(cell!.package).toBe(join(out, `dk2b-tiny_${cell!.version}-${cell!.kernel}_aarch64.deb`));

      const field = async (name: string): Promise<string> =>
        (await execa('dpkg-deb', ['-f', cell!.package!, name])).stdout;
      expect(await field('Architecture')).toBe('arm64');
      expect(await field('Depends')).toContain(`linux-image-${cell!.kernel}`);
      const { files } = await readDeb(cell!.package!);
      const ko = files.find(({ path }) => /\.ko(\.\w+)?$/.test(path))!;
      const bytes = await decompress(ko.bytes(), compressionOf(ko.bytes()), 2 ** 24, ko.path);
      const module = readModule(bytes);
      expect(module.machine).toBe('aarch64');
      expect(module.vermagic).toMatch(new RegExp(`^${cell!.kernel} .*\\baarch64$`));
    } finally {
      for (const folder of [out, state]) await rm(folder, { recursive: true, force: true });
    }
  },
);
