/** Times in ms. Tests take shorter ones. */
export interface Timing {
  /** A cell is given to another worker when its own has not been heard of for so long. */
  lock: number;
  /** How often a worker says that it still builds a cell. */
  renew: number;
  /** How often the queues are searched for cells whose lock has run out. */
  stalled: number;
  /** How often an idle worker looks for work that nobody told it of, and a coordinator for results. */
  sweep: number;
  /** How often worker and coordinator say that they are there. They count as gone after three times that. */
  heartbeat: number;
  /** Pause before a cell with a passing fault is tried again; it doubles each time. */
  backoff: number;
}

export const TIMING: Timing = {
  lock: 60_000,
  renew: 15_000,
  stalled: 20_000,
  sweep: 5_000,
  heartbeat: 10_000,
  backoff: 30_000,
};

/** Times that a cell is tried when the fault is a passing one. */
export const ATTEMPTS = 3;

/** Times that a cell may lose its worker: one that kills its workers must not take all of them. */
export const MAX_LOST = 3;

/** How long a finished cell is found again, in seconds, and how many of them in one queue. */
export const KEPT = { age: 7 * 86400, count: 200_000 };

/** Work that must not hold up the end of a process: a server that is away answers never. */
export async function forAMoment(work: Promise<unknown>): Promise<void> {
  await Promise.race([work, new Promise((done) => setTimeout(done, 5000).unref())]).catch(() => undefined);
}
