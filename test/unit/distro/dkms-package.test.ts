import { expect, test } from 'vitest';
import { parseDkmsPackages } from '../../../src/distro/apt-packages.js';
import { parseInstalled, unmetDependency } from '../../../src/distro/dkms-package.js';

test('the packages of an index: by name, by what they need, by what they provide; unfit fields are passed over', () => {
  const stanza = (name: string, fields: string, filename = 'pool/x.deb'): string =>
    `Package: ${name}\nVersion: 1\nArchitecture: all\n${fields}\nFilename: ${filename}\nSize: 1\nSHA256: ${'a'.repeat(64)}\n`;
  const text = [
    stanza('one-dkms', 'Section: x'),
    stanza('two', 'Depends: libc6 (>= 2), dkms:any (>= 2)'),
    stanza('three', 'Pre-Depends: foo | dkms'),
    stanza('four', 'Recommends: dkms'),
    stanza('five', 'Provides: five-dkms (= 1)'),
    stanza('six', 'Depends: one-dkms, dkms-tools'),
    stanza('seven', 'Description: dkms'),
    stanza('eight-dkms', 'Section: x', '../../etc/x.deb'),
    stanza('nine-dkms', 'Section: x', '/etc/x.deb'),
    stanza('ten-dkms/../x', 'Section: x'),
    stanza('eleven-dkms', 'Section: x').replace(/a{64}/, 'short'),
    stanza('last-dkms', 'Depends: dkms'),
  ].join('\n');
  expect(parseDkmsPackages(Buffer.from(text), 's').map(({ name }) => name)).toEqual([
    'one-dkms',
    'two',
    'three',
    'four',
    'five',
    'last-dkms',
  ]);
});

test('dependencies against the installed packages', () => {
  const installed = parseInstalled(
    [
      'dkms\t3.0.10-8+deb12u1\tdkms-autopkgtest (= 3.0.10-8+deb12u1)',
      'libc6-dev:amd64\t2.36-9+deb12u10\tlibc-dev (= 2.36-9+deb12u10)',
      'debconf\t1.5.82\tdebconf-2.0, old-name (<< 9)',
      'wine32:i386\t8.0\t',
      'removed\t\t',
      '',
    ].join('\n'),
  );
  const unmet = (depends: string, preDepends = ''): string | null =>
    unmetDependency({ depends, preDepends }, installed);
  for (const met of [
    '',
    'dkms',
    'dkms (>= 3.0.3-4~), libc6-dev | libc-dev, debconf (>= 0.5) | debconf-2.0',
    'nothing | dkms:any (>> 2)',
    'dkms:amd64, libc6-dev:native',
    'libc-dev (>= 2.30), dkms-autopkgtest (= 3.0.10-8+deb12u1)',
    'dkms (<= 3.0.10-8+deb12u1), dkms (<< 3.1), dkms(>=3)',
  ]) {
    expect(unmet(met)).toBeNull();
  }
  expect(unmet('dkms, dkms (>= 3.0.11), other')).toBe('dkms (>= 3.0.11)');
  expect(unmet('dkms', 'nvidia-installer-cleanup')).toBe('nvidia-installer-cleanup');
  for (const not of [
    'file | libmagic-mgc',
    'dkms (<< 3)',
    'dkms (= 3.0.10)',
    'debconf-2.0 (>= 1)',
    'old-name (>= 1)',
    'libc-dev (>> 3)',
    'dkms:i386',
    'wine32',
    'removed',
    'dkms (?? 1)',
  ]) {
    expect(unmet(`dkms, ${not}`)).toBe(not);
  }
});
