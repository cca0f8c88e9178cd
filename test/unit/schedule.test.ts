import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { requestOf } from '../../src/cli/request.js';
import type { CellDone } from '../../src/engine/executor.js';
import { Schedule, type Runner } from '../../src/engine/schedule.js';
import { matrixPlan } from '../../src/engine/plan/matrix.js';
import type { PlannedCell } from '../../src/engine/plan/types.js';

const cellsOf = (sources: string[], kernels: string[]): readonly PlannedCell[] =>
  matrixPlan(requestOf({}, '/'), {
    sources: sources.map((text) => ({ source: { kind: 'repo', text, name: text }, names: [] })),
    targets: kernels.map((release) => ({ release, distro: 'debian-12', arch: 'x86_64' })),
    ...{ include: [], exclude: [], expectations: [] },
  }).cells;

const DONE: CellDone = { results: [], worker: 'w', accelerator: null, seconds: 1 };

/** Runs a schedule; `story` is what happened, in order. */
async function ran(
  cells: readonly PlannedCell[],
  jobs: number,
  more: {
    seconds?: (cell: PlannedCell) => number | null;
    known?: (cell: PlannedCell) => boolean;
    build?: (cell: PlannedCell, stop: AbortController) => Promise<void>;
    warm?: () => Promise<void>;
  } = {},
): Promise<{ story: string[]; most: number; failure: unknown }> {
  const story: string[] = [];
  const stop = new AbortController();
  let [busy, most] = [0, 0];
  const inPlace = async <T>(work: () => Promise<T>): Promise<T> => {
    busy += 1;
    most = Math.max(most, busy);
    try {
      await sleep(1);
      return await work();
    } finally {
      busy -= 1;
    }
  };
  const runner: Runner = {
    known: (cell) => Promise.resolve(more.known?.(cell) ? DONE : null),
    warm: ({ release }) =>
      inPlace(async () => {
        story.push(`layer ${release}`);
        await more.warm?.();
      }),
    build: (cell, { signal }) =>
      inPlace(async () => {
        await more.build?.(cell, stop);
        return signal.aborted ? null : DONE;
      }),
  };
  const context = {
    emit: () => undefined,
    signal: stop.signal,
    expectedSeconds: more.seconds ?? (() => null),
    begun: ({ source, kernel }: PlannedCell) => void story.push(`${source} ${kernel}`),
    ended: ({ source, kernel }: PlannedCell) => {
      story.push(`${source} ${kernel} ended`);
      return Promise.resolve();
    },
  };
  const failure: unknown = await new Schedule(cells, { jobs, runner, stop }, context).done().then(
    () => null,
    (error: unknown) => error,
  );
  expect(busy).toBe(0);
  return { story, most, failure };
}

const begun = (story: string[]): string[] =>
  story.filter((line) => !line.startsWith('layer') && !line.endsWith('ended'));

test('the longest goes first, and before it what was never built', async () => {
  const seconds = { short: 5, long: 50, middle: 20 } as Record<string, number>;
  const cells = cellsOf(['short', 'long', 'new', 'middle'], ['2']);
  const { story } = await ran(cells, 1, { seconds: ({ source }) => seconds[source] ?? null });
  expect(begun(story)).toEqual(['new 2', 'long 2', 'middle 2', 'short 2']);
});

test('each layer is made once, before its cells and not long before; places are never exceeded', async () => {
  const kernels = ['9', '8', '7', '6', '5', '4'];
  const { story, most } = await ran(cellsOf(['a', 'b', 'c'], kernels), 2);
  expect(story.filter((line) => line.startsWith('layer'))).toEqual(kernels.map((k) => `layer ${k}`));
  for (const kernel of kernels)
    expect(story.indexOf(`layer ${kernel}`)).toBeLessThan(story.indexOf(`a ${kernel}`));
  // The last layer is not made before the first cells are done.
  expect(story.indexOf('layer 4')).toBeGreaterThan(story.indexOf('a 9 ended'));
  expect(story.filter((line) => line.endsWith('ended'))).toHaveLength(18);
  expect(most).toBe(2);
});

test('cells of a kernel whose layer is ready are built while the next one is made', async () => {
  let made = 0;
  const { story } = await ran(cellsOf(['a', 'b', 'c'], ['2', '1']), 2, {
    warm: () => sleep(made++ === 0 ? 0 : 150),
  });
  expect(story.indexOf('a 2 ended')).toBeLessThan(story.indexOf('a 1'));
});

test('a kernel whose cells are all up to date needs no snapshot, and they no turn', async () => {
  const { story } = await ran(cellsOf(['a', 'b'], ['2', '1']), 2, { known: ({ kernel }) => kernel === '2' });
  expect(story.filter((line) => line.startsWith('layer'))).toEqual(['layer 1']);
  expect(begun(story).sort()).toEqual(['a 1', 'b 1']);
  expect(story).toContain('a 2 ended');
});

test('when it is stopped it starts no more and ends well', async () => {
  const { story, failure } = await ran(cellsOf(['a', 'b', 'c'], ['2', '1']), 1, {
    build: ({ source }, stop) => {
      if (source === 'b') stop.abort();
      return Promise.resolve();
    },
  });
  expect(failure).toBeNull();
  expect(begun(story)).toEqual(['a 2', 'b 2']);
  expect(story).not.toContain('b 2 ended');
});

test('what is no fault of a cell ends the whole, when all that runs has ended', async () => {
  let other = false;
  const { story, failure } = await ran(cellsOf(['a', 'b', 'c'], ['1']), 2, {
    build: async ({ source }) => {
      if (source === 'a') throw new Error('a bug');
      await sleep(50);
      other = true;
    },
  });
  expect(failure).toEqual(new Error('a bug'));
  expect(other).toBe(true);
  expect(begun(story)).not.toContain('c 1');
});
