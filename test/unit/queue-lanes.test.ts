import { expect, test } from 'vitest';
import { packageVersion } from '../../src/lib/paths.js';
import { byNeed, roomIn } from '../../src/engine/queue/lanes.js';
import { canDo, nobodyFor, queueOf } from '../../src/engine/queue/needs.js';
import type { Need, WorkerInfo } from '../../src/engine/queue/protocol.js';
import { plannedCell } from '../../src/engine/plan/planned-cell.js';
import type { PlannedCell } from '../../src/engine/plan/types.js';

const NEED: Need = { distro: 'debian-12', arch: 'x86_64', accelerator: null, signer: null };
const WORKER: WorkerInfo = {
  ...{ name: 'one', version: packageVersion(), distros: ['debian-12'], arches: ['x86_64'] },
  ...{ accelerator: 'tcg', signer: null, vms: 2, running: 0 },
};

const cell = (name: string, distro = 'debian-12'): PlannedCell =>
  plannedCell(
    { kind: 'repo', text: name, name },
    { release: '6.1.0-1-amd64', distro, arch: 'x86_64' },
    { image: 'auto', nameStyle: 'seed' },
  );

test('a lane for each need, the longest cells first, those never built before all others', () => {
  const seconds: Record<string, number | null> = { short: 1, long: 90, new: null, other: 5, newer: null };
  const cells = [cell('short'), cell('other', 'debian-13'), cell('new'), cell('long'), cell('newer')];
  const lanes = byNeed(
    cells,
    ({ distro, arch }) => ({ ...NEED, distro, arch }),
    ({ source }) => seconds[source] ?? null,
  );
  const shown = lanes.map(({ need, cells: all }) => [need.distro, ...all.map(({ source }) => source)]);
  expect(shown).toEqual([
    ['debian-12', 'new', 'newer', 'long', 'short'],
    ['debian-13', 'other'],
  ]);
});

test('a window holds a next cell for every VM, at least 16 and at most 2000', () => {
  expect(roomIn(0, 0, 100)).toBe(16);
  expect(roomIn(50, 0, 1000)).toBe(100);
  expect(roomIn(5000, 0, 9999)).toBe(2000);
});

test('a window is filled again once an eighth of it is free, or for the last cells', () => {
  expect(roomIn(50, 89, 1000)).toBe(0);
  expect(roomIn(50, 88, 1000)).toBe(12);
  expect(roomIn(50, 99, 1)).toBe(1);
  expect(roomIn(50, 100, 1)).toBe(0);
  expect(roomIn(50, 0, 0)).toBe(0);
});

test('a worker takes the cells that it can do', () => {
  expect(canDo(WORKER, NEED)).toBe(true);
  expect(canDo(WORKER, { ...NEED, accelerator: 'tcg' })).toBe(true);
  for (const need of [
    { ...NEED, distro: 'debian-13' },
    { ...NEED, arch: 'aarch64' as const },
    { ...NEED, accelerator: 'kvm' as const },
    { ...NEED, signer: 'ab12' },
  ])
    expect(canDo(WORKER, need)).toBe(false);
  expect(canDo({ ...WORKER, version: '0.0.1' }, NEED)).toBe(false);
  expect(canDo({ ...WORKER, signer: 'ab12' }, { ...NEED, signer: 'ab12' })).toBe(true);
});

test('who cannot do a lane, and why', () => {
  expect(nobodyFor(NEED, [])).toBe('No worker can build for debian-12 x86_64: there is no worker');
  const need: Need = { ...NEED, accelerator: 'kvm', signer: 'ab12' };
  expect(nobodyFor(need, [WORKER, { ...WORKER, name: 'two', accelerator: 'kvm' }])).toBe(
    'No worker can build for debian-12 x86_64 kvm signed: one has tcg, not kvm and does not sign with the certificate asked for; ' +
      'two does not sign with the certificate asked for',
  );
});

test('a queue is named by all that its cells need', () => {
  expect(queueOf(NEED)).toBe('debian-12.x86_64.any.unsigned');
  expect(queueOf({ ...NEED, accelerator: 'kvm', signer: 'a'.repeat(64) })).toBe(
    `debian-12.x86_64.kvm.${'a'.repeat(16)}`,
  );
});
