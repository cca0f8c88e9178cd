import { describe, expect, it } from 'vitest';
import type { Outcome } from '../../../src/model/matrix.js';
import { gridRows } from '../../../src/report/grid.js';
import { compare, kernelLines } from '../../../src/report/history.js';
import { cell, kernel, run } from '../fixtures/matrix.js';

const [K5, K4, K3, K2] = [5, 4, 3, 2].map((n) => kernel(`6.1.0-${n}-amd64`)) as [
  ReturnType<typeof kernel>,
  ReturnType<typeof kernel>,
  ReturnType<typeof kernel>,
  ReturnType<typeof kernel>,
];

/** A run of one module: its outcomes on the kernels, newest first. */
function night(day: number, outcomes: Outcome[], kernels = [K5, K4, K3, K2]) {
  return run(
    day,
    kernels,
    outcomes.map((outcome, i) => cell('acpi_call', kernels[i]!, outcome)),
  );
}

const brokenOn = (...outcomes: Outcome[]) => compare(night(9, outcomes), []).broken;

describe('since the last run', () => {
  it('tells what broke and what was fixed', () => {
    const { broke, fixed, previous } = compare(night(9, ['failed', 'built', 'failed']), [
      night(8, ['built', 'failed', 'failed']),
    ]);
    expect(broke.map((change) => [change.cell.kernel, change.before.outcome, change.beforeAt])).toEqual([
      [K5.release, 'built', '2026-03-08T03:00:00.000Z'],
    ]);
    expect(fixed.map((change) => change.cell.kernel)).toEqual([K4.release]);
    expect(previous?.startedAt).toBe('2026-03-08T03:00:00.000Z');
  });

  it('keeps the last answer over nights that gave none', () => {
    const history = [night(8, ['error']), night(7, ['not-run']), night(6, ['built'])];
    const { broke } = compare(night(9, ['failed']), history);
    expect(broke.map((change) => change.beforeAt)).toEqual(['2026-03-06T03:00:00.000Z']);
    expect(compare(night(9, ['error']), [night(8, ['built'])]).broke).toEqual([]);
  });

  it('says nothing twice: what failed in the last run already is not new', () => {
    expect(compare(night(9, ['failed']), [night(8, ['failed']), night(7, ['built'])]).broke).toEqual([]);
  });

  it('does not count what is expected to fail, nor runs that came later', () => {
    expect(compare(night(9, ['expected-failure']), [night(8, ['built'])]).broke).toEqual([]);
    const { broke, previous } = compare(night(9, ['failed']), [night(10, ['built'])]);
    expect([broke, previous]).toEqual([[], null]);
  });
});

describe('first bad kernel', () => {
  it('is the newest when the one before it was good', () => {
    expect(brokenOn('failed', 'built', 'failed')).toMatchObject([
      { newest: K5.release, firstBad: K5.release, lastGood: K4.release, unanswered: 0 },
    ]);
  });

  it('is the oldest of those that fail without a good one between', () => {
    expect(brokenOn('failed', 'failed', 'failed', 'up-to-date')).toMatchObject([
      { newest: K5.release, firstBad: K3.release, lastGood: K2.release },
    ]);
  });

  it('has no last good one when it builds nowhere', () => {
    expect(brokenOn('failed', 'failed')).toMatchObject([{ firstBad: K4.release, lastGood: null }]);
  });

  it('is uncertain by the kernels between that gave no answer, those that do not apply left out', () => {
    expect(brokenOn('error', 'failed', 'not-run', 'built')).toMatchObject([
      { newest: K4.release, firstBad: K4.release, lastGood: K2.release, unanswered: 1 },
    ]);
    expect(brokenOn('failed', 'skipped', 'built')).toMatchObject([{ firstBad: K5.release, unanswered: 0 }]);
  });

  it('is none when the newest with an answer builds', () => {
    expect(brokenOn('built', 'failed')).toEqual([]);
    expect(brokenOn('error', 'built', 'failed')).toEqual([]);
    expect(brokenOn('error', 'not-run')).toEqual([]);
  });

  it('takes older kernels from earlier runs', () => {
    const { broken } = compare(night(9, ['failed'], [K5]), [night(8, ['failed', 'built'], [K4, K3])]);
    expect(broken).toMatchObject([{ newest: K5.release, firstBad: K4.release, lastGood: K3.release }]);
  });

  it('is asked for each distro by itself', () => {
    const other = kernel('6.12.0-1-amd64', 'debian-13');
    const now = run(
      9,
      [K5, K4, other],
      [cell('acpi_call', K5, 'failed'), cell('acpi_call', K4, 'built'), cell('acpi_call', other, 'built')],
    );
    expect(compare(now, []).broken.map((story) => story.distro)).toEqual(['debian-12']);
  });
});

it('puts the kernels of earlier runs beside the neighbours they had', () => {
  const lines = kernelLines([night(7, [], [K3, K2]), night(8, [], [K4, K2]), night(9, [], [K5, K4])]);
  expect(lines.map((line) => line.map(({ release }) => release))).toEqual([
    [K5.release, K4.release, K3.release, K2.release],
  ]);
});

describe('rows of the grid', () => {
  const source = 'two-dkms';
  it("a source that broke before its modules were known has no row of its own, but stands in each module's", () => {
    const now = run(
      9,
      [K5, K4],
      [
        cell(source, K5, 'error', { source }),
        cell('one', K4, 'built', { source }),
        cell('two', K4, 'failed', { source }),
      ],
    );
    expect(gridRows(now).map((row) => [row.module, ...row.cells.map((one) => one?.outcome)])).toEqual([
      ['one', 'error', 'built'],
      ['two', 'error', 'failed'],
    ]);
  });

  it('a module without any answer keeps its row when its neighbours have cells on the same kernel', () => {
    const now = run(9, [K5], [cell('one', K5, 'built', { source }), cell('two', K5, 'error', { source })]);
    expect(gridRows(now).map((row) => [row.module, row.cells[0]?.outcome])).toEqual([
      ['one', 'built'],
      ['two', 'error'],
    ]);
  });
});
