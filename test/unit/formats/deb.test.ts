import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Dkms2binError } from '../../../src/model/errors.js';
import { makeDeb } from '../../../src/pack/deb.js';
import { parseDeb, readDeb } from '../../../src/formats/deb.js';
import type { PackageLimits } from '../../../src/formats/package.js';
import { ar, BINARY, CONTROL, deb, tar } from '../fixtures/deb.js';
import { fakeModule } from '../fixtures/elf.js';

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

const RELEASE = '6.1.0-56-amd64';
const ours = (): Buffer =>
  makeDeb({
    control: {
      package: `foo-modules-${RELEASE}`,
      version: '1:1.0-2',
      architecture: 'amd64',
      maintainer: 'dkms2bin <root@localhost>',
      section: 'kernel',
      priority: 'optional',
      depends: [`linux-image-${RELEASE}`],
      description: { synopsis: 'foo', lines: ['one', '', '  two'] },
    },
    files: [
      { path: `/lib/modules/${RELEASE}/updates/dkms/foo.ko`, mode: 0o644, bytes: fakeModule(RELEASE, 'foo') },
      { path: '/etc/modprobe.d/foo.conf', mode: 0o600, bytes: Buffer.from('options foo x=1\n') },
    ],
    scripts: { postinst: '#!/bin/sh\n' },
    mtime: 1_700_000_000,
  });

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

describe('readDeb', () => {
  it('reads what makeDeb makes', async () => {
    const path = join(tmp, 'ours.deb');
    writeFileSync(path, ours());
    const { control, files } = await readDeb(path);
    expect(control.get('Version')).toBe('1:1.0-2');
    expect(control.get('Description')).toBe('foo\none\n.\n  two');
    expect(files.map(({ path: at, mode, size, type }) => [at, mode, size, type])).toEqual([
      ['/etc/modprobe.d/foo.conf', 0o600, 16, 'file'],
      [`/lib/modules/${RELEASE}/updates/dkms/foo.ko`, 0o644, fakeModule(RELEASE, 'foo').length, 'file'],
    ]);
    expect(files[1]?.bytes()).toEqual(fakeModule(RELEASE, 'foo'));
  });

  it('says what is wrong with a path', async () => {
    await expect(readDeb(join(tmp, 'none.deb'))).rejects.toThrow(/none\.deb: no such file/);
    await expect(readDeb(tmp)).rejects.toThrow(/is not a file/);
    writeFileSync(join(tmp, 'big.deb'), ours());
    await expect(readDeb(join(tmp, 'big.deb'), { packed: 100 })).rejects.toThrow(/limit is 100/);
  });
});

