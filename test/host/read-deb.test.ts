import { spawnSync } from 'node:child_process';
import { linkSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Dkms2binError } from '../../src/model/errors.js';
import { parseDeb, readDeb } from '../../src/formats/deb.js';
import type { PackageLimits } from '../../src/formats/package.js';
import { ar, BINARY, CONTROL, tar } from '../unit/deb-fixture.js';
import { hasTool } from '../unit/pack-fixture.js';

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

const LONG = `/usr/share/${'long-folder-name/'.repeat(12)}${'f'.repeat(120)}`;

/** A package by the real dpkg-deb with a long path, a symlink, a hard link and an empty file. */
function theirs(compression: string): string {
  const root = join(tmp, 'root');
  rmSync(root, { recursive: true, force: true });
  mkdirSync(join(root, 'DEBIAN'), { recursive: true });
  writeFileSync(
    join(root, 'DEBIAN/control'),
    'Package: foo\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@b>\nDescription: foo\n bar\n .\n baz\n',
  );
  mkdirSync(dirname(join(root, LONG)), { recursive: true });
  writeFileSync(join(root, LONG), 'long');
  writeFileSync(join(root, 'usr/share/a'), 'same');
  linkSync(join(root, 'usr/share/a'), join(root, 'usr/share/b'));
  symlinkSync(`/${'t'.repeat(150)}`, join(root, 'usr/share/c'));
  writeFileSync(join(root, 'usr/share/größe'), '');
  const to = join(tmp, `${compression}.deb`);
  const made = spawnSync('dpkg-deb', ['--root-owner-group', `-Z${compression}`, '-b', root, to]);
  if (made.status !== 0) throw new Error(String(made.stderr));
  return to;
}

async function refused(bytes: Buffer, limits: Partial<PackageLimits> = {}): Promise<string> {
  try {
    const deb = await parseDeb(bytes, 'x.deb', limits);
    deb.files.forEach((file) => file.bytes());
  } catch (error) {
    expect(error).toBeInstanceOf(Dkms2binError);
    expect((error as Dkms2binError).fault).toBe('usage');
    expect((error as Dkms2binError).message).toMatch(/^x\.deb/);
    return (error as Dkms2binError).message;
  }
  return 'accepted';
}

it.each(['none', 'gzip', 'xz', 'zstd'])('reads what dpkg-deb -Z%s makes', async (compression) => {
  if (!hasTool('dpkg-deb')) return;
  const { control, files } = await readDeb(theirs(compression));
  expect(Object.fromEntries(control)).toMatchObject({ Package: 'foo', Description: 'foo\nbar\n.\nbaz' });
  const found = new Map(files.map((file) => [file.path, file]));
  expect([...found.keys()].sort()).toEqual(
    [LONG, '/usr/share/a', '/usr/share/b', '/usr/share/c', '/usr/share/größe'].sort(),
  );
  expect(found.get(LONG)?.bytes().toString()).toBe('long');
  expect(found.get('/usr/share/a')?.bytes().toString()).toBe('same');
  expect(found.get('/usr/share/b')).toMatchObject({ type: 'file', size: 4 });
  expect(found.get('/usr/share/b')?.bytes().toString()).toBe('same');
  expect(found.get('/usr/share/c')).toMatchObject({
    type: 'symlink',
    size: 0,
    target: `/${'t'.repeat(150)}`,
  });
  expect(found.get('/usr/share/größe')?.size).toBe(0);
});

it('never waits for a pipe', async () => {
  spawnSync('mkfifo', [join(tmp, 'fifo')]);
  await expect(readDeb(join(tmp, 'fifo'))).rejects.toThrow(/is not a file/);
});

it('refuses xz and zstd cut anywhere', async () => {
  for (const compression of ['xz', 'zstd']) {
    if (!hasTool('dpkg-deb')) return;
    const bytes = readFileSync(theirs(compression));
    for (let step = 0; step < 20; step++) {
      const length = Math.floor((bytes.length * step) / 20);
      expect(await refused(bytes.subarray(0, length))).not.toBe('accepted');
    }
  }
});

it('holds the limits for xz and zstd', async () => {
  for (const [tool, suffix] of [
    ['xz', 'xz'],
    ['zstd', 'zst'],
  ] as const) {
    if (!hasTool(tool)) continue;
    const packed = spawnSync(tool, ['-cq'], { input: Buffer.alloc(8 * 2 ** 20) }).stdout;
    const bytes = ar(
      BINARY,
      ['control.tar', tar({ name: './control', body: CONTROL })],
      [`data.tar.${suffix}`, packed],
    );
    expect(await refused(bytes, { data: 2 ** 20 })).toMatch(/unpacks to more than the limit/);
  }
});
