import { chmod, mkdir, mkdtemp, open, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { run } from '../../src/lib/exec.js';
import { SBIN } from '../../src/lib/namespace.js';
import { writeDelta } from '../../src/environment/delta.js';
import { debugfsCommands } from '../../src/environment/debugfs.js';

const env = { env: SBIN };
const MIB = 1024 * 1024;
let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dkms2bin-test-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const at = (name: string): string => join(dir, name);

/** A sparse disk with these bytes at these offsets. */
async function disk(name: string, size: number, parts: Record<number, Buffer>): Promise<string> {
  const file = await open(at(name), 'wx');
  await file.truncate(size);
  for (const [offset, data] of Object.entries(parts)) await file.write(data, 0, data.length, Number(offset));
  await file.close();
  return at(name);
}

async function toQcow2(raw: string, name: string): Promise<string> {
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, at(name)]);
  return at(name);
}

test('a delta reads as the raw disk and stores only the clusters that differ', async () => {
  const noise = (seed: number): Buffer => Buffer.alloc(300_000, Buffer.from([seed, 7, seed * 3, 1]));
  const size = 64 * MIB + 4096;
  const before = await disk('before.raw', size, {
    0: noise(1),
    [10 * MIB]: noise(2),
    [30 * MIB]: noise(3),
  });
  const base = await toQcow2(before, 'base.qcow2');
  const raw = await disk('after.raw', size, {
    0: noise(1),
    // 10 MiB is a hole now, one byte differs at 30 MiB, 50 MiB is new, and so is the last, short cluster.
    [30 * MIB]: Buffer.concat([noise(3).subarray(0, 70_000), Buffer.from([255]), noise(3).subarray(70_001)]),
    [50 * MIB]: noise(4),
    [size - 10]: Buffer.from('the end'),
  });
  await mkdir(at('work'));
  const out = at('delta.qcow2');
  await writeDelta({ base, raw, out, workDir: at('work') });

  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', raw, out]);
  await run('qemu-img', ['check', '-f', 'qcow2', out]);
  const { stdout } = await run('qemu-img', ['map', '-f', 'qcow2', '--output=json', out]);
  const own = (JSON.parse(stdout) as { start: number; length: number; depth: number }[])
    .filter((e) => e.depth === 0)
    .map((e) => [e.start / 65536, e.length / 65536]);
  expect(own).toEqual([
    [160, 5],
    [481, 1],
    [800, 5],
    [1024, 0.0625],
  ]);
});

test('a delta whose work folder is missing fails instead of coming out short', async () => {
  const raw = await disk('one.raw', MIB, { 0: Buffer.alloc(100, 1) });
  const base = await toQcow2(await disk('zero.raw', MIB, {}), 'base.qcow2');
  await expect(writeDelta({ base, raw, out: at('d.qcow2'), workDir: at('none') })).rejects.toThrow(/ENOENT/);
});

/** The listings that native-layer.sh makes; all that is there counts as touched. */
async function listing(folder: string, format: string): Promise<string> {
  return (await run('find', [folder, '-mindepth', '1', '-printf', format])).stdout;
}
const BEFORE = '%y\t%P\n';
const AFTER = '+\t%y\t%m\t%U\t%G\t%T@\t%P\t%l\n';

test("a folder's changes are written into an ext4 file system", async () => {
  const root = at('root');
  await mkdir(join(root, 'etc/empty'), { recursive: true });
  await mkdir(join(root, 'etc/turns'));
  await writeFile(join(root, 'etc/turns/inside'), 'x');
  await writeFile(join(root, 'etc/replaced'), 'old');
  await writeFile(join(root, 'etc/removed'), 'old');
  await writeFile(join(root, 'etc/kept'), 'kept');
  await writeFile(join(root, 'etc/file-to-folder'), 'old');
  const image = at('disk.raw');
  await run(
    'mke2fs',
    ['-q', '-t', 'ext4', '-d', root, '-E', `offset=${MIB},root_owner=0:0`, image, '16m'],
    env,
  );
  const before = await listing(root, BEFORE);

  await rm(join(root, 'etc/empty'), { recursive: true });
  await rm(join(root, 'etc/turns'), { recursive: true });
  await rm(join(root, 'etc/removed'));
  await rm(join(root, 'etc/file-to-folder'));
  await rm(join(root, 'etc/replaced'));
  await symlink('kept', join(root, 'etc/turns'));
  await mkdir(join(root, 'etc/file-to-folder'), { mode: 0o700 });
  await writeFile(join(root, 'etc/replaced'), 'the new one');
  await chmod(join(root, 'etc/replaced'), 0o4751);
  await writeFile(join(root, 'etc/file-to-folder/with a space\\x2d'), 'spaced');
  await writeFile(join(root, 'etc/large'), Buffer.alloc(3 * MIB, 'abc'));
  const long = 'a-target-of-more-than-sixty-bytes/'.repeat(4);
  await symlink(long, join(root, 'etc/long'));
  await utimes(join(root, 'etc/replaced'), 1_500_000_000, 1_500_000_000);
  // An ordinary user cannot give files away: the listing names the owner.
  const after = (await listing(root, AFTER))
    .split('\n')
    .map((line) =>
      line.includes('\tetc/large\t')
        ? line.replace(/^(\+\tf\t\d+)\t\d+\t\d+/, '$1\t100\t65534')
        : line.replace(/^(\+\t.\t\d+)\t\d+\t\d+/, '$1\t0\t0'),
    )
    .join('\n');
  await writeFile(at('commands'), debugfsCommands(before, after, root));
  const filesystem = `${image}?offset=${MIB}`;
  const { stderr } = await run('debugfs', ['-w', '-f', at('commands'), filesystem], env);
  expect(stderr.split('\n').slice(1)).toEqual([]);
  await run('e2fsck', ['-fn', filesystem], env);

  const ask = async (command: string): Promise<string> =>
    (await run('debugfs', ['-R', command, filesystem], env)).stdout;
  const names = (await ask('ls -p /etc'))
    .split('\n')
    .map((line) => line.split('/')[5])
    .filter((name) => name !== undefined && !name.startsWith('.'));
  expect(names.sort()).toEqual(['file-to-folder', 'kept', 'large', 'long', 'replaced', 'turns']);
  expect(await ask('cat /etc/replaced')).toBe('the new one');
  expect(await ask('stat /etc/replaced')).toMatch(
    /Mode: +04751[^]*User: +0 +Group: +0 [^]*mtime: 0x59682f00/,
  );
  expect(await ask('stat /etc/large')).toMatch(
    /Mode: +0644[^]*User: +100 +Group: 65534 [^]*Size: 3145728[^]*Links: 1 /,
  );
  expect(await ask('cat "/etc/file-to-folder/with a space\\x2d"')).toBe('spaced');
  expect(await ask('stat /etc/file-to-folder')).toMatch(/Type: directory +Mode: +0700/);
  expect(await ask('stat /etc/turns')).toMatch(/Type: symlink[^]*Fast link dest: "kept"/);
  await ask(`dump /etc/large ${at('dumped')}`);
  await run('cmp', [at('dumped'), join(root, 'etc/large')]);
  expect(await ask('stat /etc/long')).toContain(`Size: ${long.length}`);
});
