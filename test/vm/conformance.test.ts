import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SOURCES, writeSource } from '../conformance/sources.js';
import { kernels, ROAD, temporary, tool, type Document } from './tool.js';

// Of the sources of test/conformance, where native dkms is asked, some in one VM: what holds in a namespace holds there.
const EXPECTED: Readonly<Record<string, readonly [verdict: string, reason: RegExp | null]>> = {
  plain: ['built', null],
  'two-modules': ['built', null],
  renamed: ['built', null],
  'patch-list': ['built', null],
  'sourced-file': ['built', null],
  'not-stripped': ['built', null],
  'patch-missing': ['failed', /fix\.patch/],
  'place-nowhere': ['failed', /DEST_MODULE_LOCATION/],
  'compile-error': ['failed', /undeclared_thing/],
  'kernel-other': ['skipped', /BUILD_EXCLUSIVE_KERNEL/],
  'obsolete-by-older': ['skipped', /OBSOLETE_BY/],
  'in-kernel-same': ['skipped', /vrf\.ko/],
};

// Minutes: too long for each commit.
const whole = process.env.DKMS2BIN_TEST_WHOLE === '1';
const later = whole ? '' : ' (skipped: npm run test:conformance runs it)';
let folder = '';
beforeAll(async () => void (folder = await temporary('conformance')));
afterAll(() => rm(folder, { recursive: true, force: true }));

test.skipIf(!whole)(`sources that native dkms was asked about come to the same in a VM${later}`, async () => {
  const { newest } = await kernels();
  const all = join(folder, 'all');
  mkdirSync(all);
  for (const source of SOURCES.filter(({ id }) => id in EXPECTED)) writeSource(source, join(all, source.id));
  execFileSync('tar', ['-C', all, '-cf', join(folder, 'all.tar'), '.']);
  const argv = [
    '--dkms',
    'all.tar',
    '--kernel',
    newest,
    ...ROAD,
    '--no-verify',
    '--json',
    '--out-dir',
    'out',
  ];
  const { code, stdout, stderr } = await tool(argv, { cwd: folder });
  expect(code, stderr).toBe(1);
  const { cells } = JSON.parse(stdout) as Document;
  expect(cells).toHaveLength(Object.keys(EXPECTED).length);
  for (const { module, verdict, reason } of cells) {
    const [wanted, words] = EXPECTED[module]!;
    expect([module, verdict], reason ?? '').toEqual([module, wanted]);
    if (words) expect(reason).toMatch(words);
  }
  const packages = (await readdir(join(folder, 'out'))).filter((name) => name.endsWith('.deb'));
  expect(packages).toHaveLength(Object.values(EXPECTED).filter(([verdict]) => verdict === 'built').length);
});
