import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Dkms2binError } from '../model/errors.js';

/** Of USER_HZ, which is 100 on every architecture that is run here. */
const TICK_MS = 10;

/** How long a process and those below it have had a processor, in all their threads; what has ended counts for nothing. */
export async function cpuMsOf(pid: number): Promise<number> {
  const [stat, children] = await Promise.all(
    ['stat', `task/${pid}/children`].map((file) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '')),
  );
  // The name, in brackets, may hold blanks and brackets.
  const fields = (stat ?? '').slice((stat ?? '').lastIndexOf(')') + 2).split(' ');
  const own = (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * TICK_MS;
  const below = (children ?? '').split(' ').filter((each) => each !== '');
  const times = await Promise.all(below.map((each) => cpuMsOf(Number(each))));
  return times.reduce((sum, each) => sum + each, own);
}

/**
 * Rejects when a guest that has only to answer will not: it has had the processor for `ms`, or for less than a
 * twentieth of the last `ms`. On a busy host it may wait longer for the processor. Never resolves.
 */
export function inVain(cpuMs: () => Promise<number>, ms: number): Promise<never> & Disposable {
  const over = new AbortController();
  const wait = async (): Promise<never> => {
    const start = await cpuMs();
    let last = start;
    for (;;) {
      await sleep(ms, undefined, { signal: over.signal }).catch(() => new Promise<never>(() => undefined));
      const now = await cpuMs();
      if (now - start >= ms || now - last < ms / 20)
        throw new Dkms2binError('transient', 'The guest did not wake up');
      last = now;
    }
  };
  const waiting = wait();
  waiting.catch(() => undefined);
  return Object.assign(waiting, { [Symbol.dispose]: () => over.abort() });
}

/**
 * Resolves or rejects with `work`, unless the machine dies first. What breaks off as it dies may be seen before its death is: then
 * the death is the reason, if it is known within `ms`.
 */
export async function unlessDead<T>(work: Promise<T>, died: Promise<never>, ms = 2000): Promise<T> {
  try {
    return await Promise.race([work, died]);
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault !== 'transient') throw error;
    const over = new AbortController();
    const late = sleep(ms, undefined, { signal: over.signal }).catch(() => undefined);
    await Promise.race([died, late]).finally(() => over.abort());
    throw error;
  }
}
