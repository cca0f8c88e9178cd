import { expect, test } from 'vitest';
import type { DebFile } from '../../src/repo/package-files.js';
import { selectPackages } from '../../src/repo/selection.js';

const deb = (name: string, version: string, more: Partial<DebFile> = {}): DebFile => ({
  format: 'deb',
  ...{ name, version, architecture: 'amd64', size: 1, sha256: `${name} ${version}` },
  path: `${name}_${version}.deb`,
  header: { name, version, architecture: 'amd64', fields: [] },
  ...more,
});
const paths = (files: readonly { path: string }[]): string[] => files.map(({ path }) => path);

test('the newest versions of each name stay, and all copies of the older ones go', () => {
  const found = [
    deb('a', '1'),
    deb('a', '1', { path: 'copy/a_1.deb' }),
    deb('a', '2'),
    deb('a', '3'),
    deb('b', '1'),
  ];
  const { offered, outdated } = selectPackages(found, 2);
  expect(paths(offered)).toEqual(['a_2.deb', 'a_3.deb', 'b_1.deb']);
  expect(paths(outdated)).toEqual(['a_1.deb', 'copy/a_1.deb']);
});

test('without a limit all versions stay, one file of each', () => {
  const found = [deb('a', '1'), deb('a', '1', { path: 'copy/a_1.deb' }), deb('a', '2')];
  const { offered, outdated } = selectPackages(found, undefined);
  expect(paths(offered)).toEqual(['a_1.deb', 'a_2.deb']);
  expect(outdated).toEqual([]);
});

test('versions count by architecture', () => {
  const found = [deb('a', '1'), deb('a', '2', { architecture: 'arm64', path: 'a_2_arm64.deb' })];
  expect(selectPackages(found, 1).outdated).toEqual([]);
});

test('two files of one package that differ are named', () => {
  const found = [deb('a', '1'), deb('a', '1', { path: 'other/a_1.deb', sha256: 'another' })];
  expect(() => selectPackages(found, undefined)).toThrow('a 1 (amd64): a_1.deb and other/a_1.deb');
});
