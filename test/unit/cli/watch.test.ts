import { expect, test } from 'vitest';
import { watch } from '../../../src/cli/watch.js';
import { Dkms2binError } from '../../../src/model/errors.js';

/** Runs rounds that end as told (null: well), aborts while it waits after the last one. */
async function rounds(ends: (Error | null)[]): Promise<{ rounds: number; told: string[]; error: unknown }> {
  const controller = new AbortController();
  const told: string[] = [];
  let count = 0;
  const round = (): Promise<void> => {
    const end = ends[count++] ?? null;
    if (count === ends.length) setImmediate(() => controller.abort());
    return end ? Promise.reject(end) : Promise.resolve();
  };
  const tell = (error: Error): void => void told.push(error.message);
  // Long enough that a busy host does not find the next round due at once.
  const options = { intervalMs: 200, signal: controller.signal, tell };
  const error = await watch(round, options).catch((e: unknown) => e);
  return { rounds: count, told, error };
}

const down = new Dkms2binError('transient', 'the mirror is down');
const wrong = new Dkms2binError('usage', 'no such folder');

test('rounds follow each other until it is interrupted', async () => {
  expect(await rounds([null, null, null])).toEqual({ rounds: 3, told: [], error: undefined });
});

test('a fault of one round is told, and the next one comes', async () => {
  const { rounds: count, told, error } = await rounds([down, null, wrong, null]);
  expect([count, told, error]).toEqual([4, [down.message, wrong.message], undefined]);
});

test('wrong input at the start ends it', async () => {
  expect(await rounds([wrong, null])).toMatchObject({ rounds: 1, error: wrong });
});

test('a bug ends it', async () => {
  expect(await rounds([null, new TypeError('x'), null])).toMatchObject({
    rounds: 2,
    error: { message: 'x' },
  });
});

test('interrupted in a round, it ends as the round does', async () => {
  const controller = new AbortController();
  const round = (): Promise<void> => {
    controller.abort();
    return Promise.reject(new Dkms2binError('interrupted', 'Interrupted'));
  };
  const tell = (): never => {
    throw new Error('told');
  };
  const ended = watch(round, { intervalMs: 1, signal: controller.signal, tell });
  await expect(ended).rejects.toMatchObject({ fault: 'interrupted' });
});
