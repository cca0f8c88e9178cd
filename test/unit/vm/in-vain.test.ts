import { expect, it } from 'vitest';
import { cpuMsOf, inVain } from '../../../src/vm/in-vain.js';

it.each([
  ['has both processors', 2, 1],
  ['shares one with three others', 0.25, 4],
  ['is one of ten', 0.1, 10],
  ['stands still', 0.01, 1],
])('a guest that has only to answer and %s is given up in time', async (_, share, waits) => {
  const ms = 5;
  let looks = 0;
  using wait = inVain(() => Promise.resolve(looks++ * ms * share), ms);
  await expect(wait).rejects.toMatchObject({ fault: 'transient', message: 'The guest did not wake up' });
  expect(looks).toBe(waits + 1);
});

it('counts the processor time of a process and of those below it', async () => {
  const before = await cpuMsOf(process.pid);
  for (const used = process.cpuUsage(); process.cpuUsage(used).user < 100_000;);
  expect((await cpuMsOf(process.pid)) - before).toBeGreaterThan(50);
  expect(await cpuMsOf(2 ** 30)).toBe(0);
});

it('says nothing any more once it is over', async () => {
  const wait = inVain(() => Promise.resolve(0), 5);
  wait[Symbol.dispose]();
  expect(await Promise.race([wait, new Promise((resolve) => setTimeout(resolve, 50, 'nothing'))])).toBe(
    'nothing',
  );
});
