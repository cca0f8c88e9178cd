import { execa } from 'execa';
import { mkdir, mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { run } from '../../../src/lib/exec.js';
import { SBIN } from '../../../src/lib/namespace.js';
import { qcow2Info } from '../../../src/lib/qemu-img.js';
import { OFFICIAL_GIB, unpackedImage } from '../../../src/environment/unpacked-image.js';
import type { Event } from '../../../src/model/events.js';

const MIB = 1024 * 1024;
const UUID = '0dbb09f2-7f28-4c6b-8d7f-5f0a0a2f5c1e';
const env = { env: SBIN };
let dir = '';
let events: Event[];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dkms2bin-test-'));
  process.env.DKMS2BIN_CACHE = join(dir, 'cache');
  events = [];
});
afterEach(async () => {
  delete process.env.DKMS2BIN_CACHE;
  await rm(dir, { recursive: true, force: true });
});

/** A disk like a cloud image's: the root is the last partition and the first in number, the qcow2 is compressed. */
async function image(makeRoot: (offset: number, raw: string) => Promise<void>): Promise<string> {
  const [raw, disk] = [join(dir, 'disk.raw'), join(dir, 'disk.qcow2')];
  await run('truncate', ['-s', '80M', raw]);
  const table = 'label: gpt\n15 : start=2048, size=8192\n1 : start=16384, size=143360, uuid=' + UUID;
  await run('sfdisk', ['--quiet', raw], { ...env, input: table });
  await makeRoot(16384 * 512, raw);
  await run('qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', raw, disk]);
  return disk;
}

async function withExt4(offset: number, raw: string): Promise<void> {
  const root = join(dir, 'root');
  await mkdir(join(root, 'etc'), { recursive: true });
  await writeFile(join(root, 'etc/os-release'), 'ID=test\n');
  await writeFile(join(root, 'etc/secret'), 'x', { mode: 0o640 });
  await symlink('os-release', join(root, 'etc/link'));
  const options = ['-q', '-t', 'ext4', '-U', UUID, '-d', root, '-E', `offset=${offset},root_owner=0:0`];
  await run('mke2fs', [...options, raw, `${143360 / 2}k`], env);
  await run('debugfs', ['-w', '-R', 'sif /etc/secret gid 42', `${raw}?offset=${offset}`], env);
}

const unpack = (disk: string) =>
  unpackedImage({
    disk,
    of: { kind: 'images', hash: 'a'.repeat(64) + '.qcow2' },
    name: 'test',
    emit: (event) => events.push(event),
    signal: new AbortController().signal,
  });

test('the root of an image is unpacked with its owners, and its disk is grown and uncompressed', async () => {
  const entry = await unpack(await image(withExt4));
  expect(events.filter(({ type }) => type === 'note')).toEqual([]);
  if (!entry) throw new Error('it was not unpacked');
  expect(entry.meta).toMatchObject({ rootOffset: 16384 * 512, rootUuid: UUID });
  const { stdout: listed } = await execa('tar', ['--numeric-owner', '-tvf', join(entry.dir, 'root.tar.zst')]);
  expect(listed).toMatch(/^-rw-r----- \d+\/42 .* \.\/etc\/secret$/m);
  expect(listed).toContain('./etc/link -> os-release');

  const disk = join(entry.dir, 'disk.qcow2');
  expect((await qcow2Info(disk)).virtualSize).toBe(OFFICIAL_GIB * 1024 ** 3);
  const raw = join(dir, 'again.raw');
  await run('qemu-img', ['convert', '-O', 'raw', disk, raw]);
  const { stderr } = await run('sfdisk', ['--verify', raw], env);
  expect(stderr).toBe('');
  const { stdout: table } = await run('sfdisk', ['--dump', raw], env);
  expect(table).toMatch(new RegExp(`start= *16384, .*uuid=${UUID.toUpperCase()}`));
  const filesystem = `${raw}?offset=${16384 * 512}`;
  await run('e2fsck', ['-fn', filesystem], env);
  const { stdout: about } = await run('dumpe2fs', ['-h', filesystem], env);
  const blocks = Number(/^Block count: +(\d+)$/m.exec(about)?.[1]);
  const size = Number(/^Block size: +(\d+)$/m.exec(about)?.[1]);
  expect(blocks * size).toBeGreaterThan((OFFICIAL_GIB * 1024 - 20) * MIB);
  expect((await stat(disk)).size).toBeLessThan(300 * MIB);
  await entry.use.release();
});

test('an image with another root file system is left to a VM, which is said', async () => {
  const entry = await unpack(await image(() => Promise.resolve()));
  expect(entry).toBeNull();
  expect(events).toContainEqual(
    expect.objectContaining({
      type: 'note',
      message: expect.stringMatching(/made in a VM.*its root file system is not ext4/) as string,
    }),
  );
});
