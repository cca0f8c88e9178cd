import { execa } from 'execa';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { inspectFile } from '../../src/attest/inspect.js';
import { lacking } from '../rig/images.js';
import { FIXTURES, ROAD, temporary, tool, type Document } from './tool.js';

// A kernel that is really configured and compiled here, of Debian's source, and known to nobody: see test/rig.
const OWN_KERNEL = fileURLToPath(new URL('../rig/own-kernel.sh', import.meta.url));
const TOOLS = {
  gcc: ['gcc', 'make', 'flex', 'bison', 'bc', 'cpio', 'rsync', 'dpkg-deb', 'apt-get', 'xz', 'readelf'],
  clang: ['clang', 'ld.lld', 'llvm-nm'],
};
// A kernel is compiled, and a layer made of it in a VM.
const timeout = 3 * 3600_000;
const asked = process.env.DKMS2BIN_TEST_KERNELS
  ? []
  : ['DKMS2BIN_TEST_KERNELS, as npm run test:kernels sets it'];

let folder = '';
beforeAll(async () => {
  if (asked.length === 0) folder = await temporary('own-kernel');
});
afterAll(async () => {
  if (folder) await rm(folder, { recursive: true, force: true });
});

for (const compiler of ['gcc', 'clang'] as const) {
  const missing = [
    ...asked,
    ...(await lacking([...TOOLS.gcc, ...(compiler === 'clang' ? TOOLS.clang : [])])),
  ];
  const skipped = missing.length > 0 ? ` (skipped: no ${missing.join(', ')})` : '';
  test.skipIf(missing.length > 0)(
    `make bindeb-pkg with ${compiler}: its two files are the kernel that a module is built for and loads on${skipped}`,
    { timeout },
    async () => {
      const made = await execa(OWN_KERNEL, [folder, 'bookworm', compiler]);
      const [release = '', ...files] = made.stdout.trim().split('\n');
      expect(release).toMatch(/^\d+\.\d+\.\d+-house$/);
      const out = join(folder, `out-${compiler}`);
      const given = files.flatMap((file) => ['--kernel-package', file]);
      const args = ['--dkms', join(FIXTURES, 'tiny'), ...ROAD, ...given];
      // Without the headers it says which file is missing, and starts nothing.
      const image = given.slice(0, 2);
      const half = await tool(['--dkms', join(FIXTURES, 'tiny'), ...ROAD, ...image, '--out-dir', out]);
      expect(half.code).toBe(2);
      expect(half.stderr).toContain(`linux-headers-${release}`);

      const ended = await tool([...args, '--out-dir', out, '--json', '--verbose']);
      expect(ended.code, ended.stderr).toBe(0);
      const [cell] = (JSON.parse(ended.stdout) as Document).cells;
      expect(cell).toMatchObject({ verdict: 'built', kernel: release, reason: null });
      const { modules } = await inspectFile(cell!.package!);
      expect(modules.map((each) => each.kernel)).toEqual([release]);
      // The module is of the kernel's own compiler.
      const root = join(folder, `root-${compiler}`);
      await execa('dpkg-deb', ['-x', cell!.package!, root]);
      const comment = await execa('sh', [
        '-c',
        'readelf -p .comment "$(find "$1" -name "*.ko")"',
        'sh',
        root,
      ]);
      expect(comment.stdout).toContain(compiler === 'gcc' ? 'GCC: ' : 'clang version ');
    },
  );
}
