import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { incomplete, kernelsOfFiles } from '../../../src/distro/kernel-files.js';
import { makeDeb } from '../../../src/pack/deb.js';

let folder = '';
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), 'kernel-files-'))));
afterAll(() => rm(folder, { recursive: true }));

/** A .deb of empty files, under a file name that says nothing. */
async function deb(
  of: { name: string; version?: string; architecture?: string; depends?: string[] },
  paths: string[],
): Promise<string> {
  const { name, version = '1', architecture = 'amd64', depends = [] } = of;
  const bytes = makeDeb({
    control: {
      ...{ package: name, version, architecture, depends },
      ...{ maintainer: 'Rig <rig@rig.invalid>', section: 'kernel', priority: 'optional' },
      description: { synopsis: 'of a kernel', lines: [] },
    },
    files: paths.map((path) => ({ path, mode: 0o644, bytes: Buffer.from('x') })),
    scripts: {},
    mtime: 1_600_000_000,
  });
  const file = join(folder, `${String(Math.random()).slice(2)}.deb`);
  await writeFile(file, bytes);
  return file;
}

const read = (files: string[], arch: 'x86_64' | 'aarch64' = 'x86_64') =>
  kernelsOfFiles(files, { arch, cwd: folder });

test('make bindeb-pkg: the release is in the files, and its packages say what they are', async () => {
  const release = '6.12.3-house+';
  const image = await deb({ name: `linux-image-${release}`, version: '6.12.3-2' }, [
    `/boot/vmlinuz-${release}`,
    `/lib/modules/${release}/kernel/fs/ext4.ko`,
  ]);
  const headers = await deb({ name: `linux-headers-${release}` }, [`/lib/modules/${release}/build`]);
  expect(await read([headers, image])).toEqual([
    {
      ...{ release, packageVersion: '6.12.3-2', form: 'deb', missing: [] },
      packages: { image: `linux-image-${release}`, headers: `linux-headers-${release}` },
    },
  ]);
  const [alone] = await read([image]);
  expect(incomplete(alone!).message).toBe(
    `Of the kernel ${release} the --kernel-package files lack linux-headers-${release}`,
  );
});

test("Proxmox's, whose headers are called after it", async () => {
  const release = '6.8.12-4-pve';
  const image = await deb({ name: `proxmox-kernel-${release}-signed` }, [
    `/boot/vmlinuz-${release}`,
    `/lib/modules/${release}/kernel/x.ko`,
  ]);
  expect(await read([image])).toMatchObject([
    {
      release,
      packages: { image: `proxmox-kernel-${release}-signed` },
      missing: [`proxmox-headers-${release}`],
    },
  ]);
});

test("Ubuntu's split: each package that is not there is named", async () => {
  const [release, abi] = ['6.11.0-061100-generic', '6.11.0-061100'];
  const image = await deb(
    { name: `linux-image-unsigned-${release}`, depends: ['kmod', `linux-modules-${release}`] },
    [`/boot/vmlinuz-${release}`],
  );
  const headers = await deb(
    { name: `linux-headers-${release}`, depends: [`linux-headers-${abi}`, 'libc6'] },
    [`/lib/modules/${release}/build`],
  );
  const common = await deb({ name: `linux-headers-${abi}`, architecture: 'all' }, [`/usr/src/x/Makefile`]);
  const modules = await deb({ name: `linux-modules-${release}` }, [`/lib/modules/${release}/kernel/x.ko`]);
  expect((await read([image, headers]))[0]?.missing).toEqual([
    `linux-modules-${release}`,
    `linux-headers-${abi}`,
  ]);
  expect((await read([image, headers, common, modules]))[0]?.missing).toEqual([]);
});

test('files without an image, of another architecture, or that are none are refused in words', async () => {
  const headers = await deb({ name: 'linux-headers-6.1.0-1-amd64' }, ['/lib/modules/6.1.0-1-amd64/build']);
  await expect(read([headers])).rejects.toMatchObject({
    fault: 'usage',
    message: 'None of the --kernel-package files is a kernel image',
    hint: expect.stringContaining('(headers)') as string,
  });
  const arm = await deb({ name: 'linux-image-6.1.0-1-arm64', architecture: 'arm64' }, [
    '/boot/vmlinuz-6.1.0-1-arm64',
  ]);
  await expect(read([arm])).rejects.toThrow('is for arm64, not for amd64');
  expect((await read([arm], 'aarch64'))[0]?.release).toBe('6.1.0-1-arm64');
  await writeFile(join(folder, 'none.deb'), 'no package');
  await expect(read(['none.deb'])).rejects.toThrow('not a Debian package');
  await expect(read(['gone.deb'])).rejects.toThrow('no such file');
});
