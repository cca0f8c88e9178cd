import { describe, expect, it } from 'vitest';
import { rpmNames, rpmVersion } from '../../src/distro/rpm-names.js';
import { makeRpmSpec, type RpmInput } from '../../src/pack/rpm.js';
import { compareRpmVersions } from '../../src/formats/versions.js';
import { fakeModule } from './pack-fixture.js';

const MTIME = 1_700_000_000;
const EL = '5.14.0-503.el9.x86_64';
const SUSE = '6.4.0-150600.23.25-default';

const input = (more: Partial<RpmInput> = {}): RpmInput => ({
  module: 'acpi_call',
  version: '1.2.2',
  release: EL,
  arch: 'x86_64',
  form: 'kmod',
  modules: [{ name: 'acpi_call.ko', bytes: fakeModule(more.release ?? EL) }],
  extras: [],
  sourcePackage: { name: 'acpi_call-dkms', version: '1.2.2-1' },
  maintainer: 'dkms2bin <root@localhost>',
  dependsModules: [],
  mtime: MTIME,
  ...more,
});

describe('names', () => {
  it.each([
    ['1.2.2', '1.2.2'],
    ['1.2-3', '1.2_3'],
    ['1.2-rc1', '1.2~rc1'],
    ['v1:2', 'v1_2'],
  ])('makes %j the version %j', (from, to) => expect(rpmVersion(from)).toBe(to));

  it('sorts a release candidate before its release', () => {
    expect(compareRpmVersions(rpmVersion('1.2-rc1'), rpmVersion('1.2'))).toBeLessThan(0);
    expect(compareRpmVersions(rpmVersion('1.2-3'), rpmVersion('1.2'))).toBeGreaterThan(0);
  });

  it('has the kernel in the name, or in the version as SUSE does', () => {
    const of = { module: 'acpi_call', version: '1.2.2', arch: 'x86_64' as const };
    expect(rpmNames({ ...of, release: EL }, 'kmod').file).toBe(`kmod-acpi_call-${EL}-1.2.2-1.x86_64.rpm`);
    expect(rpmNames({ ...of, release: SUSE }, 'kmp').file).toBe(
      'acpi_call-kmp-default-1.2.2_k6.4.0_150600.23.25-1.x86_64.rpm',
    );
    const arm = { ...of, arch: 'aarch64' as const };
    const large = '5.14.0-503.el9.aarch64+64k';
    expect(rpmNames({ ...arm, release: large }, 'kmod').file).toBe(
      `kmod-acpi_call-${large}-1.2.2-1.aarch64.rpm`,
    );
    expect(rpmNames({ ...arm, release: SUSE }, 'kmp').file).toMatch(/-1\.aarch64\.rpm$/);
  });

  it('refuses releases that the form cannot express', () => {
    const of = { module: 'm', version: '1', arch: 'x86_64' as const };
    expect(() => rpmNames({ ...of, release: '6.1.0-56-amd64' }, 'kmod')).toThrow('more than one dash');
    expect(() => rpmNames({ ...of, release: EL }, 'kmp')).toThrow('Not a kernel release of SUSE');
  });
});

describe('the spec file', () => {
  it('holds no macro, tag or section that comes from outside', async () => {
    const evil = '%{lua:os.execute("x")}';
    const { spec } = await makeRpmSpec(
      input({ sourcePackage: { name: 'acpi_call-dkms', version: `1\u0025post ${evil}` } }),
    );
    expect(spec).toContain(`Source package: acpi_call-dkms 1%%post %${evil}\n`);
    for (const more of [
      { maintainer: 'a <a@b>\n%post' },
      { version: '\u0000' },
      { module: 'a b' },
      { release: '5.14 x' },
      { sourcePackage: { name: 'a\nRequires: b' } },
      { extras: [{ path: '/etc/passwd', bytes: Buffer.alloc(1), mode: 0o644 }] },
      { extras: [{ path: '/lib/firmware/a b', bytes: Buffer.alloc(1), mode: 0o644 }] },
      { extras: [{ path: "/lib/firmware/'x", bytes: Buffer.alloc(1), mode: 0o644 }] },
      { modules: [] },
      { modules: [{ name: 'x.ko', bytes: fakeModule('5.14.0-1.el9.x86_64') }] },
      { arch: 'aarch64' },
    ] satisfies Partial<RpmInput>[]) {
      await expect(makeRpmSpec(input(more)), JSON.stringify(more)).rejects.toThrow(
        /^Not a |made no kernel module|is built for/,
      );
    }
  });
});
