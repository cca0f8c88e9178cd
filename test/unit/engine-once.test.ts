import { expect, test, vi } from 'vitest';
import { once } from '../../src/engine/once.js';

test('a key is made once, also while it is being made', async () => {
  const made = new Map<string, Promise<string>>();
  const make = vi.fn(() => Promise.resolve('layer'));
  const both = [once(made, 'a', make), once(made, 'a', make)];
  expect(both[0]).toBe(both[1]);
  expect(await both[1]).toBe('layer');
  void once(made, 'b', make);
  expect(make).toHaveBeenCalledTimes(2);
});

test('what failed stays so', async () => {
  const made = new Map<string, Promise<string>>();
  await expect(once(made, 'a', () => Promise.reject(new Error('no image')))).rejects.toThrow('no image');
  await expect(once(made, 'a', () => Promise.resolve('layer'))).rejects.toThrow('no image');
});
