import { expect, it } from 'vitest';
import { Dkms2binError, GuestDeath } from '../../../src/model/errors.js';
import { cpuMsOf, inVain, unlessDead } from '../../../src/vm/in-vain.js';

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

it('takes what broke off for the machine’s death where that comes to light a moment later', async () => {
  const closed = new Dkms2binError('transient', 'the channel closed');
  const death = new GuestDeath('died', 'the kernel panicked', 'BUG: x');
  const later = new Promise<never>((_, reject) => void setTimeout(() => reject(death), 20));
  await expect(unlessDead(Promise.reject(closed), later)).rejects.toBe(death);
  const lives = new Promise<never>(() => undefined);
  await expect(unlessDead(Promise.reject(closed), lives, 20)).rejects.toBe(closed);
  await expect(unlessDead(Promise.reject(new Dkms2binError('module', 'x')), lives, 1e9)).rejects.toThrow('x');
  expect(await unlessDead(Promise.resolve(1), lives)).toBe(1);
});
