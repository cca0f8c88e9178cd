import type { Job } from 'bullmq';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import type { CellJob, Delivery } from './protocol.js';
import type { Timing } from './timing.js';

/**
 * `lost`: another worker may have the cell by now; `cancelled`: nobody waits for it; `stopped`: this worker ends, and the
 * cell goes back to the queue.
 */
export type EndedBy = 'lost' | 'cancelled' | 'stopped';

/** A cell that this worker has: its lock is kept until it is disposed of. */
export class Turn implements Disposable {
  readonly #controller = new AbortController();
  readonly #renewal: NodeJS.Timeout;
  #endedBy: EndedBy | null = null;

  constructor(
    readonly job: Job<CellJob, Delivery>,
    /** Of the lock. */
    private readonly token: string,
    private readonly timing: Pick<Timing, 'lock' | 'renew'>,
    /** When the lock was taken, in ms. */
    since: number,
  ) {
    this.#renewal = this.#renew(since);
  }

  get id(): string {
    return this.job.id ?? '';
  }

  /** Aborted when the cell is ended before its time. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Why it was ended before its time; null when it was not. */
  get endedBy(): EndedBy | null {
    return this.#endedBy;
  }

  end(why: EndedBy): void {
    if (this.#endedBy !== null) return;
    this.#endedBy = why;
    this.#controller.abort(new Dkms2binError('interrupted', 'Interrupted'));
  }

  /** A process that was frozen, or cut off for too long, sees by its clock that the lock is gone. */
  #renew(since: number): NodeJS.Timeout {
    const { lock, renew } = this.timing;
    let held = since;
    return setInterval(() => {
      const now = Date.now();
      if (now - held > lock) return this.end('lost');
      this.job.extendLock(this.token, lock).then(
        (kept) => {
          if (Number(kept) === 1) held = now;
          else this.end('lost');
        },
        (error: unknown) => {
          if (/lock/i.test(messageOf(error))) this.end('lost');
        },
      );
    }, renew);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#renewal);
  }
}
