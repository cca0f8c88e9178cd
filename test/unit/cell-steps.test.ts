import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { compile } from '../../src/cell/compile.js';
import { deliver, resultsOf } from '../../src/cell/deliver.js';
import { pack } from '../../src/cell/package.js';
import { phaseTimer } from '../../src/cell/phases.js';
import { PrebootedVm } from '../../src/cell/prebooted-vm.js';
import { RunDir } from '../../src/cell/run-dir.js';
import type { CellInput, Opened, Packaged } from '../../src/cell/types.js';
import { verify } from '../../src/cell/verify.js';
import { findRow, loadCatalogue } from '../../src/distro/catalogue.js';
import type { Booted } from '../../src/environment/boot.js';
import type { ProgramName } from '../../src/guest/program.js';
import { elf, modinfo } from './pack-fixture.js';
import { frames, rows, standInGuest, type Answer, type Call } from './guest-fixture.js';

const RELEASE = '6.1.0-56-amd64';
let tmp: string;
let run: RunDir;
beforeEach(async () => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  vi.stubEnv('DKMS2BIN_STATE', join(tmp, 'state'));
  mkdirSync(join(tmp, 'out'));
  writeFileSync(join(tmp, 'config'), '# CONFIG_MODULE_COMPRESS is not set\n');
  run = await RunDir.create({ cell: 'foo', kernel: RELEASE, distro: 'debian-12' });
});
afterEach(async () => {
  await run.close();
  vi.unstubAllEnvs();
  rmSync(tmp, { recursive: true });
});

const ko = elf([['.modinfo', modinfo({ vermagic: `${RELEASE} SMP `, depends: 'usbcore' })]]);
const collected = (...names: string[]): Buffer =>
  frames([
    ...names.map(() => ['ko', ko] as const),
    ['log', 'make says\n'],
    [
      'meta',
      JSON.stringify({
        modules: names.map((name, at) => ({
          ...{ name, version: '1', ko: [{ dest: `${name}.ko`, blob: at }], log: names.length },
          dependency: at > 0,
        })),
        extras: [],
      }),
    ],
  ]);

/** A cell that is about to be compiled in a stand-in guest; what happens to its VMs in `events`. */
async function opened(
  answers: Partial<Record<ProgramName, Answer>>,
  input: Partial<CellInput> = {},
  brings: string[] = [],
): Promise<{ cell: Opened; calls: Call[]; events: string[] }> {
  const { guest, calls } = standInGuest(answers);
  const events: string[] = [];
  const boot = (which: string) => (): Promise<Booted> => {
    events.push(`boot ${which}`);
    const cutEgress = (): Promise<void> => {
      events.push(`cut after ${calls.map(({ name }) => name).join()}`);
      return Promise.resolve();
    };
    return Promise.resolve({
      vm: { socketDir: tmp, sshPort: 1, cutEgress },
      guest,
      [Symbol.asyncDispose]: () => Promise.resolve(void events.push(`end ${which}`)),
    } as unknown as Booted);
  };
  const phases = {};
  const row = findRow(await loadCatalogue(), 'debian-12');
  const whole = {
    label: 'foo × k',
    source: { kind: 'folder', text: 'foo', path: '/nowhere' },
    target: { release: RELEASE, distro: 'debian-12', arch: 'x86_64' },
    environment: { layer: { boot: { kind: 'direct' }, config: join(tmp, 'config') }, snapshot: null },
    lookup: { row },
    machine: { accel: 'kvm', emit: () => undefined, signal: new AbortController().signal },
    outDir: join(tmp, 'out'),
    signer: null,
    nameStyle: 'seed',
    verify: true,
    timeoutMs: 1000,
    ...input,
  } as unknown as CellInput;
  return {
    cell: {
      input: whole,
      startedOn: new Date(),
      phases,
      phase: phaseTimer(phases, whole.machine.emit, whole.label),
      prepared: {
        ...{ source: { kind: 'deb', text: 'foo', path: '/x/foo.deb' }, package: null, with: [], brings },
        ...{ digest: '', network: false },
      },
      identity: '',
      run,
      verifyVm: new PrebootedVm(boot('verify')),
      conditions: { jobs: 2, boot: boot('build') },
    },
    calls,
    events,
  };
}

const built = (...lines: string[]): Answer => ({ stdout: rows('build-seconds foo/1 3', ...lines) });

async function packaged(
  answers: Partial<Record<ProgramName, Answer>> = {},
  input: Partial<CellInput> = {},
  brings: string[] = [],
): Promise<Packaged> {
  const usual = {
    'build.sh': built('module foo 1 built foo.ko'),
    'collect.py': { stdout: collected('foo') },
  };
  const { cell } = await opened({ ...usual, ...answers }, input, brings);
  return pack(await compile(cell));
}

