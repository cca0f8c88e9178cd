import { expect, test } from 'vitest';
import { compareReleases, compareVersions } from '../../../src/formats/versions.js';

// Every pair was checked with `dpkg --compare-versions`.
test.each([
  ['1.0', '1.0', 0],
  ['1.0~rc1', '1.0', -1],
  ['1.0', '1.0-1', -1],
  ['1.9', '1.10', -1],
  ['1:0.1', '2.0', 1],
  ['6.12.117-1~deb12u1', '6.12.117-1', -1],
  ['6.12.90-1~bpo12+1', '6.12.90-2~bpo12+1', -1],
  ['1.0+b1', '1.0', 1],
  ['1.0a', '1.0+', -1],
  ['7.3~rc7-1~exp1', '7.3-1', -1],
  ['01.2', '1.02', 0],
] as const)('%s against %s', (a, b, sign) => {
  expect(Math.sign(compareVersions(a, b))).toBe(sign);
  expect(Math.sign(compareVersions(b, a))).toBe(sign === 0 ? 0 : -sign);
});

test('kernel releases sort as people count', () => {
  const sorted = [
    '6.1.0-9-amd64',
    '6.1.0-10-amd64',
    '6.12.90+deb12-amd64',
    '6.12.90+deb12.1-amd64',
    '7.3-amd64',
  ];
  expect([...sorted].reverse().sort(compareReleases)).toEqual(sorted);
});
