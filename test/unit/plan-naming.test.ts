import { expect, test } from 'vitest';
import { checkModuleName, checkModuleVersion, packageBaseName } from '../../src/distro/package-names.js';

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
