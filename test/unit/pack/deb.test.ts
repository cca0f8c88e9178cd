import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Dkms2binError } from '../../../src/model/errors.js';
import { formatControl, makeDeb, type ControlFields } from '../../../src/pack/deb.js';
import { debName, debVersion } from '../../../src/distro/deb-names.js';
import { packModules, type PackInput } from '../../../src/pack/module-package.js';
import { isExtraPath } from '../../../src/pack/shared-files.js';
import { fakeModule } from '../fixtures/elf.js';
import { control, EXTRAS, MTIME, packInput } from '../fixtures/pack-input.js';

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

describe('control fields', () => {
  it('writes the description as dpkg wants it', () => {
    expect(formatControl(control(), 3)).toMatch(/\nDescription: foo\n one\n \.\n {3}two\n$/);
  });

  it.each<Partial<ControlFields>>([
    { package: 'Foo' },
    { package: 'foo\nEssential: yes' },
    { version: 'v1' },
    { version: '1-' },
    { version: '1\nPre-Depends: x' },
    { architecture: 'amd64 i386' },
    { maintainer: 'nobody' },
    { maintainer: 'a <a@b>\nX: y' },
    { depends: ['a, b'] },
    { depends: ['a (>= 1'] },
    { provides: ['a\nb'] },
    { description: { synopsis: 'a\nb', lines: [] } },
    { description: { synopsis: 'a', lines: ['b\nEvil: 1'] } },
    { description: { synopsis: 'a', lines: ['.b'] } },
  ])('refuses %j', (more) => {
    expect(() => formatControl(control(more), 1)).toThrow(Dkms2binError);
  });
});

describe('makeDeb', () => {
  const make = (paths: string[], mode = 0o644) =>
    makeDeb({
      control: control(),
      files: paths.map((path) => ({ path, mode, bytes: Buffer.from(path) })),
      scripts: {},
      mtime: MTIME,
    });

  it.each(['relative', '/a/../b', '/a//b', '/a/', '/', '/a\nb', '/./a'])('refuses the path %j', (path) => {
    expect(() => make([path])).toThrow(Dkms2binError);
  });

  it('refuses duplicates, a file that is a folder, setuid, and a path beyond ustar', () => {
    expect(() => make(['/a', '/a'])).toThrow('Twice');
    expect(() => make(['/a', '/a/b'])).toThrow('Both a file and a folder');
    expect(() => make(['/a'], 0o4755)).toThrow('Not a mode');
    expect(() => make([`/${'x'.repeat(120)}`])).toThrow('Too long');
  });

  it('refuses a time that tar cannot hold', () => {
    const of = { control: control(), files: [], scripts: {} };
    for (const mtime of [-1, 8 ** 11, 0.5]) {
      expect(() => makeDeb({ ...of, mtime })).toThrow('SOURCE_DATE_EPOCH');
    }
  });

  it('does not depend on the order of its files', () => {
    expect(make(['/a/b', '/a-c', '/a.d'])).toEqual(make(['/a.d', '/a/b', '/a-c']));
  });
});

describe('names', () => {
  it('are as Debian allows them', () => {
    expect(debName('acpi_call')).toBe('acpi-call');
    expect(debName('_Foo Bar_')).toBe('foo-bar');
    expect(debVersion('1.3.47')).toBe('1.3.47');
    expect(debVersion('v1.2_3')).toBe('0~v1.2.3');
    expect(debVersion('1:2-')).toBe('1.2');
    expect(debVersion('1.0-2~deb12+u1')).toBe('1.0-2~deb12+u1');
    expect(() => debVersion('___')).toThrow(Dkms2binError);
  });

  it('of extras lie where packages put files', () => {
    for (const { path } of EXTRAS) expect(isExtraPath(path)).toBe(true);
    for (const path of [
      ...[
        '/etc/passwd',
        '/lib/firmware/../../etc/x',
        '/etc/modprobe.d/',
        'lib/firmware/x',
        '/boot/x',
        '/etc/sudoers',
      ],
      ...['/lib/modules/6.1.0-56-amd64/x.ko', '/usr/lib/modules/x/y.ko', '/var/lib/dpkg/status', '/home/x/y'],
    ]) {
      expect(isExtraPath(path)).toBe(false);
    }
  });
});

describe('packModules', () => {
  it('gives the same bytes twice, and one common package for all kernels', async () => {
    const one = await packModules(packInput(tmp, '6.1.0-56-amd64', { extras: EXTRAS }));
    const again = await packModules(packInput(tmp, '6.1.0-56-amd64', { extras: [...EXTRAS].reverse() }));
    expect(again.map((each) => each.status)).toEqual(['up to date', 'up to date']);
    expect(again.map((each) => each.sha256)).toEqual(one.map((each) => each.sha256));
    const other = await packModules(packInput(tmp, '6.12.117+deb12-amd64', { extras: EXTRAS }));
    expect(other.map((each) => each.status)).toEqual(['up to date', 'written']);
    expect(readdirSync(tmp).sort()).toEqual([
      'acpi-call-modules-common_1.2.2-1_all.deb',
      'acpi_call_1.2.2-6.1.0-56-amd64_x86_64.deb',
      'acpi_call_1.2.2-6.12.117+deb12-amd64_x86_64.deb',
    ]);
  });

  it.each<[string, Partial<PackInput>]>([
    ['a module for another kernel', { modules: [{ name: 'a.ko', bytes: fakeModule('6.1.0-1-amd64') }] }],
    ['no module', { modules: [] }],
    ['a file name from the guest', { modules: [{ name: '../a.ko', bytes: fakeModule('6.1.0-56-amd64') }] }],
    ['a release with shell in it', { release: "6.1';reboot;'" }],
    ['a release that is a path', { release: '6/../..' }],
    ['an unknown architecture', { debArch: 'vax' }],
    ['a file name that is a path', { fileName: '../x.deb' }],
    ['an extra file elsewhere', { extras: [{ path: '/etc/shadow', bytes: Buffer.alloc(0), mode: 0o644 }] }],
    ['a version of nothing', { version: '' }],
    ['a module without a name', { module: '___' }],
    ['a source package with a newline', { sourcePackage: { name: 'a', version: '1\nEssential: yes' } }],
  ])('refuses %s and writes nothing', async (_name, more) => {
    await expect(packModules(packInput(tmp, '6.1.0-56-amd64', more))).rejects.toBeInstanceOf(Dkms2binError);
    expect(readdirSync(tmp)).toEqual([]);
  });
});