describe('hostile input', () => {
  it('refuses a package cut anywhere', async () => {
    const bytes = ours();
    for (let length = 0; length < bytes.length; length++) {
      expect(await refused(bytes.subarray(0, length)), `${length} bytes`).not.toBe('accepted');
    }
  });

  it('refuses a tar cut at any block', async () => {
    const whole = tar({ name: './a', body: 'x'.repeat(2000) }, { name: './b', body: 'y' });
    for (let length = 0; length < whole.length - 1024; length += 256) {
      expect(await refused(deb(whole.subarray(0, length)))).toMatch(/cut off/);
    }
  });

  it('throws nothing but its own error, whatever is changed', async () => {
    // Not at random by the clock: what fails once fails again.
    let seed = 42;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    const data = tar(
      { name: './a', body: 'x'.repeat(600) },
      { name: 'x', type: 'L', body: `./${'b'.repeat(200)}\0` },
    );
    const seeds = [ours(), deb(data), deb(gunzipSync(gzipSync(data)))];
    let refusals = 0;
    for (let round = 0; round < 3000; round++) {
      const bytes = Buffer.from(seeds[round % seeds.length] ?? data);
      for (let n = random(4); n >= 0; n--) bytes[random(bytes.length)] = random(256);
      // Half of the time where the headers are.
      if (round % 2 === 0) bytes[random(1024)] = random(256);
      if ((await refused(bytes)) !== 'accepted') refusals++;
    }
    expect(refusals).toBeGreaterThan(500);
  });

  it('holds the limits', async () => {
    const bomb = ar(
      BINARY,
      ['control.tar', tar({ name: './control', body: CONTROL })],
      ['data.tar.gz', gzipSync(Buffer.alloc(8 * 2 ** 20))],
    );
    expect(await refused(bomb, { data: 2 ** 20 })).toMatch(/data\.tar\.gz unpacks to more than the limit/);
    expect(await refused(ours(), { control: 1024 })).toMatch(/control\.tar\.gz unpacks to more/);
    expect(await refused(ours(), { entries: 3 })).toMatch(/more than 3 entries/);
  });

  it.each<[string, Buffer]>([
    ['it is not an ar archive', Buffer.from('PK\x03\x04 something else')],
    ['not debian-binary', ar(['foo.o', Buffer.from('x')])],
    ['unknown format', ar(['debian-binary', Buffer.from('9.0\n')])],
    ['out of order or appears twice', ar(BINARY, ['data.tar', tar()], ['control.tar', tar()])],
    [
      'out of order or appears twice',
      Buffer.concat([deb(tar()), ar(['data.tar', tar({ name: './evil' })]).subarray(8)]),
    ],
    ['only gzip, xz, zstd, lzma, bzip2', ar(BINARY, ['control.tar.lz', tar()])],
    // Only the padding byte is missing.
    ['later is cut off', Buffer.concat([deb(tar()), ar(['later', Buffer.from('y')]).subarray(8, -1)])],
    ['an unknown member', ar(BINARY, ['evil.tar', tar()])],
    ['data.tar is missing', ar(BINARY, ['control.tar', tar()])],
    ['no control file', ar(BINARY, ['control.tar', tar()], ['data.tar', tar()])],
    ['no Version', deb(tar(), 'Package: x\nArchitecture: all\n')],
    ['package twice', deb(tar(), `${CONTROL}package: y\n`)],
    ['is not a field', deb(tar(), `${CONTROL}nonsense\n`)],
    ['a path that', deb(tar({ name: './../../etc/passwd' }))],
    ['a path that', deb(tar({ name: './a\x1b[2J' }))],
    ['a path that', deb(tar({ name: 'x', type: 'L', body: '../x\0' }, { name: 'y' }))],
    ['appears twice', deb(tar({ name: './a' }, { name: 'a' }))],
    ['appears twice', deb(tar({ name: './a' }, { name: './a', type: '5' }))],
    ['appears twice', deb(tar({ name: './' }))],
    ['hard link to nothing', deb(tar({ name: './a', type: '1', link: '/etc/shadow' }))],
    ['unknown type', deb(tar({ name: './a', type: 'x', body: '20 path=../../x\n' }))],
    ['a name of', deb(tar({ name: 'x', type: 'L', body: 'a'.repeat(5000) }, { name: 'y' }))],
    ['cut off', deb(tar({ name: './a', size: '77777777777\0' }))],
    ['cut off', deb(tar({ name: './a', size: '\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff' }))],
    ['cut off', deb(tar({ name: './a', size: '-1\0' }))],
  ])('%s', async (why, bytes) => {
    expect(await refused(bytes)).toContain(why);
  });

  it('is indifferent to what dpkg is indifferent to', async () => {
    const data = tar({ name: './dev/x', type: '3' }, { name: '/abs', body: 'x' });
    const bytes = ar(
      ['debian-binary/', Buffer.from('2.1\nmore\n')],
      ['_gpgorigin', Buffer.from('x')],
      ['control.tar', tar({ name: 'control', body: CONTROL })],
      ['data.tar', data],
      ['later', Buffer.from('y')],
    );
    const { files } = await parseDeb(bytes, 'x.deb');
    expect(files.map((file) => [file.path, file.type])).toEqual([
      ['/dev/x', 'special'],
      ['/abs', 'file'],
    ]);
  });
});
