import { expect, test } from 'vitest';
import { LiveWork } from '../../src/ui/live-work.js';

function live(): { work: LiveWork; pass: (ms: number) => void } {
  let now = 0;
  return { work: new LiveWork(() => now), pass: (ms) => void (now += ms) };
}

test('a line for each stage that runs, with its clock and the last output', () => {
  const { work, pass } = live();
  work.add({ type: 'phase', state: 'start', phase: 'dkms', cell: 'a' });
  work.add({ type: 'phase', state: 'start', phase: 'kernel packages' });
  pass(61_000);
  work.add({ type: 'output', cell: 'a', line: 'CC  a.o' });
  work.add({ type: 'output', line: 'Unpacking' });
  expect(work.lines()).toEqual(['a  dkms 1:01  CC a.o', 'kernel packages 1:01  Unpacking']);
  expect(work.sharedLines()).toEqual(['kernel packages 1:01  Unpacking']);
});

test('an outer stage that ends leaves the inner one, and a verdict ends all of its cell', () => {
  const { work } = live();
  work.add({ type: 'phase', state: 'start', phase: 'dkms', cell: 'a' });
  work.add({ type: 'phase', state: 'start', phase: 'build', cell: 'a' });
  work.add({ type: 'phase', state: 'end', phase: 'dkms', cell: 'a', seconds: 1 });
  expect(work.lines()).toEqual(['a  build 0:00']);
  work.add({ type: 'cell', cell: 'a', verdict: 'built' });
  expect(work.busy).toBe(false);
});

test('a transfer goes when it is done, or when nothing is heard of it', () => {
  const { work, pass } = live();
  work.add({ type: 'progress', what: 'image', done: 1, total: 2 });
  work.add({ type: 'progress', what: 'kernel', done: 2, total: 2 });
  expect(work.lines()).toEqual(['image: 50% of 2 B']);
  pass(5001);
  work.forgetStale();
  expect(work.busy).toBe(false);
});
