import { describe, expect, test } from 'vitest';
import { Dkms2binError, type Fault } from '../../../src/model/errors.js';
import type { RefreshOptions } from '../../../src/engine/refresh.js';
import type { Engine } from '../../../src/cli/services.js';
import {
  plannedCell,
  type BlockedCell,
  type RefreshPlan,
  type WantedCell,
} from '../../../src/engine/plan/refresh.js';
import { RefreshDocument } from '../../../src/model/result-schema.js';
import type { BuildRequest } from '../../../src/options/request.js';
import { cell, cli, type Fake } from '../fixtures/cli-harness.js';

const WANTED: WantedCell = {
  modules: ['acpi-call'],
  source: { kind: 'repo', text: 'acpi-call-dkms', name: 'acpi-call-dkms' },
  ...{ version: '1.2.2-2', digest: 'd', distro: 'debian-12', arch: 'x86_64', why: 'new kernel' },
  kernel: { release: '6.1.0-56-amd64', packageVersion: '6.1.192-2', suite: 'bookworm-security' },
};
const blockedBy = (fault: Fault): BlockedCell => ({
  ...{ modules: ['tiny'], source: 'tiny', kernel: '6.1.0-56-amd64', distro: 'debian-12', arch: 'x86_64' },
  ...{ fault, reason: 'where that lies\nis not \x1b[2Jrecorded' },
});

interface Asked {
  request?: BuildRequest;
  options?: RefreshOptions;
}

/** A fake engine whose plan has these cells; keeps what it was asked. */
function engine(wanted: WantedCell[], blocked: BlockedCell[] = [], more: Fake = {}): Fake & { asked: Asked } {
  const asked: Asked = {};
  const planRefresh: Engine['planRefresh'] = (request, options) => {
    Object.assign(asked, { request, options });
    const cells = wanted.map((each) => plannedCell(each, request));
    const plan: RefreshPlan = {
      request,
      cells,
      wanted,
      blocked,
      tried: [],
      validate: options.validate.length > 0,
    };
    return Promise.resolve(plan);
  };
  return { asked, planRefresh, ...more };
}
const refreshed: Engine['refresh'] = () =>
  Promise.resolve({ run: 'r1', accelerator: 'tcg', cells: [cell()] });

describe('--dry-run', () => {
  test.each<[WantedCell[], BlockedCell[], number]>([
    [[], [], 0],
    [[WANTED], [], 6],
    [[WANTED], [blockedBy('usage')], 6],
    [[], [blockedBy('usage')], 2],
    [[], [blockedBy('module')], 1],
    [[], [blockedBy('module'), blockedBy('not-found')], 3],
  ])('%#: exits with what there is to do, else with what cannot be done', async (wanted, blocked, code) => {
    expect((await cli(['refresh', '--dry-run'], engine(wanted, blocked))).code).toBe(code);
  });

  test('a table', async () => {
    const { stdout, stderr } = await cli(['refresh', '--dry-run'], engine([WANTED], [blockedBy('usage')]));
    expect(stdout).toMatch(/^MODULE +VERSION +KERNEL +DISTRO +REASON\n/);
    expect(stdout).toMatch(/\nacpi-call +1\.2\.2-2 +6\.1\.0-56-amd64 +debian-12 +new kernel\n/);
    expect(stdout).toMatch(/\ntiny .*cannot be built: where that lies\n$/);
    expect(stderr).toMatch(/tiny on 6\.1\.0-56-amd64:\n {2}is not .*recorded\n/);
    expect(stdout + stderr).not.toContain('\x1b');
  });

  test('a document of its schema', async () => {
    const { code, stdout } = await cli(
      ['refresh', '--dry-run', '--json'],
      engine([WANTED], [blockedBy('usage')]),
    );
    const document = JSON.parse(stdout) as RefreshDocument;
    expect(RefreshDocument.parse(document)).toEqual(document);
    expect(document.missing).toMatchObject([
      { modules: ['acpi-call'], source: 'acpi-call-dkms', reason: 'new kernel' },
    ]);
    expect(document.blocked).toMatchObject([{ modules: ['tiny'], fault: 'usage' }]);
    expect(code).toBe(6);
  });

  test('nothing to do prints nothing on stdout', async () => {
    const { stdout, stderr } = await cli(['refresh', '--dry-run'], engine([]));
    expect([stdout, stderr]).toEqual(['', 'nothing to build\n']);
  });
});

