import { expect, test } from 'vitest';
import {
  checkModuleName,
  checkModuleVersion,
  debianPackageName,
  debianVersion,
  logFileName,
  packageFileName,
} from '../../src/plan/naming.js';

const identity = {
  module: 'acpi_call',
  version: '1.2.2',
  release: '6.12.117+deb12-amd64',
  arch: 'x86_64',
} as const;

test('file names in both styles', () => {
  expect(packageFileName(identity)).toBe('acpi_call_1.2.2-6.12.117+deb12-amd64_x86_64.deb');
  expect(packageFileName(identity, 'dkms')).toBe('acpi_call-modules-6.12.117+deb12-amd64_1.2.2_amd64.deb');
  expect(logFileName(identity)).toBe('acpi_call_1.2.2-6.12.117+deb12-amd64_x86_64.log');
});

test('Debian package names', () => {
  expect(debianPackageName('ACPI_call', '6.1.0-56-amd64')).toBe('acpi-call-modules-6.1.0-56-amd64');
});

test.each(['', '../x', 'a/b', 'a b', '-x', '.x', 'a\n', 'x'.repeat(81), 'a..b', '$(id)', 'é'])(
  'a hostile name %j is refused',
  (text) => {
    expect(() => checkModuleName(text)).toThrow(expect.objectContaining({ fault: 'module' }) as Error);
    expect(() => checkModuleVersion(text)).toThrow(expect.objectContaining({ fault: 'module' }) as Error);
  },
);

test.each([
  ['1.2.2', '1.2.2'],
  ['1.0-rc1', '1.0.rc1'],
  ['v3.1', '0+v3.1'],
  ['1:2_3', '1.2.3'],
])('the version %s becomes %s', (version, debian) => expect(debianVersion(version)).toBe(debian));
