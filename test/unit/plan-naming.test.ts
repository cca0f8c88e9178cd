import { expect, test } from 'vitest';
import { debDebugName, debFile, debModulesName, debName } from '../../src/distro/deb-names.js';
import {
  checkModuleName,
  checkModuleVersion,
  namedModules,
  packageBaseName,
} from '../../src/distro/package-names.js';
import { rpmNames } from '../../src/distro/rpm-names.js';

const identity = {
  module: 'acpi_call',
  version: '1.2.2',
  release: '6.12.117+deb12-amd64',
  arch: 'x86_64',
} as const;

test('file names in both styles', () => {
  expect(packageBaseName(identity)).toBe('acpi_call_1.2.2-6.12.117+deb12-amd64_x86_64');
  expect(packageBaseName(identity, 'dkms')).toBe('acpi_call-modules-6.12.117+deb12-amd64_1.2.2_amd64');
  expect(packageBaseName({ ...identity, version: '1:1.2' })).toBe(
    'acpi_call_1-1.2-6.12.117+deb12-amd64_x86_64',
  );
  const arm = { ...identity, release: '6.1.0-56-arm64', arch: 'aarch64' } as const;
  expect(packageBaseName(arm)).toBe('acpi_call_1.2.2-6.1.0-56-arm64_aarch64');
  expect(packageBaseName(arm, 'dkms')).toBe('acpi_call-modules-6.1.0-56-arm64_1.2.2_arm64');
});

test.each(['', '../x', 'a/b', 'a b', '-x', '.x', 'a\n', 'x'.repeat(81), 'a..b', '$(id)', 'é'])(
  'a hostile name %j is refused',
  (text) => {
    expect(() => checkModuleName(text)).toThrow(expect.objectContaining({ fault: 'module' }) as Error);
    expect(() => checkModuleVersion(text)).toThrow(expect.objectContaining({ fault: 'module' }) as Error);
  },
);

test.each(['acpi_call', 'v4l2loopback', 'a-modules-b'])('names of packages of %s are read back', (module) => {
  const { release } = identity;
  const deb = debModulesName(module, release);
  expect(namedModules('deb', deb)).toEqual({ module: debName(module), kernel: release });
  expect(namedModules('deb', debDebugName(deb))).toBeUndefined();
  const el = '5.14.0-503.el9.x86_64';
  const { name } = rpmNames({ module, version: '1', release: el, arch: 'x86_64' }, 'kmod');
  expect(namedModules('rpm', name)).toEqual({ module: debName(module), kernel: el });
  expect(namedModules('rpm', `${name}-debuginfo`)).toBeUndefined();
});

test('packages that are not of modules for one kernel are not taken for such', () => {
  for (const name of ['acpi-call-dkms', 'acpi-call-modules', 'acpi-call-modules-common', 'linux-image-amd64'])
    expect(namedModules('deb', name)).toBeUndefined();
  expect(namedModules('rpm', 'acpi_call-kmod-common')).toBeUndefined();
});

test('the file of a .deb hides the colon of an epoch, as in the cache of apt', () => {
  expect(debFile({ name: 'a', version: '1:2.0-1', architecture: 'all' })).toBe('a_1%3a2.0-1_all.deb');
});