it('compile cuts the way out before the package’s code runs, and boots the verify VM before the files are taken', async () => {
  const { cell, calls, events } = await opened({
    'build.sh': built('module foo 1 built foo.ko'),
    'collect.py': { stdout: collected('foo') },
  });
  const { built: made, phases } = await compile(cell);
  expect(made.reports).toMatchObject([{ name: 'foo', verdict: 'built' }]);
  expect(calls.map(({ name }) => name)).toEqual([
    "umask 022; cat > '/var/lib/dkms2bin/source.deb'",
    'build.sh',
    'collect.py',
  ]);
  expect(events).toEqual([
    'boot build',
    expect.stringMatching(/^cut after umask[^,]*$/),
    'boot verify',
    'end build',
  ]);
  expect(Object.keys(phases).sort()).toEqual(['boot', 'build', 'collect', 'dkms', 'fetch']);
  expect(phases.build).toBe(3);
  expect(run.record).toMatchObject({ live: null, kept: false });
});

it('compile keeps a failed run for which that was asked, and boots no verify VM', async () => {
  const { cell, events } = await opened(
    {
      'build.sh': { code: 1, stdout: rows('module foo 1 failed no') },
      'collect.py': { stdout: collected('foo') },
    },
    { keepFailed: true, onFailure: () => Promise.resolve() },
  );
  await compile(cell);
  expect(run.record.kept).toBe(true);
  expect(events.filter((event) => event.startsWith('boot'))).toEqual(['boot build']);
  await run.save({ kept: false });
});

it('pack makes a package of what was built, and a row of the results', async () => {
  const cell = await packaged();
  expect(resultsOf(cell)).toMatchObject([
    { module: 'foo', verdict: 'built', reason: null, fault: null, package: null, kernel: RELEASE },
  ]);
  const [module] = cell.modules;
  expect(module!.packed).toMatchObject({ koNames: ['foo'], needs: ['usbcore'] });
  expect(readFileSync(module!.packed!.main).length).toBeGreaterThan(100);
  expect(readdirSync(join(tmp, 'out'))).toEqual([]);
});

it.each([
  ['skipped BUILD_EXCLUSIVE', null],
  ['failed no', 'module'],
  ['error disk full', 'transient'],
])('a module that ended as %j is packed by nobody and is the fault of %s', async (end, fault) => {
  const cell = await packaged({ 'build.sh': { code: 6, stdout: rows(`module foo 1 ${end}`) } });
  expect(cell.modules).toMatchObject([{ packed: null, result: { fault } }]);
});

it('what cannot be packed has failed: here a module for another kernel', async () => {
  const other = frames([
    ['ko', elf([['.modinfo', modinfo({ vermagic: '5.10.0 SMP ' })]])],
    [
      'meta',
      JSON.stringify({
        modules: [{ name: 'foo', version: '1', ko: [{ dest: 'foo.ko', blob: 0 }] }],
        extras: [],
      }),
    ],
  ]);
  const cell = await packaged({ 'collect.py': { stdout: other } });
  expect(cell.modules).toMatchObject([{ packed: null, result: { verdict: 'failed', fault: 'module' } }]);
  expect(cell.modules[0]!.result.reason).toContain('5.10.0');
});

const verified = async (answer: Answer) => {
  const cell = await verify(await packaged({ 'verify.py': answer }));
  return resultsOf(cell)[0]!;
};

it('verify leaves a module built that loads, or that its own init function refuses', async () => {
  expect(await verified({ stdout: rows('load foo loaded') })).toMatchObject({
    verdict: 'built',
    reason: null,
  });
  expect(await verified({ stdout: rows('load foo refused No such device') })).toMatchObject({
    verdict: 'built',
    reason: 'installs; not loaded: foo: No such device',
  });
});

it.each<[string, Answer, string]>([
  ['does not load', { code: 1, stdout: rows('load foo bad taints') }, 'foo does not load (bad): taints'],
  ['is not reported', { stdout: '' }, 'foo does not load (missing): '],
  ['does not install', { code: 7, stdout: rows('error depends on bar') }, 'depends on bar'],
  ['leaves files', { code: 11, stdout: rows('load foo loaded', 'error left x') }, 'left x'],
])('verify fails a module that %s', async (_, answer, reason) => {
  expect(await verified(answer)).toMatchObject({ verdict: 'failed', fault: 'module', reason });
});

it('verify throws what says nothing of the module, and does nothing where it is not wanted', async () => {
  await expect(verified({ code: 20 })).rejects.toMatchObject({ fault: 'transient' });
  const cell = await packaged({ 'verify.py': { code: 20 } }, { verify: false });
  expect(await verify(cell)).toEqual({ ...cell, verified: false });
});

it('a module of another cell serves the proof and is in no result', async () => {
  const cell = await packaged(
    {
      'build.sh': built('dependency lib 1 built lib.ko', 'module foo 1 failed no'),
      'collect.py': { stdout: collected('foo', 'lib') },
    },
    {},
    ['lib'],
  );
  expect(cell.modules.map(({ ownedByOtherCell, packed }) => [ownedByOtherCell, packed !== null])).toEqual([
    [true, true],
    [false, false],
  ]);
  expect(resultsOf(cell).map(({ module }) => module)).toEqual(['foo']);
  const { results, records } = await deliver({ ...cell, verified: true });
  expect(records).toEqual([]);
  expect(results).toMatchObject([{ module: 'foo', verdict: 'failed', package: null }]);
  const [log] = readdirSync(join(tmp, 'out'));
  expect(results[0]!.log).toBe(join(tmp, 'out', log!));
  expect(readFileSync(join(tmp, 'out', log!), 'utf8')).toBe('make says\n');
});
