import { describe, expect, test } from 'vitest';
import {
  answerOf,
  bisectKernels,
  endError,
  type Answer,
  type BisectResult,
} from '../../../src/engine/plan/bisect.js';
import { cell } from '../fixtures/cli-harness.js';

/** A list of kernels by their answers: `+` good, `-` bad, `?` none. Kernels are called by their place. */
async function search(list: string): Promise<BisectResult & { asked: number[] }> {
  const answers: Record<string, Answer> = { '+': 'good', '-': 'bad', '?': 'untested' };
  const asked: number[] = [];
  const found = await bisectKernels(
    [...list].map((_, index) => String(index)),
    (kernel) => {
      asked.push(Number(kernel));
      return Promise.resolve(answers[list[Number(kernel)]!]!);
    },
    (end, kernel, answer) => new Error(`${end} ${kernel} ${answer}`),
  );
  return { ...found, asked };
}

describe('the first bad kernel', () => {
  test('is found wherever it is, and nothing is asked twice or without need', async () => {
    for (let length = 2; length <= 65; length += 1) {
      for (let bad = 1; bad < length; bad += 1) {
        const { asked, ...found } = await search('+'.repeat(bad) + '-'.repeat(length - bad));
        const [lastGood, firstBad] = [String(bad - 1), String(bad)];
        expect(found).toEqual({ status: 'found', lastGood, firstBad, untested: [] });
        expect(new Set(asked).size).toBe(asked.length);
        expect(asked.length).toBeLessThanOrEqual(2 + Math.ceil(Math.log2(length - 1)));
      }
    }
  });

  test.each([
    ['++?--', '1', '3', ['2']],
    ['+???-', '0', '4', ['1', '2', '3']],
    ['+?????+-', '6', '7', []],
    ['+-?????-', '0', '1', []],
    ['++??-?-?--', '1', '4', ['2', '3']],
  ])('%s: what gives no answer is stepped over', async (list, lastGood, firstBad, untested) => {
    const status = untested.length > 0 ? 'ambiguous' : 'found';
    expect(await search(list)).toMatchObject({ status, lastGood, firstBad, untested });
  });

  test.each(['++-+-+--', '+-+-', '+--+++---', '+-?+?-+-'])(
    '%s: of several changes one is found',
    async (list) => {
      const { lastGood, firstBad, untested } = await search(list);
      expect(list[Number(lastGood)]).toBe('+');
      expect(list[Number(firstBad)]).toBe('-');
      expect(Number(firstBad) - Number(lastGood)).toBe(untested.length + 1);
    },
  );

  test.each([
    ['--', 'good 0 bad'],
    ['?-', 'good 0 untested'],
    ['+++', 'bad 2 good'],
    ['++?', 'bad 2 untested'],
  ])('%s: the ends are tried first', async (list, message) => {
    await expect(search(list)).rejects.toThrow(message);
  });
});

test('a kernel for which one of the modules fails is bad', () => {
  const built = cell();
  const failed = cell({ verdict: 'failed', fault: 'module' });
  const skipped = cell({ verdict: 'skipped' });
  const error = cell({ verdict: 'error', fault: 'transient' });
  expect([[built], [built, skipped], [error, failed], [built, error], [skipped], []].map(answerOf)).toEqual([
    ...['good', 'good', 'bad', 'untested', 'untested', 'untested'],
  ]);
});

test('an end that cannot be used says why, and whose fault that is', () => {
  const failed = cell({ verdict: 'failed', fault: 'module', reason: 'x.c:1: error' });
  expect(endError('good', 'K', 'bad', [failed])).toMatchObject({
    ...{ fault: 'usage', message: '--good K: the module fails there: x.c:1: error' },
    hint: expect.stringContaining('an older kernel') as string,
  });
  expect(endError('bad', 'K', 'good', [cell()])).toMatchObject({
    ...{ fault: 'usage', message: '--bad K: the module builds there' },
    hint: expect.stringContaining('a newer kernel') as string,
  });
  const lost = cell({ verdict: 'error', fault: 'transient', reason: 'mirror down' });
  expect(endError('good', 'K', 'untested', [lost])).toMatchObject({ fault: 'transient' });
  expect(endError('good', 'K', 'untested', [cell({ verdict: 'skipped' })])).toMatchObject({ fault: 'usage' });
});
