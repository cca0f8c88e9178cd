import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { packModule } from '../../src/cell/package.js';
import { rebuild } from '../../src/cell/rebuild.js';
import type { BuildConditions, Built, CellInput, Verified } from '../../src/cell/types.js';
import { Dkms2binError } from '../../src/model/errors.js';
import { packModules } from '../../src/pack/module-package.js';
import { cell } from './cli-harness.js';
import { elf, modinfo } from './pack-fixture.js';

const RELEASE = '6.1.0-56-amd64';
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

const BUILT: Built = {
  reports: [{ name: 'foo', version: '1.0', verdict: 'built', reason: '', dependency: false }],
  collected: { source: null, modules: [] },
};

/** What a module that was built for this kernel holds, and what the check says of two of them. */
async function check(
  texts: { first: string; second: string },
  {
    signer = null,
    second = () => Promise.resolve(BUILT),
  }: { signer?: CellInput['signer']; second?: () => Promise<Built> } = {},
) {
  const notes: string[] = [];
  const signers: unknown[] = [];
  const around: BuildConditions[] = [];
  const pack: typeof packModule = async (_cell, _module, { built, signer: key, outDir }) => {
    signers.push(key);
    const text = built === first ? texts.first : texts.second;
    const bytes = elf([
      ['.modinfo', modinfo({ vermagic: `${RELEASE} SMP ` })],
      ['.rodata', Buffer.from(text)],
    ]);
    return packModules({
      ...{
        module: 'foo',
        version: '1.0',
        release: RELEASE,
        debArch: 'amd64',
        kernelImages: [`linux-image-${RELEASE}`],
        sourcePackage: null,
        extras: [],
      },
      ...{ modules: [{ name: 'foo.ko', bytes }], dependsModules: [], maintainer: 'a b <a@b>' },
      ...{ mtime: 1_700_000_000, outDir, fileName: 'foo.deb' },
    });
  };
  const first = { ...BUILT };
  const opened = {} as Verified;
  mkdirSync(join(tmp, 'stage'));
  const stage = join(tmp, 'stage');
  const [report] = BUILT.reports;
  const packages = await pack(
    opened,
    { report: report!, ownedByOtherCell: false },
    { built: first, signer, outDir: stage },
  );
  const input = {
    label: 'foo',
    target: { release: RELEASE, distro: 'debian-12', arch: 'x86_64' },
    machine: {
      accel: 'tcg',
      signal: new AbortController().signal,
      emit: (event: { message?: string }) => notes.push(event.message ?? ''),
    },
    environment: { layer: {}, snapshot: {} },
    signer,
    outDir: join(tmp, 'out'),
    checkReproducible: true,
  } as unknown as CellInput;
  const verified = await rebuild(
    {
      input,
      phase: (_: string, work: () => unknown) => work(),
      prepared: { network: false },
      verifyVm: { [Symbol.asyncDispose]: () => Promise.resolve() },
      conditions: { jobs: 2, boot: () => Promise.reject(new Error('not expected')) },
      built: first,
      modules: [
        {
          report,
          result: cell({ module: 'foo', version: '1.0', package: null }),
          ownedByOtherCell: false,
          log: null,
          packed: { packages, main: packages[0]!.path, koNames: ['foo'], needs: [] },
        },
      ],
    } as unknown as Verified,
    {
      build: ({ conditions }) => {
        around.push(conditions);
        return second();
      },
      pack,
    },
  );
  const { result } = verified.modules[0]!;
  return { result, notes, signers, around, runs: readdirSync(join(tmp, 'state', 'runs')) };
}

const FOLDER = 'foo.reproducibility';

it('says so of the same packages, and removes what an earlier run kept', async () => {
  mkdirSync(join(tmp, 'out', FOLDER));
  const { result, around, runs } = await check({ first: 'same', second: 'same' });
  expect(result).toMatchObject({ verdict: 'built', reproducible: true, reason: null });
  expect(readdirSync(join(tmp, 'out'))).toEqual([]);
  expect(around[0]!.jobs).not.toBe(2);
  expect(runs).toEqual([]);
});

it('fails packages that differ, names what differs first and keeps both, under names that no repository takes', async () => {
  const { result, runs } = await check({ first: 'built 10:01', second: 'built 22:01' });
  expect(result).toMatchObject({ verdict: 'failed', fault: 'module', reproducible: false });
  const difference = "foo.ko differs first in section .rodata at 0x6: 'built 10:01' / 'built 22:01'";
  expect(result.reason!.split('\n')).toEqual([
    `not reproducible: ${difference}`,
    `Both builds and what differs are in ${join(tmp, 'out', FOLDER)}`,
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
  await check({ first: 'a', second: 'b' });
  const text = readFileSync(join(tmp, 'out', FOLDER, 'difference.txt'), 'utf8');
  expect(text).toContain('told by a tool red');
});

it('fails a module that the second time does not build', async () => {
  const report = { ...BUILT.reports[0]!, verdict: 'failed' as const, reason: 'no luck' };
  const { result } = await check(
    { first: 'a', second: 'a' },
    { second: () => Promise.resolve({ ...BUILT, reports: [report] }) },
  );
  expect(result).toMatchObject({ verdict: 'failed', reproducible: false });
  expect(result.reason).toMatch(/^not reproducible: the second build did not succeed: failed: no luck\n/);
});

it('a fault that is not the module’s stays an error', async () => {
  const second = () => Promise.reject(new Dkms2binError('transient', 'the VM died'));
  await expect(check({ first: 'a', second: 'a' }, { second })).rejects.toThrow('the VM died');
  expect(readdirSync(join(tmp, 'out'))).toEqual([]);
});

it('compares before signing when signatures differ each time, and says so; else as they are shipped', async () => {
  const ecdsa = { reproducible: false } as CellInput['signer'];
  const unsigned = await check({ first: 'a', second: 'a' }, { signer: ecdsa });
  expect(unsigned.signers).toEqual([ecdsa, null, null]);
  expect(unsigned.notes.join()).toContain('before they are signed');
  rmSync(join(tmp, 'stage'), { recursive: true });
  const rsa = { reproducible: true } as CellInput['signer'];
  const signed = await check({ first: 'a', second: 'a' }, { signer: rsa });
  expect(signed.signers).toEqual([rsa, rsa]);
  expect(signed.notes).toEqual([]);
});
