import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import type { Redis } from 'ioredis';
import PQueue from 'p-queue';
import type { CellResult } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import { SpoiltBlob, type Store } from '../../lib/object-store/index.js';
import { errorResult } from '../error-result.js';
import type { ExecutorContext } from '../executor.js';
import { cellLabel } from '../plan/planned-cell.js';
import type { BuildPlan, PlannedCell } from '../plan/types.js';
import { publishDelivery } from './delivery.js';
import { reasonOf, standingOf } from './ends.js';
import type { Jobs, NamedJob } from './jobs.js';
import { byNeed, Lane, outstanding, type Outstanding, type QueuedJob } from './lanes.js';
import { nobodyFor } from './needs.js';
import { CoordinatorPresence, livingWorkers, unwanted } from './presence.js';
import { CANCELLED, jsonOf, NAMES, parseTold, workerOf, type Delivery, type WorkerInfo } from './protocol.js';
import { forAMoment, type Timing } from './timing.js';

/** What a run works with. */
export interface Means {
  jobs: Jobs;
  store: Store;
  /** For deliveries on their way into the out-dir. */
  dir: string;
  redis: Redis;
  /** The connection that messages come by. */
  listening: Redis;
  timing: Timing;
  /** How long cells wait for a worker. */
  waitMs: number;
}

/** Jobs that are looked at in one sweep. */
const SWEEP = 500;
const MAX_TROUBLES = 5;

/** Where a cell ended, and what it took, when no worker delivered it. */
const NOWHERE = { accelerator: null, seconds: 0 };

