import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseDeb } from '../../../src/formats/deb.js';
import { makeDeb } from '../../../src/pack/deb.js';
import { sameModulesOf } from '../../../src/repo/index.js';
import { packModules } from '../../../src/pack/module-package.js';
import { sharedFiles } from '../../../src/pack/shared-files.js';
import { hasTool } from '../fixtures/has-tool.js';
import { fakeModule } from '../../unit/fixtures/elf.js';
import { control, EXTRAS, MTIME, packInput } from '../../unit/fixtures/pack-input.js';

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

function tool(file: string, args: string[], env: Record<string, string> = {}): string {
  const done = spawnSync(file, args, { env: { ...process.env, LC_ALL: 'C', TZ: 'UTC', ...env } });
  if (done.status !== 0)
    throw new Error(`${file} ${args.join(' ')}: ${String(done.stdout)}${String(done.stderr)}`);
  return String(done.stdout);
}

describe('makeDeb', () => {
  const make = (paths: string[], mode = 0o644) =>
    makeDeb({
      control: control(),
      files: paths.map((path) => ({ path, mode, bytes: Buffer.from(path) })),
      scripts: {},
      mtime: MTIME,
    });

  it('stores long paths so that dpkg finds them', (ctx) => {
    if (!hasTool('dpkg-deb')) ctx.skip('dpkg-deb is not installed');
    const paths = [60, 94, 95, 96, 97, 98, 99].flatMap((length) => [
      `/lib/${'d'.repeat(length)}/${'f'.repeat(90)}`,
      `/opt/${'e'.repeat(length)}/${'g'.repeat(50)}/${'h'.repeat(47)}/i`,
    ]);
    writeFileSync(join(tmp, 'a.deb'), make(paths));
    tool('dpkg-deb', ['-x', join(tmp, 'a.deb'), join(tmp, 'x')]);
    for (const path of paths) expect(readFileSync(join(tmp, 'x', path), 'utf8')).toBe(path);
  });
});

