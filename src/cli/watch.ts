import { setTimeout as sleep } from 'node:timers/promises';
import { Dkms2binError } from '../model/errors.js';

/** A sleep ends within this time after a suspended machine wakes up. */
const STEP_MS = 60_000;

/**
 * Does `round` now and then again every `intervalMs`, counted from start to start, until `signal` aborts while it waits. A
 * round that fails is told through `tell`, and the next one comes; but a first one that finds its input wrong ends it.
 */
export async function watch(
  round: () => Promise<unknown>,
  {
    intervalMs,
    signal,
    tell,
  }: { intervalMs: number; signal: AbortSignal; tell: (error: Dkms2binError, next: Date) => void },
): Promise<void> {
  for (let first = true; !signal.aborted; first = false) {
    const started = Date.now();
    let failure: Dkms2binError | undefined;
    try {
      await round();
    } catch (error) {
      if (!(error instanceof Dkms2binError) || signal.aborted) throw error;
      if (first && error.fault === 'usage') throw error;
      failure = error;
    }
    let due = started + intervalMs;
    if (failure) tell(failure, new Date(Math.max(due, Date.now())));
    while (!signal.aborted) {
      // By the wall clock, which goes on while the machine sleeps; one that was set back does not put the round off.
      due = Math.min(due, Date.now() + intervalMs);
      const left = due - Date.now();
      if (left <= 0) break;
      await sleep(Math.min(left, STEP_MS), undefined, { signal }).catch(() => undefined);
    }
  }
}
