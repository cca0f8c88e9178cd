import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { check } from '../../unit/fixtures/rebuild.js';

let tmp: string;
beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  mkdirSync(join(tmp, 'bin'));
  mkdirSync(join(tmp, 'out'));
  vi.stubEnv('DKMS2BIN_STATE', join(tmp, 'state'));
  vi.stubEnv('PATH', `${join(tmp, 'bin')}:/usr/bin:/bin`);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(tmp, { recursive: true });
});

const FOLDER = 'foo.reproducibility';

it('fails packages that differ, names what differs first and keeps both, under names that no repository takes', async () => {
  const { result, runs } = await check(tmp, { first: 'built 10:01', second: 'built 22:01' });
  expect(result).toMatchObject({ verdict: 'failed', fault: 'module', reproducible: false });
  const difference = "foo.ko differs first in section .rodata at 0x6: 'built 10:01' / 'built 22:01'";
  expect(result.reason!.split('\n')).toEqual([
    `not reproducible: ${difference}`,
    `Both builds and their differences are in ${join(tmp, 'out', FOLDER)}`,
  ]);
  const kept = (name: string): Buffer => readFileSync(join(tmp, 'out', FOLDER, name));
  expect(readdirSync(join(tmp, 'out', FOLDER))).toEqual([
    'difference.txt',
    'foo.deb.first',
    'foo.deb.second',
  ]);
  expect(kept('foo.deb.first')).toEqual(readFileSync(join(tmp, 'stage', 'foo.deb')));
  expect(kept('foo.deb.second')).not.toEqual(kept('foo.deb.first'));
  expect(kept('difference.txt').toString()).toContain(difference);
  expect(runs).toEqual([]);
});

it("takes diffoscope's report where it is installed, without control bytes", async () => {
  const script = join(tmp, 'bin', 'diffoscope');
  writeFileSync(script, '#!/bin/sh\nprintf "told by a tool \\033[31mred" >"$2"\nexit 1\n');
  chmodSync(script, 0o755);
  await check(tmp, { first: 'a', second: 'b' });
  const text = readFileSync(join(tmp, 'out', FOLDER, 'difference.txt'), 'utf8');
  expect(text).toContain('told by a tool red');
});