/** One run: puts its cells into the queue, and takes what workers deliver, until all have ended or `signal` is aborted. */
export class Coordinator {
  readonly #lanes: readonly Lane[];
  readonly #out = new Map<string, Outstanding>();
  readonly #presence: CoordinatorPresence;
  readonly #deliveries = new PQueue({ concurrency: 4 });
  #finish: () => void = () => undefined;
  #fail: (error: unknown) => void = () => undefined;
  readonly #ended = new Promise<void>((resolve, reject) => {
    this.#finish = resolve;
    this.#fail = reject;
  });
  /** Where the next sweep begins. */
  #swept: string[] = [];
  #over = false;

  constructor(
    private readonly plan: BuildPlan,
    private readonly context: ExecutorContext,
    private readonly means: Means,
  ) {
    const { redis, timing, jobs } = means;
    this.#presence = new CoordinatorPresence(redis, timing.heartbeat);
    this.#lanes = byNeed(plan.cells, (cell) => jobs.needOf(cell), context.expectedSeconds).map(
      ({ need, cells }) => new Lane(need, cells, redis, timing.backoff),
    );
  }

  async run(): Promise<void> {
    const { signal } = this.context;
    const { heartbeat, sweep } = this.means.timing;
    const stop = (): void => this.#stop();
    signal.addEventListener('abort', stop, { once: true });
    // Told below, also when it comes while something else is waited for.
    this.#ended.catch(() => undefined);
    const timers: NodeJS.Timeout[] = [];
    try {
      if (signal.aborted) return;
      this.means.listening.on('message', (channel: string, text: string) =>
        this.#guard(this.#told(channel, text)),
      );
      await this.#heartbeat();
      timers.push(setInterval(() => this.#guard(this.#heartbeat()), heartbeat));
      timers.push(setInterval(() => this.#guard(this.#sweep()), sweep));
      for (const lane of this.#lanes) this.#guard(this.#fill(lane));
      this.#endIfDone();
      await this.#ended;
    } finally {
      this.#over = true;
      timers.forEach(clearInterval);
      signal.removeEventListener('abort', stop);
      await this.#deliveries.onIdle();
      await this.#leave();
      for (const lane of this.#lanes) await lane.close();
    }
  }

  /** Puts cells into the queue until its window is full, once there is room for some. */
  async #fill(lane: Lane): Promise<void> {
    if (this.#over) return;
    await lane.fill((cells) => this.#submit(lane, cells));
    this.#endIfDone();
  }

  async #submit(lane: Lane, cells: readonly PlannedCell[]): Promise<void> {
    if (this.#over) return;
    const fresh = await this.#jobsOf(lane, cells);
    if (fresh.length === 0 || this.#over) return;
    const ids = fresh.map(({ job }) => job.id);
    await this.#presence.want(ids);
    await this.means.listening.subscribe(...ids.map(NAMES.told));
    const wanted = fresh.filter((out) => this.#waitsFor(out));
    if (wanted.length === 0) return;
    await lane.add(wanted);
    // Given up while they went into the queue.
    await this.#cancel(wanted.filter((out) => this.#over || !this.#out.has(out.job.id)));
    await Promise.all(wanted.map((out) => this.#look(out)));
  }

  /** Jobs that this run does not wait for yet; a cell without one has ended. */
  async #jobsOf(lane: Lane, cells: readonly PlannedCell[]): Promise<Outstanding[]> {
    const fresh: Outstanding[] = [];
    // Read side by side, queued in their order: the longest go first.
    const reading = cells.map(async (cell) => ({ cell, job: await this.#jobOf(cell) }));
    for (const { cell, job } of await Promise.all(reading)) {
      if (job instanceof Dkms2binError) {
        await this.#endCell(cell, errorResult(cell, job));
        continue;
      }
      const there = this.#out.get(job.id);
      if (there) {
        there.cells.push(cell);
        continue;
      }
      const out = outstanding(job, lane, cell);
      this.#out.set(job.id, out);
      lane.out.add(out);
      fresh.push(out);
    }
    return fresh;
  }

  async #jobOf(cell: PlannedCell): Promise<NamedJob | Dkms2binError> {
    try {
      return await this.means.jobs.jobOf(cell);
    } catch (error) {
      if (!(error instanceof Dkms2binError) || this.#over) throw error;
      return error;
    }
  }

  /** Whether something may still be done about a job: it is waited for, and its end is not in hand. */
  #waitsFor(out: Outstanding): boolean {
    return !this.#over && !out.ending && this.#out.has(out.job.id);
  }

  /** Looks how a job stands, and takes its result when it has one. */
  async #look(out: Outstanding): Promise<void> {
    if (!this.#waitsFor(out)) return;
    const now = await standingOf(out, this.means.jobs.formOf(out.cells[0]));
    if (!this.#waitsFor(out)) return;
    // Cancelled by somebody who did not know of us, or lost with the server's memory.
    if (now.is === 'gone') return out.lane.add([out]);
    if (now.is === 'nonsense') return this.#refuse(out, 'unknown', 'what Redis holds of it makes no sense');
    const { job } = now;
    const first = out.fresh;
    out.fresh = false;
    const worker = workerOf(job.progress) ?? 'unknown';
    switch (now.is) {
      case 'open':
        if (worker !== 'unknown') this.#begun(out, worker);
        return;
      case 'failed':
        // Also when another run cancelled it a moment before this one wanted it.
        if (first || job.failedReason === CANCELLED) return this.#again(out, job);
        return this.#endBadly(out, worker, new Dkms2binError('transient', reasonOf(job)));
      case 'refused':
        // What an earlier run was given may be of a worker that is long gone.
        return first ? this.#again(out, job) : this.#refuse(out, worker, now.why);
      case 'delivered':
        return this.#delivered(out, now, first);
    }
  }

  async #delivered(
    out: Outstanding,
    { job, delivery }: { job: QueuedJob; delivery: Delivery },
    first: boolean,
  ): Promise<void> {
    const isError = delivery.results.some(({ verdict }) => verdict === 'error');
    if (first && (this.plan.request.force || isError)) return this.#again(out, job);
    out.ending = true;
    void this.#deliveries.add(() => this.#take(out, job, delivery).catch(this.#fail));
  }

  async #endBadly(out: Outstanding, worker: string, error: Dkms2binError): Promise<void> {
    return this.#endOut(out, (cell) => [errorResult(cell, error)], { ...NOWHERE, worker });
  }

  /** Ends the cells of a job with an error that says what the worker did. */
  async #refuse(out: Outstanding, worker: string, why: string): Promise<void> {
    const message = `Worker ${worker} delivered what this cell did not ask for: ${why}`;
    const hint = 'Look at that machine, and at who can write to Redis. With --force the cell is built again.';
    return this.#endBadly(out, worker, new Dkms2binError('transient', message, { hint }));
  }

  /** Has a finished job built once more. */
  async #again(out: Outstanding, job: QueuedJob): Promise<void> {
    out.worker = null;
    // Somebody else may have done the same a moment ago: then it is there again.
    await job.remove().catch(() => undefined);
    await out.lane.add([out]);
  }

  async #take(out: Outstanding, job: QueuedJob, delivery: Delivery): Promise<void> {
    if (this.#over) return;
    const { request } = this.plan;
    const { store, dir } = this.means;
    let results: CellResult[];
    try {
      results = await publishDelivery(delivery, {
        store,
        dir: join(dir, out.job.id),
        outDir: resolve(request.cwd, request.outDir),
      });
    } catch (error) {
      out.ending = false;
      if (!(error instanceof Dkms2binError) || error.fault === 'usage' || error.fault === 'host') throw error;
      out.troubles += 1;
      if (out.troubles >= MAX_TROUBLES) {
        return this.#endBadly(out, delivery.worker, error);
      }
      this.context.emit({
        ...{ type: 'note', level: 'warn' },
        ...{ message: `${cellLabel(out.cells[0])}: ${error.message}`, cell: cellLabel(out.cells[0]) },
      });
      // Gone from the store, or spoilt there: only building it anew brings it back.
      const lost = error.fault === 'not-found' || error instanceof SpoiltBlob;
      return lost ? this.#again(out, job) : undefined;
    }
    await this.#endOut(out, () => results, delivery);
  }

  async #endOut(
    out: Outstanding,
    resultsOf: (cell: PlannedCell) => CellResult[],
    { worker, accelerator, seconds }: Pick<Delivery, 'worker' | 'accelerator' | 'seconds'>,
  ): Promise<void> {
    if (!this.#out.delete(out.job.id)) return;
    out.lane.out.delete(out);
    for (const cell of out.cells) {
      await this.context.ended(cell, { results: resultsOf(cell), worker, accelerator, seconds });
    }
    await this.means.listening.unsubscribe(NAMES.told(out.job.id));
    await this.#presence.unwant([out.job.id]);
    this.#guard(this.#fill(out.lane));
    this.#endIfDone();
  }

  async #endCell(cell: PlannedCell, result: CellResult): Promise<void> {
    await this.context.ended(cell, { ...NOWHERE, results: [result], worker: hostname() });
    this.#endIfDone();
  }

  #endIfDone(): void {
    if (this.#lanes.every((lane) => lane.done)) this.#finish();
  }

  #begun(out: Outstanding, worker: string): void {
    if (out.worker === worker) return;
    out.worker = worker;
    for (const cell of out.cells) this.context.begun(cell, worker);
  }

  async #told(channel: string, text: string): Promise<void> {
    const out = this.#out.get(channel.slice(NAMES.told('').length));
    const told = parseTold(text);
    if (!out || !told) return;
    const cell = cellLabel(out.cells[0]);
    switch (told.type) {
      case 'begun':
        return this.#begun(out, told.worker);
      case 'phase':
        return this.context.emit({ ...told, cell });
      case 'output':
        return told.lines.forEach((line) => this.context.emit({ type: 'output', cell, line }));
      case 'done':
        return this.#look(out);
    }
  }

  /** Finds what no message told of: messages are lost while a connection is. */
  async #sweep(): Promise<void> {
    if (this.#swept.length === 0) this.#swept = [...this.#out.keys()];
    const outs = this.#swept.splice(0, SWEEP).flatMap((id) => this.#out.get(id) ?? []);
    if (outs.length === 0) return;
    const asked = this.means.redis.pipeline();
    for (const { lane, job } of outs) asked.hmget(lane.keyOf(job.id), 'finishedOn', 'progress', 'timestamp');
    const answers = (await asked.exec()) ?? [];
    for (const [at, out] of outs.entries()) {
      const [error, values] = answers[at] ?? [];
      if (error || !Array.isArray(values)) continue;
      const [finished, progress, timestamp] = values as (string | null)[];
      const worker = workerOf(jsonOf(progress ?? ''));
      const news = finished !== null || timestamp === null || (worker !== null && worker !== out.worker);
      if (news) await this.#look(out);
    }
    for (const lane of this.#lanes) this.#guard(this.#fill(lane));
  }

  /** Says that this run is there, and sees who is there to work. */
  async #heartbeat(): Promise<void> {
    const { redis } = this.means;
    await this.#presence.beat(() => [...this.#out.keys()]);
    if (this.#lanes.length === 0) return;
    await redis.hset(
      NAMES.queues,
      Object.fromEntries(this.#lanes.map(({ name, need }) => [name, JSON.stringify(need)])),
    );
    const workers = await livingWorkers(redis);
    for (const lane of this.#lanes) {
      lane.meet(workers);
      if (lane.vms === 0 && lane.open > 0) await this.#lonely(lane, workers);
    }
  }

  /** Says once that nobody can do a lane's cells, and ends them when that is so for too long. */
  async #lonely(lane: Lane, workers: readonly WorkerInfo[]): Promise<void> {
    const message = nobodyFor(lane.need, workers);
    if (lane.lonelySince === null) {
      lane.lonelySince = Date.now();
      const waiting = lane.open === 1 ? '1 cell waits' : `${lane.open} cells wait`;
      this.context.emit({ type: 'note', level: 'warn', message: `${message}. ${waiting} for one.` });
    }
    if (Date.now() - lane.lonelySince < this.means.waitMs) return;
    const error = new Dkms2binError('transient', message, { hint: 'Start one: dkms2bin worker --queue …' });
    const outs = [...lane.out].filter(({ ending }) => !ending);
    const cells = lane.giveUp();
    for (const out of outs) out.ending = true;
    await this.#cancel(outs);
    for (const out of outs) await this.#endBadly(out, hostname(), error);
    for (const cell of cells) await this.#endCell(cell, errorResult(cell, error));
  }

  #stop(): void {
    this.#over = true;
    this.#finish();
  }

  /** Takes back what nobody else waits for. */
  async #leave(): Promise<void> {
    // A server that is away cannot be told; what it has then goes on, and is found by the next run.
    await forAMoment(this.#cancel([...this.#out.values()]).then(() => this.#presence.leave()));
  }

  async #cancel(outs: readonly Outstanding[]): Promise<void> {
    if (outs.length === 0) return;
    const { redis } = this.means;
    const lanes = new Map(outs.map(({ job, lane }) => [job.id, lane]));
    await this.#presence.unwant([...lanes.keys()]);
    for (const id of await unwanted(redis, [...lanes.keys()])) {
      const job = await lanes.get(id)?.find(id);
      if (!job || job.finishedOn !== undefined) continue;
      // One that a worker holds cannot be removed: the worker does that.
      const removed = await job.remove().then(
        () => true,
        () => false,
      );
      if (!removed) await redis.publish(NAMES.cancel, id);
    }
  }

  #guard(work: Promise<void>): void {
    // When it is over, connections go, and what was asked of them fails: nobody listens then.
    work.catch(this.#fail);
  }
}
