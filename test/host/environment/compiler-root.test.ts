import { chmod, mkdir, mkdtemp, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { compilerRoot } from '../../../src/environment/compiler-root.js';
import type { KernelLayer } from '../../../src/environment/kernel-layer.js';
import { run } from '../../../src/lib/exec.js';
import { SBIN } from '../../../src/lib/namespace.js';
import { sandboxWorks } from '../../../src/lib/sandbox.js';

const RELEASE = '6.1.0-56-amd64';
let dir = '';
beforeEach(async (context) => {
  await sandboxWorks().catch((error: Error) => context.skip(error.message));
  dir = await mkdtemp(join(tmpdir(), 'dkms2bin-compiler-'));
  vi.stubEnv('DKMS2BIN_CACHE', join(dir, 'cache'));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true, force: true });
});

async function put(path: string, text: string, mode = 0o644): Promise<void> {
  const to = join(dir, 'root', path);
  await mkdir(dirname(to), { recursive: true });
  await writeFile(to, text);
  await chmod(to, mode);
}

/** What is taken out of a layer with these files; null, with the notes, when that does not work. */
async function takenOut(): Promise<{ root: string | null; notes: string[] }> {
  await put('usr/bin/gcc', '#!/bin/sh\n', 0o755);
  const [raw, disk] = [join(dir, 'disk.raw'), join(dir, 'disk.qcow2')];
  await run('mke2fs', ['-q', '-t', 'ext4', '-d', join(dir, 'root'), raw, '40000k'], { env: SBIN });
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, disk]);
  await rm(raw);
  const layer = {
    ...{ disk, rootOffset: 0, release: RELEASE, variant: 'build' },
    entry: { dir: join(dir, 'cache', 'images', 'a'.repeat(64)), meta: { created: '' } },
  } as unknown as KernelLayer;
  const notes: string[] = [];
  const taken = await compilerRoot(layer, {
    ...{ arch: 'x86_64', accel: 'tcg', cpu: 'max', cpus: 1, memoryMiB: 512, compileOnHost: true },
    emit: (event) => void (event.type === 'note' && notes.push(event.message)),
    signal: new AbortController().signal,
  });
  await taken?.entry.use.release();
  return { root: taken?.root ?? null, notes };
}

test('what is taken out of a layer is nobody’s way to other rights on this host', async () => {
  await put('usr/src/linux/x.h', 'text');
  await put('usr/src/linux/tool', '#!/bin/sh\n', 0o6755);
  await put('usr/lib/gcc/x', 'x', 0o4711);
  await put('etc/shadow', 'not asked for');
  await symlink('/etc/shadow', join(dir, 'root/usr/src/linux/link'));
  const { root, notes } = await takenOut();
  expect(notes).toEqual([]);
  const mode = async (path: string): Promise<string> =>
    ((await stat(join(root!, path))).mode & 0o7777).toString(8);
  expect(await mode('usr/src/linux/tool')).toBe('755');
  expect(await mode('usr/lib/gcc/x')).toBe('755');
  expect(await mode('')).toBe('755');
  expect(await readFile(join(root!, 'usr/src/linux/x.h'), 'utf8')).toBe('text');
  await expect(stat(join(root!, 'etc'))).rejects.toThrow('ENOENT');
  const { stdout } = await run('find', [
    root!,
    '!',
    '(',
    '-type',
    'f',
    '-o',
    '-type',
    'd',
    '-o',
    '-type',
    'l',
    ')',
  ]);
  expect(stdout).toBe('');
});

test('a file of holes without end is not written out', async () => {
  await put('usr/src/linux/large', '');
  await truncate(join(dir, 'root/usr/src/linux/large'), 64 * 2 ** 30);
  const { root, notes } = await takenOut();
  expect(root).toBeNull();
  expect(notes).toEqual([expect.stringMatching(/^Compilations stay in the VM/)]);
});
