import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { CellInput } from '../../../src/cell/types.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import { BUILT, check } from '../fixtures/rebuild.js';

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

it('says so of the same packages, and removes what an earlier run kept', async () => {
  mkdirSync(join(tmp, 'out', FOLDER));
  const { result, around, runs } = await check(tmp, { first: 'same', second: 'same' });
  expect(result).toMatchObject({ verdict: 'built', reproducible: true, reason: null });
  expect(readdirSync(join(tmp, 'out'))).toEqual([]);
  expect(around[0]!.jobs).not.toBe(2);
  expect(runs).toEqual([]);
});

it('fails a module that the second time does not build', async () => {
  const report = { ...BUILT.reports[0]!, verdict: 'failed' as const, reason: 'no luck' };
  const { result } = await check(
    tmp,
    { first: 'a', second: 'a' },
    { second: () => Promise.resolve({ ...BUILT, reports: [report] }) },
  );
  expect(result).toMatchObject({ verdict: 'failed', reproducible: false });
  expect(result.reason).toMatch(/^not reproducible: the second build did not succeed: failed: no luck\n/);
});

it('a fault that is not the module’s stays an error', async () => {
  const second = () => Promise.reject(new Dkms2binError('transient', 'the VM died'));
  await expect(check(tmp, { first: 'a', second: 'a' }, { second })).rejects.toThrow('the VM died');
  expect(readdirSync(join(tmp, 'out'))).toEqual([]);
});

it('compares before signing when signatures differ each time, and says so; else as they are shipped', async () => {
  const ecdsa = { reproducible: false } as CellInput['signer'];
  const unsigned = await check(tmp, { first: 'a', second: 'a' }, { signer: ecdsa });
  expect(unsigned.signers).toEqual([ecdsa, null, null]);
  expect(unsigned.notes.join()).toContain('before they are signed');
  rmSync(join(tmp, 'stage'), { recursive: true });
  const rsa = { reproducible: true } as CellInput['signer'];
  const signed = await check(tmp, { first: 'a', second: 'a' }, { signer: rsa });
  expect(signed.signers).toEqual([rsa, rsa]);
  expect(signed.notes).toEqual([]);
});
