import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EventEmitter } from 'node:events';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { onSignals } from '../../../src/cli/signals.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import { cli } from '../fixtures/cli-harness.js';

const RUN = {
  id: 'run-7',
  cell: 'v4l2loopback\x1b]0;x\x07',
  kernel: '6.1.0-56-amd64',
  distro: 'debian-12',
  created: '2020-01-01T00:00:00Z',
  bytes: 3 * 1024 ** 3,
  state: 'kept' as const,
};

test('runs: a table without control bytes, or JSON', async () => {
  const listRuns = () => Promise.resolve([RUN]);
  const text = await cli(['runs'], { listRuns });
  expect(text.stdout).toMatch(/^RUN .*\nrun-7 +kept +v4l2loopback.* days +3\.0 GiB\n$/);
  expect(text.stdout).not.toMatch(/[\x1b\x07]/);
  const json = await cli(['runs', '--json'], { listRuns });
  expect(JSON.parse(json.stdout)).toEqual({ schemaVersion: 1, runs: [RUN] });
  const none = await cli(['runs'], { listRuns: () => Promise.resolve([]) });
  expect(none.stdout).toBe('');
});

test('rm goes on after an unknown run and keeps its exit code', async () => {
  const removed: string[] = [];
  const removeRun = (id: string): Promise<void> => {
    if (id === 'nope') return Promise.reject(new Dkms2binError('not-found', `No run ${id}`));
    removed.push(id);
    return Promise.resolve();
  };
  const { code, stderr } = await cli(['rm', 'nope', 'a', 'a'], { removeRun });
  expect(removed).toEqual(['a']);
  expect(code).toBe(3);
  expect(stderr).toContain('dkms2bin: No run nope');
  const two = await cli(['rm', 'nope', 'nope', 'a'], { removeRun });
  expect(two.code).toBe(3);
});

test('login and kernels pass on what was asked', async () => {
  const calls: unknown[] = [];
  const login = (id: string | undefined, options: { serial: boolean }): Promise<void> => {
    calls.push([id, options.serial]);
    return Promise.resolve();
  };
  await cli(['login'], { login });
  await cli(['login', 'run-7', '--serial'], { login });
  expect(calls).toEqual([
    [undefined, false],
    ['run-7', true],
  ]);
  const kernel = {
    release: '6.1.0-56-amd64',
    distro: 'debian-12',
    packageVersion: '6.1.192-2',
    suite: 'bookworm',
  };
  const kernels = await cli(['kernels', '--distro', 'debian-12', '--json'], {
    listKernels: (distro) => Promise.resolve(distro === 'debian-12' ? [kernel] : []),
  });
  expect(JSON.parse(kernels.stdout)).toEqual({ schemaVersion: 1, kernels: [kernel] });
});

describe('doctor', () => {
  let empty: string;
  beforeEach(async () => {
    empty = await mkdtemp(join(tmpdir(), 'dkms2bin-doctor-'));
  });
  afterEach(() => rm(empty, { recursive: true }));

  test('names each missing tool with its package and exits 4', async () => {
    const { code, stdout, stderr } = await cli(['doctor'], {}, { env: { PATH: empty } });
    expect(code).toBe(4);
    expect(stdout).toMatch(/qemu-system-x86_64 +MISSING/);
    expect(stdout).toMatch(/mmdebstrap +warning/);
    expect(stderr).toContain('qemu-img: sudo apt-get install qemu-utils');
    const json = await cli(['doctor', '--json'], {}, { env: { PATH: empty } });
    expect(JSON.parse(json.stdout)).toMatchObject({ schemaVersion: 1, ok: false });
  });

  test('says which layers of confinement are not on, where there is nothing to confine with', async () => {
    const { stdout } = await cli(['doctor', '--json'], {}, { env: { PATH: empty } });
    const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string; remedy: string }[] };
    for (const name of ['package scripts', 'compiler', 'readers see']) {
      const check = checks.find((each) => each.name === name);
      expect(check, name).toMatchObject({ remedy: expect.stringContaining('bubblewrap') as string });
      expect(check?.status, name).not.toBe('ok');
    }
  });
});

test('the first signal aborts, the second leaves at once, a hang-up never counts as the second', () => {
  const codes: number[] = [];
  const target = Object.assign(new EventEmitter(), {
    exit: (code: number) => codes.push(code),
  });
  const controller = new AbortController();
  const off = onSignals(target, controller);
  target.emit('SIGINT');
  expect(controller.signal.aborted).toBe(true);
  target.emit('SIGHUP');
  expect(codes).toEqual([]);
  target.emit('SIGTERM');
  expect(codes).toEqual([130]);
  off();
  expect(target.listenerCount('SIGINT')).toBe(0);
});
