import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { Job, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import PQueue from 'p-queue';
import type { CellResult } from '../../model/cell.js';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import { writeAtomic } from '../../lib/atomic-write.js';
import { scratch } from '../../lib/scratch.js';
import { openStore, type Store } from '../../lib/object-store/index.js';
import type { BuildPlan, PlannedCell } from '../plan/types.js';
import type { Executor, ExecutorContext } from '../executor.js';
import { Jobs, type NamedJob } from './jobs.js';
import { connect, parseAddress } from './redis.js';
import {
  ATTEMPTS,
  canDo,
  KEPT,
  missingOf,
  names,
  parseDelivery,
  prefixOf,
  queueOf,
  TIMING,
  workerKey,
  WORKERS,
  type CellJob,
  type Delivery,
  type Need,
  type Timing,
  type Told,
  type WorkerInfo,
} from './protocol.js';

export interface QueueOptions {
  /** Of Redis or Valkey. */
  url: string;
  /** Folder, `s3://BUCKET/PREFIX` or URL that all machines share: sources go there and packages come from there. */
  store: string;
  /** After so long without a worker that can do them cells end as errors; absent: they wait for ever. */
  waitSeconds?: number;
  timing?: Partial<Timing>;
}

/** Hands cells to workers over a queue, and publishes what they deliver. This machine builds nothing. */
export function queueExecutor(options: QueueOptions): Executor {
  return {
    run: async (plan, context) => {
      const address = parseAddress(options.url);
      const store = await openStore(options.store, context);
      await using place = await scratch();
      const jobs = await Jobs.of(plan, store, place.dir, context);
      const redis = await connect(address, context.emit);
      const listening = redis.duplicate({ lazyConnect: false });
      listening.on('error', () => undefined);
      try {
        const timing = { ...TIMING, ...options.timing };
        await new Coordinator(
          { ...options, timing },
          plan,
          context,
          store,
          jobs,
          place.dir,
          redis,
          listening,
        ).run();
      } finally {
        redis.disconnect();
        listening.disconnect();
      }
    },
  };
}

/** The cells of this run with one need. */
interface Lane {
  name: string;
  need: Need;
  queue: Queue<CellJob, Delivery>;
  /** Not in the queue yet, in the order in which they go there. */
  pending: PlannedCell[];
  out: Set<Outstanding>;
  /** VMs of the workers that can do them. */
  vms: number;
  /** When it was first seen that there is no worker; null while there is one. */
  lonelySince: number | null;
  pumping: boolean;
}

/** A job that this run waits for. */
interface Outstanding {
  job: NamedJob;
  lane: Lane;
  /** Usually one. */
  cells: PlannedCell[];
  /** Worker that said last that it builds it. */
  worker: string | null;
  /** Whether an end that was there already has been looked at: that may be an error of last week. */
  fresh: boolean;
  delivering: boolean;
  /** Deliveries that could not be taken. */
  troubles: number;
}

/** Jobs that are looked at in one sweep. */
const SWEEP = 500;
/** Jobs of one lane in the queue at once: enough for all its VMs to have a next one, and never all of a great matrix. */
const windowOf = (vms: number): number => Math.min(2000, Math.max(16, 2 * vms));
/** Room at which a window is filled up again: each filling wakes all workers that have nothing to do. */
const fillingOf = (vms: number): number => Math.floor(windowOf(vms) / 8);
const MAX_TROUBLES = 5;

class Coordinator {
  readonly #id = `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`;
  readonly #prefix = prefixOf();
  readonly #names = names(prefixOf());
  readonly #lanes = new Map<string, Lane>();
  readonly #out = new Map<string, Outstanding>();
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
    private readonly options: QueueOptions & { timing: Timing },
    private readonly plan: BuildPlan,
    private readonly context: ExecutorContext,
    private readonly store: Store,
    private readonly jobs: Jobs,
    private readonly dir: string,
    private readonly redis: Redis,
    private readonly listening: Redis,
  ) {}

  async run(): Promise<void> {
    const { signal } = this.context;
    const { heartbeat, sweep } = this.options.timing;
    const stop = (): void => this.#stop();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) return;
    // Told below, also when it comes while something else is waited for.
    this.#ended.catch(() => undefined);
    const timers: NodeJS.Timeout[] = [];
    try {
      this.#sort();
      this.listening.on('message', (channel: string, text: string) => this.#guard(this.#told(channel, text)));
      await this.#heartbeat();
      timers.push(every(heartbeat, () => this.#guard(this.#heartbeat())));
      timers.push(every(sweep, () => this.#guard(this.#sweep())));
      for (const lane of this.#lanes.values()) this.#guard(this.#pump(lane));
      this.#endIfDone();
      await this.#ended;
    } finally {
      this.#over = true;
      timers.forEach(clearInterval);
      signal.removeEventListener('abort', stop);
      await this.#deliveries.onIdle();
      await this.#leave();
      for (const { queue } of this.#lanes.values()) await queue.close().catch(() => undefined);
    }
  }

  /** Cells by what they need, the longest first. */
  #sort(): void {
    const seconds = new Map(
      this.plan.cells.map((cell) => [cell, this.context.expectedSeconds(cell) ?? Infinity]),
    );
    const cells = [...this.plan.cells].sort((a, b) => {
      const [x, y] = [seconds.get(a)!, seconds.get(b)!];
      return x === y ? 0 : y > x ? 1 : -1;
    });
    for (const cell of cells) {
      const need = this.jobs.needOf(cell);
      const name = queueOf(need);
      let lane = this.#lanes.get(name);
      if (!lane) {
        const queue = new Queue<CellJob, Delivery>(name, { connection: this.redis, prefix: this.#prefix });
        queue.on('error', () => undefined);
        lane = { name, need, queue, pending: [], out: new Set(), vms: 0, lonelySince: null, pumping: false };
        this.#lanes.set(name, lane);
      }
      lane.pending.push(cell);
    }
    // Taken from the end.
    for (const lane of this.#lanes.values()) lane.pending.reverse();
  }

  /** Puts cells into the queue until the window is full, once there is room for some. */
  async #pump(lane: Lane): Promise<void> {
    if (lane.pumping || this.#over) return;
    lane.pumping = true;
    try {
      for (;;) {
        const room = windowOf(lane.vms) - lane.out.size;
        if (lane.pending.length === 0 || room < Math.min(fillingOf(lane.vms), lane.pending.length)) break;
        if (this.#over) break;
        const cells = lane.pending.splice(-Math.min(room, 100)).reverse();
        await this.#submit(lane, cells);
      }
    } finally {
      lane.pumping = false;
    }
    this.#endIfDone();
  }

  async #submit(lane: Lane, cells: readonly PlannedCell[]): Promise<void> {
    const fresh: Outstanding[] = [];
    // Read side by side, queued in their order: the longest go first.
    const jobs = await Promise.allSettled(cells.map((cell) => this.jobs.jobOf(cell)));
    for (const [at, cell] of cells.entries()) {
      const read = jobs[at]!;
      if (read.status === 'rejected') {
        const error: unknown = read.reason;
        if (!(error instanceof Dkms2binError) || this.#over) throw error;
        await this.#endCell(cell, errorResult(cell, error));
        continue;
      }
      const job = read.value;
      const there = this.#out.get(job.id);
      if (there) {
        there.cells.push(cell);
        continue;
      }
      const out: Outstanding = {
        ...{ job, lane, cells: [cell], worker: null },
        ...{ fresh: true, delivering: false, troubles: 0 },
      };
      this.#out.set(job.id, out);
      lane.out.add(out);
      fresh.push(out);
    }
    if (fresh.length === 0 || this.#over) return;
    const ids = fresh.map(({ job }) => job.id);
    await this.redis.sadd(this.#names.wants(this.#id), ...ids);
    await this.redis.pexpire(this.#names.wants(this.#id), 3 * this.options.timing.heartbeat);
    await this.listening.subscribe(...ids.map((id) => this.#names.told(id)));
    await this.#add(fresh);
    await Promise.all(fresh.map((out) => this.#look(out)));
  }

  /** The queue knows jobs by their ids: one that is there already, running or finished, stays as it is. */
  async #add(outs: readonly Outstanding[]): Promise<void> {
    const { lane } = outs[0]!;
    const opts = {
      attempts: ATTEMPTS,
      backoff: { type: 'exponential', delay: this.options.timing.backoff },
      removeOnComplete: KEPT,
      removeOnFail: KEPT,
      stackTraceLimit: 1,
    };
    await lane.queue.addBulk(
      outs.map(({ job, cells }) => ({
        name: `${cells[0]!.source} × ${cells[0]!.kernel}`,
        data: job.data,
        opts: { ...opts, jobId: job.id },
      })),
    );
    await this.redis.publish(this.#names.wake, lane.name);
  }

  /** Looks how a job stands, and takes its result when it has one. */
  async #look(out: Outstanding): Promise<void> {
    if (this.#over || out.delivering || !this.#out.has(out.job.id)) return;
    const job = await Job.fromId<CellJob, Delivery>(out.lane.queue, out.job.id);
    if (this.#over || out.delivering || !this.#out.has(out.job.id)) return;
    // Cancelled by somebody who did not know of us, or lost with the server's memory.
    if (!job) return this.#add([out]);
    const first = out.fresh;
    out.fresh = false;
    const { worker } = (job.progress || {}) as { worker?: string };
    if (job.finishedOn === undefined) {
      if (worker !== undefined && worker !== null) this.#begun(out, worker);
      return;
    }
    if (!job.returnvalue) {
      // Also when another run cancelled it a moment before this one wanted it.
      if (first || job.failedReason === CANCELLED) return this.#again(out, job);
      const error = new Dkms2binError('transient', job.failedReason || 'The cell failed without a reason');
      return this.#endOut(out, (cell) => [errorResult(cell, error)], worker ?? 'unknown');
    }
    const delivery = parseDelivery(job.returnvalue);
    const old =
      first && (this.plan.request.force || delivery.results.some(({ verdict }) => verdict === 'error'));
    if (old) return this.#again(out, job);
    out.delivering = true;
    void this.#deliveries.add(() =>
      this.#take(out, job, delivery).catch((error: unknown) => this.#fail(error)),
    );
  }

  /** Has a finished job built once more. */
  async #again(out: Outstanding, job: Job<CellJob, Delivery>): Promise<void> {
    out.worker = null;
    // Somebody else may have done the same a moment ago: then it is there again.
    await job.remove().catch(() => undefined);
    await this.#add([out]);
  }

  async #take(out: Outstanding, job: Job<CellJob, Delivery>, delivery: Delivery): Promise<void> {
    if (this.#over) return;
    let results: CellResult[];
    try {
      results = await this.#writeAtomic(out, delivery);
    } catch (error) {
      out.delivering = false;
      if (!(error instanceof Dkms2binError) || error.fault === 'usage' || error.fault === 'host') throw error;
      out.troubles += 1;
      const label = job.name;
      if (out.troubles >= MAX_TROUBLES) {
        return this.#endOut(out, (cell) => [errorResult(cell, error)], delivery.worker);
      }
      this.context.emit({ type: 'note', level: 'warn', message: `${label}: ${error.message}`, cell: label });
      // Gone from the store, or spoilt there: only building it anew brings it back.
      if (error.fault === 'not-found' || error.message.includes('another content'))
        await this.#again(out, job);
      return;
    }
    await this.#endOut(out, () => results, delivery.worker, delivery);
  }

  /** Fetches all files of a delivery, then publishes them, packages last: who sees one finds all that belongs to it. */
  async #writeAtomic({ job }: Outstanding, { results, files }: Delivery): Promise<CellResult[]> {
    const outDir = resolve(this.plan.request.cwd, this.plan.request.outDir);
    await mkdir(outDir, { recursive: true });
    const dir = join(this.dir, job.id);
    await mkdir(dir, { recursive: true });
    try {
      for (const { name, sha256 } of files) await this.store.get(sha256, join(dir, name));
      const packages = new Set(results.map((result) => result.package));
      const order = [
        ...files.filter((f) => !packages.has(f.name)),
        ...files.filter((f) => packages.has(f.name)),
      ];
      const same = new Set<string>();
      for (const { name } of order) {
        const { status } = await writeAtomic({ file: join(dir, name) }, join(outDir, name));
        if (status === 'up to date') same.add(name);
      }
      return results.map((result) => ({
        ...result,
        package: result.package && join(outDir, result.package),
        log: result.log && join(outDir, result.log),
        reason:
          result.package && result.reason === null && same.has(result.package) ? 'up to date' : result.reason,
      }));
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }

  async #endOut(
    out: Outstanding,
    resultsOf: (cell: PlannedCell) => CellResult[],
    worker: string,
    { accelerator, seconds }: Pick<Delivery, 'accelerator' | 'seconds'> = { accelerator: null, seconds: 0 },
  ): Promise<void> {
    if (!this.#out.delete(out.job.id)) return;
    out.lane.out.delete(out);
    for (const cell of out.cells) {
      await this.context.ended(cell, { results: resultsOf(cell), worker, accelerator, seconds });
    }
    await this.listening.unsubscribe(this.#names.told(out.job.id));
    await this.redis.srem(this.#names.wants(this.#id), out.job.id);
    this.#guard(this.#pump(out.lane));
    this.#endIfDone();
  }

  async #endCell(cell: PlannedCell, result: CellResult): Promise<void> {
    await this.context.ended(cell, { results: [result], worker: hostname(), accelerator: null, seconds: 0 });
    this.#endIfDone();
  }

  #endIfDone(): void {
    const lanes = [...this.#lanes.values()];
    if (lanes.every(({ pending, out, pumping }) => pending.length === 0 && out.size === 0 && !pumping)) {
      this.#finish();
    }
  }

  #begun(out: Outstanding, worker: string): void {
    if (out.worker === worker) return;
    out.worker = worker;
    for (const cell of out.cells) this.context.begun(cell, worker);
  }

  async #told(channel: string, text: string): Promise<void> {
    const out = this.#out.get(channel.slice(this.#names.told('').length));
    if (!out) return;
    const told = JSON.parse(text) as Told;
    const cell = `${out.cells[0]!.source} × ${out.cells[0]!.kernel}`;
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
    const asked = this.redis.pipeline();
    for (const { lane, job } of outs)
      asked.hmget(lane.queue.toKey(job.id), 'finishedOn', 'progress', 'timestamp');
    const answers = (await asked.exec()) ?? [];
    for (const [at, [error, values]] of answers.entries()) {
      const out = outs[at]!;
      if (error) continue;
      const [finished, progress, timestamp] = values as (string | null)[];
      const { worker } = (JSON.parse(progress ?? '{}') ?? {}) as { worker?: string };
      const news = finished !== null || timestamp === null || (worker !== undefined && worker !== out.worker);
      if (news) await this.#look(out);
    }
    for (const lane of this.#lanes.values()) this.#guard(this.#pump(lane));
  }

  /** Says that this run is there, and sees who is there to work. */
  async #heartbeat(): Promise<void> {
    const { heartbeat } = this.options.timing;
    const { coordinators, wants, queues } = this.#names;
    await this.redis.zadd(coordinators, Date.now(), this.#id);
    await this.redis.zremrangebyscore(coordinators, 0, Date.now() - 86_400_000);
    // Gone while this machine slept or the server forgot.
    if ((await this.redis.pexpire(wants(this.#id), 3 * heartbeat)) === 0 && this.#out.size > 0) {
      await this.redis.sadd(wants(this.#id), ...this.#out.keys());
      await this.redis.pexpire(wants(this.#id), 3 * heartbeat);
    }
    const lanes = [...this.#lanes.values()];
    if (lanes.length === 0) return;
    await this.redis.hset(
      queues,
      Object.fromEntries(lanes.map(({ name, need }) => [name, JSON.stringify(need)])),
    );
    const workers = await livingWorkers(this.redis);
    for (const lane of lanes) {
      lane.vms = workers.filter((w) => canDo(w, lane.need)).reduce((sum, { vms }) => sum + vms, 0);
      if (lane.pending.length + lane.out.size > 0) await this.#lonely(lane, workers);
    }
  }

  async #lonely(lane: Lane, workers: readonly WorkerInfo[]): Promise<void> {
    if (lane.vms > 0) {
      lane.lonelySince = null;
      return;
    }
    const { need } = lane;
    const what = [
      ...[need.distro, need.arch],
      ...(need.accelerator ? [need.accelerator] : []),
      ...(need.signer ? ['signed'] : []),
    ].join(' ');
    const who = workers.map((each) => `${each.name} ${missingOf(each, need).join(' and ')}`);
    const why = who.length === 0 ? 'there is no worker' : who.slice(0, 5).join('; ');
    const message = `No worker can build for ${what}: ${why}`;
    if (lane.lonelySince === null) {
      lane.lonelySince = Date.now();
      const cells = lane.pending.length + lane.out.size;
      const text = `${message}. ${cells} cell${cells === 1 ? '' : 's'} wait for one.`;
      this.context.emit({ type: 'note', level: 'warn', message: text });
    }
    const { waitSeconds } = this.options;
    if (waitSeconds === undefined || Date.now() - lane.lonelySince < waitSeconds * 1000) return;
    const error = new Dkms2binError('transient', message, { hint: 'Start one: dkms2bin worker --queue …' });
    const outs = [...lane.out].filter(({ delivering }) => !delivering);
    const cells = lane.pending.splice(0);
    await this.#cancel(outs.map(({ job }) => job.id));
    for (const out of outs) await this.#endOut(out, (cell) => [errorResult(cell, error)], hostname());
    for (const cell of cells) await this.#endCell(cell, errorResult(cell, error));
  }

  #stop(): void {
    this.#over = true;
    this.#finish();
  }

  /** Takes back what nobody else waits for. */
  async #leave(): Promise<void> {
    const left = [...this.#out.keys()];
    // A server that is away cannot be told; what it has then goes on, and is found by the next run.
    const told = this.#cancel(left).then(async () => {
      await this.redis.del(this.#names.wants(this.#id));
      await this.redis.zrem(this.#names.coordinators, this.#id);
    });
    await Promise.race([told, new Promise((done) => setTimeout(done, 5000).unref())]).catch(() => undefined);
  }

  async #cancel(ids: readonly string[]): Promise<void> {
    if (ids.length === 0) return;
    await this.redis.srem(this.#names.wants(this.#id), ...ids);
    const free = await unwanted(this.redis, this.#prefix, ids);
    for (const id of free) {
      const lane = this.#out.get(id)?.lane;
      const job = lane && (await Job.fromId(lane.queue, id));
      if (!job || job.finishedOn !== undefined) continue;
      // One that a worker holds cannot be removed: the worker does that.
      const removed = await job.remove().then(
        () => true,
        () => false,
      );
      if (!removed) await this.redis.publish(this.#names.cancel, id);
    }
  }

  #guard(work: Promise<void>): void {
    // When it is over, connections go, and what was asked of them fails: nobody listens then.
    work.catch(this.#fail);
  }
}

/** What a worker says of a job that it ended because nobody waits for it. */
export const CANCELLED = 'cancelled: nobody waits for it';

/** Those of the jobs that no coordinator waits for. */
export async function unwanted(redis: Redis, prefix: string, ids: readonly string[]): Promise<string[]> {
  const { coordinators, wants } = names(prefix);
  const free = new Set(ids);
  for (const each of await redis.zrange(coordinators, 0, '-1')) {
    const asked = [...free];
    if (asked.length === 0) break;
    const wanted = await redis.smismember(wants(each), ...asked);
    asked.forEach((id, at) => {
      if (Number(wanted[at]) === 1) free.delete(id);
    });
  }
  return [...free];
}

export async function livingWorkers(redis: Redis): Promise<WorkerInfo[]> {
  const known = await redis.zrange(WORKERS, 0, '-1');
  if (known.length === 0) return [];
  const texts = await redis.mget(...known.map(workerKey));
  const gone = known.filter((_, at) => texts[at] === null);
  if (gone.length > 0) await redis.zrem(WORKERS, ...gone);
  return texts.flatMap((text) => (text === null ? [] : [JSON.parse(text) as WorkerInfo]));
}

const every = (ms: number, work: () => void): NodeJS.Timeout => setInterval(work, ms);

function errorResult(cell: PlannedCell, error: Dkms2binError): CellResult {
  return {
    ...{ module: cell.source, version: null, kernel: cell.kernel, distro: cell.distro, arch: cell.arch },
    verdict: error.fault === 'module' ? 'failed' : 'error',
    reason: error.hint ? `${messageOf(error)}\n${error.hint}` : messageOf(error),
    ...{ package: null, log: null, phases: {}, kept: null },
    fault: error.fault,
  };
}