describe('packModules', () => {
  it('makes one package that dpkg-deb reads', async (ctx) => {
    if (!hasTool('dpkg-deb')) ctx.skip('dpkg-deb is not installed');
    const release = '6.1.0-56-amd64';
    const packed = await packModules(
      packInput(tmp, release, { dependsModules: ['base_mod'], sourcePackage: null }),
    );
    expect(packed).toHaveLength(1);
    const deb = packed[0]?.path ?? '';
    expect(deb).toBe(join(tmp, 'acpi_call_1.2.2-6.1.0-56-amd64_x86_64.deb'));
    expect(tool('dpkg-deb', ['-f', deb])).toBe(
      [
        'Package: acpi-call-modules-6.1.0-56-amd64',
        'Version: 1.2.2',
        'Architecture: amd64',
        'Maintainer: dkms2bin <root@localhost>',
        'Installed-Size: 10',
        'Depends: linux-image-6.1.0-56-amd64 | linux-image-6.1.0-56-amd64-unsigned, base-mod-modules-6.1.0-56-amd64',
        'Conflicts: acpi-call.ko-6.1.0-56-amd64',
        'Provides: acpi-call-modules, acpi-call.ko-6.1.0-56-amd64',
        'Section: kernel',
        'Priority: optional',
        'Description: acpi_call kernel module for Linux 6.1.0-56-amd64',
        ' Built from its DKMS source for exactly this kernel; needs neither a compiler nor',
        ' kernel headers.',
        ' .',
        '   Module version: 1.2.2',
        '   Kernel: 6.1.0-56-amd64',
        '   Vermagic: 6.1.0-56-amd64 SMP preempt mod_unload modversions',
        '',
      ].join('\n'),
    );
    const listed = tool('dpkg-deb', ['-c', deb]).trimEnd().split('\n');
    expect(listed.every((line) => line.includes(' root/root '))).toBe(true);
    expect(listed.every((line) => line.includes('2023-11-14 22:13'))).toBe(true);
    expect(listed.map((line) => `${line.slice(0, 10)} ${line.split(' ').at(-1) ?? ''}`)).toEqual([
      'drwxr-xr-x ./',
      'drwxr-xr-x ./lib/',
      'drwxr-xr-x ./lib/modules/',
      `drwxr-xr-x ./lib/modules/${release}/`,
      `drwxr-xr-x ./lib/modules/${release}/updates/`,
      `drwxr-xr-x ./lib/modules/${release}/updates/dkms/`,
      `-rw-r--r-- ./lib/modules/${release}/updates/dkms/acpi_call.ko`,
    ]);
    tool('dpkg-deb', ['-R', deb, join(tmp, 'x')]);
    expect(readFileSync(join(tmp, `x/lib/modules/${release}/updates/dkms/acpi_call.ko`))).toEqual(
      fakeModule(release),
    );
    expect(readdirSync(join(tmp, 'x/DEBIAN')).sort()).toEqual([
      ...['control', 'md5sums', 'postinst', 'postrm', 'preinst', 'triggers'],
    ]);
    expect(tool('sh', ['-c', `cd ${tmp}/x && md5sum -c DEBIAN/md5sums`])).toContain('OK');
    const postinst = readFileSync(join(tmp, 'x/DEBIAN/postinst'), 'utf8');
    expect(postinst).toContain(`release='${release}'`);
    expect(postinst).not.toMatch(/@[A-Z]+@/);
    for (const name of ['preinst', 'postinst', 'postrm']) tool('sh', ['-n', join(tmp, 'x/DEBIAN', name)]);
  });

  it('of two packages with the same module dpkg names the one that is in the way', async (ctx) => {
    if (!hasTool('dpkg')) ctx.skip('dpkg is not installed');
    const root = join(tmp, 'root');
    mkdirSync(join(root, 'var/lib/dpkg/info'), { recursive: true });
    mkdirSync(join(root, 'var/lib/dpkg/updates'));
    for (const file of ['status', 'available']) writeFileSync(join(root, 'var/lib/dpkg', file), '');
    const release = '6.1.0-56-amd64';
    const source = { sourcePackage: null };
    const one = await packModules(packInput(tmp, release, source));
    const other = await packModules(
      packInput(tmp, release, { ...source, module: 'fork', fileName: 'fork.deb' }),
    );
    const force = ['--force-depends', '--force-not-root', '--force-bad-path', '--force-script-chrootless'];
    const said = spawnSync(
      'dpkg',
      [`--root=${root}`, ...force, '--no-triggers', '--unpack', one[0]!.path, other[0]!.path],
      { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } },
    );
    expect(said.stderr).toContain(`fork-modules-${release} conflicts with acpi-call.ko-${release}`);
    expect(said.stderr).toContain(`acpi-call-modules-${release} provides acpi-call.ko-${release}`);
    const told = [
      `acpi-call-modules-${release} and fork-modules-${release} bring the same module (acpi-call.ko): only one of these packages can be installed on a machine`,
    ];
    expect(await sameModulesOf([one[0]!.path, other[0]!.path])).toEqual(told);
    expect(await sameModulesOf([one[0]!.path])).toEqual([]);
  });

  it('carries the folders of a DKMS package, with their modes', async (ctx) => {
    if (!hasTool('dpkg-deb')) ctx.skip('dpkg-deb is not installed');
    const from = join(tmp, 'source');
    const folder = (path: string, mode = 0o755): void => {
      mkdirSync(join(from, path), { recursive: true });
      chmodSync(join(from, path), mode);
    };
    for (const each of ['DEBIAN', 'usr/src/foo-1/empty', 'etc/foo.d', 'usr/lib/dkms', 'run/foo'])
      folder(each);
    folder('var/lib/foo/inbox', 0o1777);
    folder('var/lib/foo', 0o700);
    folder('var/cache/foo', 0o750);
    writeFileSync(join(from, 'var/lib/foo/key'), '');
    const fields = 'Package: foo-dkms\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n';
    writeFileSync(join(from, 'DEBIAN/control'), fields);
    tool('dpkg-deb', ['--root-owner-group', '-b', from, join(tmp, 'foo.deb')]);
    const { files, folders } = await parseDeb(readFileSync(join(tmp, 'foo.deb')), 'foo.deb');
    const { left, ...shared } = sharedFiles(files, folders);
    expect(left).toEqual(['/run/foo/']);
    const sourcePackage = { name: 'foo-dkms', version: '1' };
    const [common] = await packModules(packInput(tmp, '6.1.0-56-amd64', { ...shared, sourcePackage }));
    const listed = tool('dpkg-deb', ['-c', common!.path]).trimEnd().split('\n');
    expect(listed.map((line) => `${line.slice(0, 10)} ${line.split(' ').at(-1) ?? ''}`)).toEqual([
      ...['drwxr-xr-x ./', 'drwxr-xr-x ./etc/', 'drwxr-xr-x ./etc/foo.d/', 'drwxr-xr-x ./var/'],
      ...['drwxr-xr-x ./var/cache/', 'drwxr-x--- ./var/cache/foo/', 'drwxr-xr-x ./var/lib/'],
      ...['drwx------ ./var/lib/foo/', 'drwxr-xr-x ./var/lib/foo/inbox/', '-rw-r--r-- ./var/lib/foo/key'],
    ]);
  });

  it('installs side by side for two kernels, runs depmod, and goes again', async (ctx) => {
    if (!hasTool('dpkg')) ctx.skip('dpkg is not installed');
    if (process.getuid?.() !== 0) ctx.skip('dpkg --root needs root');
    const [root, bin] = [join(tmp, 'root'), join(tmp, 'bin')];
    mkdirSync(join(root, 'var/lib/dpkg/info'), { recursive: true });
    mkdirSync(join(root, 'var/lib/dpkg/updates'));
    for (const file of ['status', 'available']) writeFileSync(join(root, 'var/lib/dpkg', file), '');
    mkdirSync(bin);
    writeFileSync(join(bin, 'depmod'), '#!/bin/sh\necho "$*" >>"${0%/*}/calls"\n');
    chmodSync(join(bin, 'depmod'), 0o755);
    const calls = () => {
      const text = existsSync(join(bin, 'calls')) ? readFileSync(join(bin, 'calls'), 'utf8') : '';
      rmSync(join(bin, 'calls'), { force: true });
      return text;
    };
    const PATH = `${bin}:/usr/sbin:/usr/bin:/sbin:/bin`;
    const dpkg = (...args: string[]) =>
      tool(
        'dpkg',
        [`--root=${root}`, '--force-depends', '--force-architecture', '--force-script-chrootless', ...args],
        {
          PATH,
        },
      );

    // Only this kernel is there; depmod must not be run for the other.
    const here = '6.1.0-56-amd64';
    mkdirSync(join(root, 'lib/modules', here), { recursive: true });
    writeFileSync(join(root, 'lib/modules', here, 'modules.builtin'), '');
    const paths: string[] = [];
    for (const release of [here, '6.12.117+deb12-amd64']) {
      paths.push(
        ...(await packModules(packInput(tmp, release, { extras: EXTRAS }))).map((each) => each.path),
      );
    }
    dpkg('-i', ...new Set(paths));
    expect(calls()).toBe(`-b ${root} ${here}\n`);
    expect(dpkg('-l').match(/^ii +acpi-call-modules-/gm)).toHaveLength(3);
    expect(dpkg('--verify')).toBe('');
    expect(dpkg('-S', '/etc/modprobe.d/acpi-call.conf')).toMatch(/^acpi-call-modules-common:/);
    expect(dpkg('-s', 'acpi-call-modules-common')).toMatch(
      /Conffiles:\n \/etc\/modprobe\.d\/acpi-call\.conf /,
    );
    expect(dpkg('-s', 'acpi-call-modules-common')).toMatch(
      /Conflicts: acpi-call-dkms\nReplaces|Replaces: acpi-call-dkms/,
    );
    expect(dpkg('-s', `acpi-call-modules-${here}`)).toContain(
      'Pre-Depends: acpi-call-modules-common (>= 1.2.2-1)',
    );
    expect(statSync(join(root, 'lib/udev/rules.d/60-acpi-call.rules')).mode & 0o777).toBe(0o600);

    dpkg('-i', ...new Set(paths));
    expect(calls()).toBe(`-b ${root} ${here}\n`);
    dpkg('-r', `acpi-call-modules-${here}`, 'acpi-call-modules-6.12.117+deb12-amd64');
    expect(calls()).toBe(`-b ${root} ${here}\n`);
    expect(existsSync(join(root, 'lib/modules', here, 'updates'))).toBe(false);
    expect(existsSync(join(root, 'lib/modules/6.12.117+deb12-amd64'))).toBe(false);
    dpkg('-P', 'acpi-call-modules-common');
    expect(existsSync(join(root, 'etc/modprobe.d'))).toBe(false);
  });
});
