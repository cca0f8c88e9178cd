import { execFileSync } from 'node:child_process';
import { rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { findRow, loadCatalogue } from '../../../src/distro/catalogue.js';
import { choosePackages, proverOf } from '../../../src/engine/prove.js';
import { kernelsOf, modulesFor, readOfferedPackages } from '../../../src/repo/index.js';
import { addDeb, makeKey, publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';
import { hasTool } from '../fixtures/has-tool.js';

const KERNEL = '6.1.0-56-amd64';

let tmp: ReturnType<typeof tempFolder>;
beforeEach(() => (tmp = tempFolder()));
afterEach(() => tmp.remove());

describe('what a repository offers', () => {
  test('is read from what was published: the newest version of each module for a kernel', async () => {
    for (const [name, version] of [
      [`acpi-call-modules-${KERNEL}`, '1.9'],
      [`acpi-call-modules-${KERNEL}`, '1.10'],
      [`tiny-modules-${KERNEL}`, '1'],
      ['tiny-modules-6.12.117+deb12-amd64', '1'],
      ['tiny-modules-common', '1'],
      ['acpi-call-modules-amd64', '6.1.170-1'],
      ['something-else', '1'],
    ] as const)
      addDeb(tmp.path, name, version);
    const keys = tempFolder();
    const { key } = await makeKey(keys.path);
    await publishQuietly(tmp.path, { key });
    keys.remove();
    // Not published: nobody is offered it.
    addDeb(tmp.path, `late-modules-${KERNEL}`, '1');

    const offer = await readOfferedPackages(tmp.path);
    expect(offer.signedBy).toBe(key!.fingerprint);
    expect(kernelsOf(offer)).toEqual([KERNEL, '6.12.117+deb12-amd64']);
    const modules = modulesFor(offer, KERNEL);
    expect([...modules].map(([name, { version }]) => [name, version])).toEqual([
      ['acpi-call', '1.10'],
      ['tiny', '1'],
    ]);
    expect(modules.get('tiny')!.installedBytes % 1024).toBe(0);
    expect(modules.get('tiny')!.installedBytes).toBeGreaterThan(0);
    expect(modules.get('tiny')!.downloadBytes).toBeGreaterThan(0);

    const names = (wanted: string[]) => choosePackages(offer, KERNEL, wanted).map(({ name }) => name);
    expect(names([])).toHaveLength(2);
    for (const form of ['acpi_call', 'acpi-call', `acpi-call-modules-${KERNEL}`])
      expect(names([form])).toEqual([`acpi-call-modules-${KERNEL}`]);
    expect(names(['acpi-call-modules-amd64'])).toEqual(['acpi-call-modules-amd64']);
    expect(() => names(['nope'])).toThrow(
      expect.objectContaining({ fault: 'not-found', hint: 'It has: acpi-call, tiny' }),
    );
    expect(() => choosePackages(offer, '6.1.0-1-amd64', [])).toThrow(
      expect.objectContaining({
        fault: 'not-found',
        hint: `It has some for: ${KERNEL}, 6.12.117+deb12-amd64`,
      }),
    );
  });

  test('.rpm packages are offered to dnf, by the same names', async (ctx) => {
    if (!hasTool('rpmbuild')) ctx.skip('no rpmbuild');
    const el = '5.14.0-503.11.1.el9_5.x86_64';
    const rpm = (name: string, version: string): string =>
      [
        `Name: ${name}`,
        `Version: ${version}`,
        'Release: 1',
        'Summary: x',
        'License: GPL-2.0-only',
        'BuildArch: noarch',
        '%description',
        '%install',
        'mkdir -p %{buildroot}/opt; echo text >%{buildroot}/opt/%{name}',
        '%files',
        '/opt/*',
      ].join('\n');
    const specs = [
      rpm(`kmod-acpi_call-${el}`, '1.9'),
      rpm(`kmod-acpi_call-${el}`, '1.10'),
      rpm(`kmod-acpi_call-${el}-debuginfo`, '1.10'),
      rpm('kmod-tiny-2-5.14.0-570.el9.x86_64', '1'),
      rpm('acpi_call-kmod-common', '1.10'),
    ];
    const build = tempFolder();
    specs.forEach((spec, at) => {
      const file = join(build.path, `${at}.spec`);
      writeFileSync(file, spec);
      execFileSync(
        'rpmbuild',
        ['-bb', '--quiet', '--define', `_topdir ${build.path}`, '--define', `_rpmdir ${tmp.path}`, file],
        { stdio: 'ignore' },
      );
    });
    const { key } = await makeKey(build.path);
    await publishQuietly(tmp.path, { key });
    build.remove();

    const offer = await readOfferedPackages(tmp.path);
    expect(offer.signedBy).toBe(key!.fingerprint);
    expect(kernelsOf(offer)).toEqual([el, '5.14.0-570.el9.x86_64']);
    expect([...modulesFor(offer, '5.14.0-570.el9.x86_64').keys()]).toEqual(['tiny-2']);
    for (const wanted of ['acpi_call', 'acpi-call', `kmod-acpi_call-${el}`]) {
      const [found] = choosePackages(offer, el, [wanted]);
      expect(found).toMatchObject({ form: 'rpm', name: `kmod-acpi_call-${el}`, version: '1.10-1' });
      expect(found!.installedBytes).toBe('text\n'.length);
      expect(found!.downloadBytes).toBe(statSync(join(tmp.path, found!.path)).size);
    }
    // Another kind of machine takes none of them.
    const rows = await loadCatalogue();
    const packages = choosePackages(offer, el, []);
    expect(proverOf(findRow(rows, 'rocky-9'), packages)).toBe('dnf');
    expect(() => proverOf(findRow(rows, 'debian-12'), packages)).toThrow(/uses no \.rpm packages/);
    expect(() => proverOf(findRow(rows, 'tumbleweed'), packages)).toThrow(/prove supports apt and dnf only/);
  });

  test('a folder that was not published, or whose key is gone, is refused with the next step', async () => {
    addDeb(tmp.path, `tiny-modules-${KERNEL}`, '1');
    await expect(readOfferedPackages(tmp.path)).rejects.toMatchObject({
      fault: 'usage',
      hint: `Make it one: dkms2bin repo ${tmp.path}`,
    });
    await publishQuietly(tmp.path);
    expect((await readOfferedPackages(tmp.path)).signedBy).toBeNull();
    writeFileSync(join(tmp.path, 'InRelease'), 'signed');
    rmSync(join(tmp.path, 'dkms2bin-archive-keyring.asc'), { force: true });
    await expect(readOfferedPackages(tmp.path)).rejects.toMatchObject({ fault: 'usage' });
  });
});
