import { Job, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { PlannedCell } from '../plan/types.js';
import { cellLabel } from '../plan/planned-cell.js';
import type { NamedJob } from './jobs.js';
import { canDo, queueOf } from './needs.js';
import { NAMES, PREFIX, type CellJob, type Delivery, type Need, type WorkerInfo } from './protocol.js';
import { ATTEMPTS, KEPT } from './timing.js';

export type QueuedJob = Job<CellJob, Delivery>;

/** A job that this run waits for. */
export interface Outstanding {
  readonly job: NamedJob;
  readonly lane: Lane;
  /** Usually one. */
  readonly cells: [PlannedCell, ...PlannedCell[]];
  /** Worker that said last that it builds it. */
  worker: string | null;
  /** Whether an end that was there already has yet to be looked at: that may be an error of last week. */
  fresh: boolean;
  /** Its delivery is being taken, or it is given up: nothing else is done about it. */
  ending: boolean;
  /** Deliveries that could not be taken. */
  troubles: number;
}

export const outstanding = (job: NamedJob, lane: Lane, cell: PlannedCell): Outstanding => ({
  ...{ job, lane, cells: [cell], worker: null },
  ...{ fresh: true, ending: false, troubles: 0 },
});

/** Jobs of one lane in the queue at once: enough for all its VMs to have a next one, and never all of a great matrix. */
const windowOf = (vms: number): number => Math.min(2000, Math.max(16, 2 * vms));
/** Room at which a window is filled up again: each filling wakes all workers that have nothing to do. */
const fillingOf = (vms: number): number => Math.floor(windowOf(vms) / 8);
/** Cells that are made into jobs at once. */
const PORTION = 100;

/** The cells of a run with one need: a queue of their own, for the workers that can do them. */
export class Lane {
  readonly name: string;
  /** In the queue. */
  readonly out = new Set<Outstanding>();
  /** VMs of the workers that can do them. */
  vms = 0;
  /** When it was first seen that there is no worker; null while there is one. */
  lonelySince: number | null = null;
  readonly #queue: Queue<CellJob, Delivery>;
  /** Not in the queue yet; taken from the end. */
  #pending: PlannedCell[];
  #filling = false;

  /** `cells` in the order in which they go into the queue. */
  constructor(
    readonly need: Need,
    cells: readonly PlannedCell[],
    private readonly redis: Redis,
    /** Milliseconds before a passing fault is tried again. */
    private readonly backoff: number,
  ) {
    this.name = queueOf(need);
    this.#pending = [...cells].reverse();
    this.#queue = new Queue<CellJob, Delivery>(this.name, { connection: redis, prefix: PREFIX });
    this.#queue.on('error', () => undefined);
  }

  /** Cells that have not ended. */
  get open(): number {
    return this.#pending.length + this.out.size;
  }

  get done(): boolean {
    return this.open === 0 && !this.#filling;
  }

  /** Hands the next cells to `submit`, as many as the window has room for; nothing while there is hardly any. */
  async fill(submit: (cells: readonly PlannedCell[]) => Promise<void>): Promise<void> {
    if (this.#filling) return;
    this.#filling = true;
    try {
      for (;;) {
        const room = roomIn(this.vms, this.out.size, this.#pending.length);
        if (room === 0) break;
        await submit(this.#pending.splice(-Math.min(room, PORTION)).reverse());
      }
    } finally {
      this.#filling = false;
    }
  }

  /** All that are not in the queue, which then never get there. */
  giveUp(): PlannedCell[] {
    return this.#pending.splice(0);
  }

  /** The queue knows jobs by their ids: one that is there already, running or finished, stays as it is. */
  async add(outs: readonly Outstanding[]): Promise<void> {
    const opts = {
      attempts: ATTEMPTS,
      backoff: { type: 'exponential', delay: this.backoff },
      removeOnComplete: KEPT,
      removeOnFail: KEPT,
      stackTraceLimit: 1,
    };
    await this.#queue.addBulk(
      outs.map(({ job, cells }) => ({
        name: cellLabel(cells[0]),
        data: job.data,
        opts: { ...opts, jobId: job.id },
      })),
    );
    await this.redis.publish(NAMES.wake, this.name);
  }

  async find(id: string): Promise<QueuedJob | undefined> {
    return Job.fromId<CellJob, Delivery>(this.#queue, id);
  }

  /** Redis' key of a job. */
  keyOf(id: string): string {
    return this.#queue.toKey(id);
  }

  /** Sees who is there. */
  meet(workers: readonly WorkerInfo[]): void {
    const able = workers.filter((worker) => canDo(worker, this.need));
    this.vms = able.reduce((sum, { vms }) => sum + vms, 0);
    if (this.vms > 0) this.lonelySince = null;
  }

  async close(): Promise<void> {
    await this.#queue.close().catch(() => undefined);
  }
}

/**
 * How many cells should go into a queue that holds `out` of them while `pending` wait; 0 until the window has room for a
 * filling, or for all that are left.
 * @internal
 */
export function roomIn(vms: number, out: number, pending: number): number {
  const room = windowOf(vms) - out;
  return pending === 0 || room < Math.min(fillingOf(vms), pending) ? 0 : room;
}

/** Cells by what they need; of each need the longest first, and what was never built may be the longest of all. */
export function byNeed(
  cells: readonly PlannedCell[],
  needOf: (cell: PlannedCell) => Need,
  expectedSeconds: (cell: PlannedCell) => number | null,
): { need: Need; cells: PlannedCell[] }[] {
  const timed = cells.map((cell) => ({ cell, seconds: expectedSeconds(cell) ?? Infinity }));
  timed.sort((a, b) => Number(b.seconds > a.seconds) - Number(b.seconds < a.seconds));
  const groups = new Map<string, { need: Need; cells: PlannedCell[] }>();
  for (const { cell } of timed) {
    const need = needOf(cell);
    const group = groups.get(queueOf(need));
    if (group) group.cells.push(cell);
    else groups.set(queueOf(need), { need, cells: [cell] });
  }
  return [...groups.values()];
}