test('options of build arrive, its kernels and kernel packages do not', async () => {
  const loadConfig = (): ReturnType<Engine['loadConfig']> =>
    Promise.resolve({ kernel: 'latest', 'kernel-package': ['x.deb'], 'sign-key': 'k', dkms: ['./tiny'] });
  const fake = engine([WANTED], [], { loadConfig, refresh: refreshed });
  const argv = [
    'refresh',
    '--out-dir',
    'o',
    '--newest',
    '--force',
    '--jobs',
    '3',
    '--validate',
    'next',
    '--validate',
    'x',
  ];
  expect((await cli(argv, fake)).code).toBe(0);
  expect(fake.asked.options).toEqual({ newest: true, validate: ['next', 'x'] });
  expect(fake.asked.request).toMatchObject({
    ...{ outDir: 'o', jobs: 3, force: true, signKey: 'k', dkms: ['./tiny'] },
    ...{ kernels: [], kernelPackages: [] },
  });
});

test('the result is that of build', async () => {
  const failed = cell({ verdict: 'failed', fault: 'module', package: null, reason: 'x.c:1: error' });
  const refresh = (): ReturnType<Engine['refresh']> =>
    Promise.resolve({ run: 'r1', accelerator: 'tcg', cells: [cell(), failed] });
  const { code, stdout, stderr } = await cli(['refresh'], engine([WANTED], [], { refresh }));
  expect(code).toBe(1);
  expect(stdout).toMatch(/^built .*\nfailed .*\n$/);
  expect(stderr).toContain('2 cells: 1 built, 1 failed');
});

test.each<[string, string[], number]>([
  ['with --repo, also when nothing was built: an earlier run may not have come to it', ['--repo'], 1],
  ['not unless asked for', [], 0],
  ['not when it only validates', ['--repo', '--validate', 'next'], 0],
])('the repository is published %s', async (_, argv, times) => {
  let published = 0;
  const fake = engine([], [], {
    refresh: () => Promise.resolve({ run: null, accelerator: null, cells: [] }),
    publishRepository: () => {
      published += 1;
      const nothing = { packages: [], changed: false, removed: [], leftOut: [] };
      return Promise.resolve({ ...nothing, kinds: [], signedBy: null, metapackages: [] });
    },
  });
  expect((await cli(['refresh', ...argv], fake)).code).toBe(0);
  expect(published).toBe(times);
});

describe('--watch', () => {
  test.each([
    [['--watch', '5s'], /one minute/],
    [['--watch', 'often'], /--watch/],
    [['--watch', '--dry-run'], /cannot be used with/],
    [['--watch', '--validate', 'next'], /cannot be used with/],
    [['stray'], /too many arguments/],
  ])('usage error %j', async (argv, message) => {
    const { code, stderr } = await cli(['refresh', ...argv]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
  });

  test('a failed round is told; Ctrl-C while it waits ends it well', async () => {
    const controller = new AbortController();
    const planRefresh = (): never => {
      setImmediate(() => controller.abort());
      throw new Dkms2binError('transient', 'the mirror\x1b is down', { hint: 'Try later' });
    };
    const { code, stderr } = await cli(
      ['refresh', '--watch'],
      { planRefresh },
      { signal: controller.signal },
    );
    expect(code).toBe(0);
    expect(stderr).toMatch(/^dkms2bin: the mirror is down\n {2}Try later\n {2}the next round is at 20\d\d-/);
  });

  test('interrupted in a round: 130', async () => {
    const controller = new AbortController();
    const planRefresh = (): never => {
      controller.abort();
      throw new Dkms2binError('interrupted', 'Interrupted');
    };
    const { code } = await cli(['refresh', '--watch'], { planRefresh }, { signal: controller.signal });
    expect(code).toBe(130);
  });
});
