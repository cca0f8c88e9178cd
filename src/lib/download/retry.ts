import { setTimeout as sleep } from 'node:timers/promises';
import { Dkms2binError } from '../../model/errors.js';
import { interrupted, Passing, type DownloadLimits, type Net } from './net.js';

/** Runs `work` until it succeeds or fails for good. `gained` tells whether the failed try still brought it forward. */
export async function withRetries<T>(
  net: Net,
  limits: DownloadLimits,
  work: () => Promise<T>,
  gained: () => Promise<boolean> = () => Promise.resolve(false),
): Promise<T> {
  for (let failures = 0; ;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Passing)) throw error;
      failures = (await gained()) ? 1 : failures + 1;
      // A name that does not resolve will not in a minute either; one more try is for a resolver's hiccup.
      const allowed = /\bENOTFOUND\b/.test(error.message) ? Math.min(1, limits.retries) : limits.retries;
      if (failures > allowed) {
        throw new Dkms2binError('transient', `${error.message} (${failures} tries)`, {
          hint: 'Try again later, or through another mirror or proxy.',
          cause: error,
        });
      }
      const wait = Math.min(60_000, Math.max(error.waitMs, limits.backoffMs * 2 ** (failures - 1)));
      net.emit({ type: 'note', level: 'warn', message: `${error.message}; next try in ${wait / 1000} s` });
      try {
        await sleep(wait, undefined, net.signal ? { signal: net.signal } : {});
      } catch {
        throw interrupted();
      }
    }
  }
}
