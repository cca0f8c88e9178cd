import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { run } from '../../../src/lib/exec.js';
import { SBIN } from '../../../src/lib/namespace.js';
import { ROOT_OFFSET, writeDisk } from '../../../src/environment/bootstrap-disk.js';

let dir = '';
beforeEach(async () => void (dir = await mkdtemp(join(tmpdir(), 'dk2b-disk-'))));
afterEach(() => rm(dir, { recursive: true, force: true }));

test("a root folder becomes a disk; on this host nothing of it is setuid, a device or another user's", async () => {
  const from = join(dir, 'from');
  for (const folder of ['boot/grub/i386-pc', 'boot/grub/x86_64-efi', 'usr/bin', 'etc'])
    await mkdir(join(from, folder), { recursive: true });
  const make = `head -c 512 /dev/zero >boot/grub/i386-pc/boot.img; head -c 2048 /dev/zero >boot/grub/i386-pc/core.img
    echo efi >boot/grub/x86_64-efi/core.efi; echo su >usr/bin/su; chmod 4755 usr/bin/su; echo secret >etc/gshadow
    chmod 0 etc/gshadow; ln -s /etc/shadow etc/link`;
  execFileSync('fakeroot', ['sh', '-c', `${make}; chown -R 0:42 etc; tar -cf ../root.tar .`], { cwd: from });
  const scratch = join(dir, 'scratch');
  await mkdir(scratch);
  const [root, raw, rootOut] = [
    join(scratch, 'own', 'root'),
    join(scratch, 'disk.raw'),
    join(dir, 'root.tar.zst'),
  ];
  const tar = join(scratch, 'root.tar');
  await run('cp', [join(dir, 'root.tar'), tar]);
  const uuid = '11111111-2222-4333-8444-555555555555';
  const { signal } = new AbortController();
  await writeDisk({ arch: 'x86_64', diskGiB: 1, uuid, tar, rootOut, root, raw, signal });

  const su = await stat(join(root, 'usr/bin/su'));
  expect([su.mode & 0o7000, su.uid]).toEqual([0, process.getuid!()]);
  expect((await stat(join(scratch, 'own'))).mode & 0o777).toBe(0o700);
  expect((await stat(rootOut)).size).toBeGreaterThan(100);
  const { stdout } = await run('debugfs', ['-R', 'stat /usr/bin/su', `${raw}?offset=${ROOT_OFFSET}`], {
    env: SBIN,
  });
  expect(stdout).toMatch(/Mode: {2}04755/);
  const shadow = await run('debugfs', ['-R', 'stat /etc/gshadow', `${raw}?offset=${ROOT_OFFSET}`], {
    env: SBIN,
  });
  expect(shadow.stdout).toMatch(/User: +0 +Group: +42/);
  expect((await readFile(raw)).subarray(510, 512).toString('hex')).toBe('55aa');
});
