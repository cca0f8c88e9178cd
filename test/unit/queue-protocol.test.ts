import { expect, test } from 'vitest';
import {
  parseDelivery,
  parseJob,
  parseNeed,
  parseTold,
  parseWorkerInfo,
  workerOf,
} from '../../src/engine/queue/protocol.js';

const RESULT = {
  ...{ module: 'm', version: '1', kernel: '6.1.0-1-amd64', distro: 'debian-12', arch: 'x86_64' },
  ...{ verdict: 'built', reason: null, package: 'm.deb', log: 'm.log', phases: { dkms: 1 }, kept: null },
  fault: null,
};
const SHA = 'a'.repeat(64);
const DELIVERY = {
  ...{ results: [RESULT], files: [{ name: 'm.deb', sha256: SHA, size: 3 }] },
  ...{ worker: 'one', accelerator: 'tcg', seconds: 2 },
};
const JOB = {
  ...{ source: { kind: 'folder', text: './m', file: 'm', sha256: SHA }, otherSources: [] },
  target: { release: '6.1.0-1-amd64', distro: 'debian-12', arch: 'x86_64' },
  ...{ kernelPackages: [], need: { distro: 'debian-12', arch: 'x86_64', accelerator: null, signer: null } },
  ...{ image: 'auto', nameStyle: 'seed', verify: true, debugSymbols: false, checkReproducible: false },
  timeoutSeconds: 60,
};

test('a delivery is taken as it was packed', () => {
  expect(parseDelivery(DELIVERY)).toEqual(DELIVERY);
});

test.each([
  ['a file with a path', { ...DELIVERY, files: [{ name: '../../.bashrc', sha256: SHA, size: 3 }] }],
  ['a file named ..', { ...DELIVERY, files: [{ name: '..', sha256: SHA, size: 3 }] }],
  ['a digest that is a path', { ...DELIVERY, files: [{ name: 'm.deb', sha256: '../x', size: 3 }] }],
  ['a package elsewhere', { ...DELIVERY, results: [{ ...RESULT, package: '/etc/passwd' }] }],
  ['a log elsewhere', { ...DELIVERY, results: [{ ...RESULT, log: '../m.log' }] }],
  ['a verdict of its own', { ...DELIVERY, results: [{ ...RESULT, verdict: 'fine' }] }],
  ['no results', { ...DELIVERY, results: undefined }],
  ['nothing', null],
])('%s is no delivery', (_, data) => {
  expect(parseDelivery(data)).toBeNull();
});

test('a job that is none is told; nothing of it can leave its folder', () => {
  expect(parseJob(JOB)).toEqual(JOB);
  const outside = { ...JOB, kernelPackages: [{ file: '../linux.deb', sha256: SHA }] };
  expect(() => parseJob(outside)).toThrow(/^The queue holds a job that cannot be read: /);
  expect(() => parseJob({ ...JOB, source: { ...JOB.source, file: 'a/b' } })).toThrow('cannot be read');
  expect(() => parseJob({ ...JOB, image: '/dev/sda' })).toThrow('cannot be read');
});

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
