import { expect, test } from 'vitest';
import { parseNeed, parseTold, parseWorkerInfo, workerOf } from '../../../src/engine/queue/protocol.js';

// Jobs and deliveries: hostile.test.ts.

test('what a worker tells is one of few things, in known stages', () => {
  const phase = { type: 'phase', state: 'end', phase: 'dkms', seconds: 1 };
  expect(parseTold(JSON.stringify(phase))).toEqual(phase);
  const layer = { type: 'phase', state: 'start', phase: 'kernel layer 6.1.0-1-amd64' };
  expect(parseTold(JSON.stringify(layer))).toEqual(layer);
  expect(parseTold(JSON.stringify({ ...phase, phase: 'lunch' }))).toBeNull();
  expect(parseTold('{"type":"shutdown"}')).toBeNull();
  expect(parseTold('{')).toBeNull();
});

test('needs and workers that cannot be read are passed over', () => {
  expect(parseNeed('{"distro":"debian-12"}')).toBeNull();
  expect(parseNeed('')).toBeNull();
  expect(parseWorkerInfo('{"name":"one","vms":-1}')).toBeNull();
  expect(workerOf({ worker: 'one' })).toBe('one');
  expect(workerOf(0)).toBeNull();
});
