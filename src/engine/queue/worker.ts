import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { UnrecoverableError, Worker, type Job } from 'bullmq';
import type { Redis } from 'ioredis';
import type { CellResult } from '../../model/cell.js';
import type { PlanContext } from '../../model/context.js';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';
import { packageVersion } from '../../lib/paths.js';
import { scratch } from '../../lib/scratch.js';
import { openStore, type Store } from '../../lib/object-store/index.js';
import { packDelivery } from './delivery.js';
import { canDo } from './needs.js';
import { freeName, unwanted, WorkerPresence } from './presence.js';
import {
  CANCELLED,
  NAMES,
  parseNeed,
  PREFIX,
  type CellJob,
  type Delivery,
  type Told,
  type WorkerInfo,
} from './protocol.js';
import { connect, parseAddress, unblocking } from './redis.js';
import { fetchTask, type CellBuilder } from './task.js';
import { Teller } from './teller.js';
import { ATTEMPTS, forAMoment, MAX_LOST, TIMING, type Timing } from './timing.js';
import { Turn } from './turn.js';

export interface WorkerOptions extends PlanContext {
  /** Of Redis or Valkey. */
  url: string;
  store: string;
  /** The machine's own when absent; one that is taken gets a number. */
  name?: string;
  /** What it can do. */
  can: Pick<WorkerInfo, 'distros' | 'arches' | 'accelerator' | 'signer' | 'vms'>;
  build: CellBuilder;
  timing?: Partial<Timing>;
}

/**
 * Takes cells from the queue and builds them until `signal` is aborted: then VMs end, and their cells go back to the queue.
 */
export async function runWorker(options: WorkerOptions): Promise<void> {
  const store = await openStore(options.store, options);
  await using place = await scratch();
  const redis = await connect(parseAddress(options.url), options.emit);
  const listening = redis.duplicate({ lazyConnect: false });
  listening.on('error', () => undefined);
  try {
    const name = await freeName(redis, options.name ?? hostname());
    const timing = { ...TIMING, ...options.timing };
    const means = { store, dir: place.dir, redis, listening };
    await new CellWorker({ ...options, timing, name }, means).run();
  } finally {
    redis.disconnect();
    listening.disconnect();
  }
}

/** What a worker works with. */
interface Means {
  store: Store;
  /** For the files of cells. */
  dir: string;
  redis: Redis;
  /** The connection that messages come by. */
  listening: Redis;
}

class CellWorker {
  /** Of the locks of its cells. */
  readonly #token = randomUUID();
  readonly #presence: WorkerPresence;
  readonly #queues = new Map<string, Worker<CellJob, Delivery>>();
  readonly #turns = new Map<string, Turn>();
  readonly #working = new Set<Promise<void>>();
  /** Ends the wait for work. */
  #wake: () => void = () => undefined;
  /** The queue to ask first: each has its turn. */
  #next = 0;
  /** Not before this time: this machine had a fault of its own. */
  #restUntil = 0;

  constructor(
    private readonly options: WorkerOptions & { timing: Timing; name: string },
    private readonly means: Means,
  ) {
    this.#presence = new WorkerPresence(means.redis, options.timing.heartbeat, () => this.#info());
  }

  async run(): Promise<void> {
    const { signal, can, name, timing } = this.options;
    const { listening } = this.means;
    const stop = (): void => {
      for (const turn of this.#turns.values()) turn.end('stopped');
      this.#wake();
    };
    signal.addEventListener('abort', stop, { once: true });
    const beat = setInterval(() => void this.#presence.beat().catch(() => undefined), timing.heartbeat);
    try {
      listening.on('message', (channel: string, text: string) => {
        if (channel === NAMES.cancel) void this.#cancel(text).catch(() => undefined);
        // A busy one looks for itself when it has a VM free.
        else if (this.#turns.size < can.vms) this.#wake();
      });
      await listening.subscribe(NAMES.wake, NAMES.cancel);
      await this.#presence.beat();
      const what = `${can.vms} VM${can.vms === 1 ? '' : 's'} with ${can.accelerator} for ${can.distros.join(', ')}`;
      this.#note('info', `Worker ${name}: ${what}`);
      while (!signal.aborted) {
        await this.#attach();
        while (!signal.aborted && this.#turns.size < can.vms && Date.now() >= this.#restUntil) {
          if (!(await this.#take())) break;
        }
        await this.#idle();
      }
    } finally {
      stop();
      clearInterval(beat);
      signal.removeEventListener('abort', stop);
      await Promise.allSettled(this.#working);
      await this.#leave();
    }
  }

  /** Queues that this machine can work for; they come as runs ask for them. */
  async #attach(): Promise<void> {
    const { name, timing } = this.options;
    const { redis } = this.means;
    for (const [queue, text] of Object.entries(await redis.hgetall(NAMES.queues))) {
      const need = parseNeed(text);
      if (this.#queues.has(queue) || !need || !canDo(this.#info(), need)) continue;
      const worker = new Worker<CellJob, Delivery>(
        queue,
        null,
        {
          ...{ connection: redis, prefix: PREFIX, name, autorun: false },
          ...{ lockDuration: timing.lock, stalledInterval: timing.stalled, maxStalledCount: MAX_LOST },
        },
        unblocking,
      );
      // The connection tells of its own troubles.
      worker.on('error', () => undefined);
      // A lost worker's cell waits again: for us, too.
      worker.on('stalled', () => this.#wake());
      await worker.startStalledCheckTimer();
      this.#queues.set(queue, worker);
    }
  }

  /** Takes one cell and begins to build it. False when there is none. */
  async #take(): Promise<boolean> {
    const queues = [...this.#queues.values()];
    const first = this.#next % Math.max(1, queues.length);
    for (const [at, worker] of [...queues.slice(first), ...queues.slice(0, first)].entries()) {
      const since = Date.now();
      const job = (await worker.getNextJob(this.#token, { block: false })) as
        Job<CellJob, Delivery> | undefined;
      if (!job) continue;
      this.#next = first + at + 1;
      const work = this.#work(job, since).catch((error: unknown) => {
        this.#note('warn', `${job.name}: ${messageOf(error)}`);
      });
      this.#working.add(work);
      void work.finally(() => {
        this.#working.delete(work);
        this.#wake();
      });
      return true;
    }
    return false;
  }

  /** Until somebody says that there is work, or for a while: messages can be lost. */
  async #idle(): Promise<void> {
    if (this.options.signal.aborted) return;
    await new Promise<void>((resolve) => {
      // Not all workers of a great many at once.
      const timer = setTimeout(resolve, this.options.timing.sweep * (0.5 + Math.random()));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = () => undefined;
  }

  async #work(job: Job<CellJob, Delivery>, since: number): Promise<void> {
    using turn = new Turn(job, this.#token, this.options.timing, since);
    if (job.deferredFailure) {
      const text = `Its worker was lost ${job.stalledCounter} times while it was built`;
      await job.moveToFailed(new UnrecoverableError(text), this.#token);
      return this.#tell(turn.id, { type: 'done' });
    }
    this.#turns.set(turn.id, turn);
    const dir = join(this.means.dir, `${turn.id}-${randomUUID().slice(0, 8)}`);
    try {
      await this.#build(turn, dir);
    } finally {
      this.#turns.delete(turn.id);
      await rm(dir, { recursive: true, force: true });
    }
  }

  async #build(turn: Turn, dir: string): Promise<void> {
    const { job } = turn;
    const { name } = this.options;
    await job.updateProgress({ worker: name });
    await this.#tell(turn.id, { type: 'begun', worker: name });
    let delivery: Delivery;
    try {
      delivery = await this.#made(turn, dir);
    } catch (error) {
      return this.#failed(turn, error);
    }
    const passing = delivery.results.find(({ verdict, fault }) => verdict === 'error' && isPassing(fault));
    if (passing) {
      if (passing.fault === 'host') this.#rest(passing.reason ?? 'a fault of this machine');
      if (job.attemptsMade + 1 < ATTEMPTS) {
        return this.#over(turn, () => job.moveToFailed(new Error(passing.reason ?? 'fault'), this.#token));
      }
    }
    await this.#over(turn, () => job.moveToCompleted(delivery, this.#token, false));
  }

  /** Builds the cell and puts what came of it into the store. */
  async #made(turn: Turn, dir: string): Promise<Delivery> {
    const { signal } = turn;
    const { store } = this.means;
    const task = await fetchTask(turn.job, { dir, store, signal });
    const built = await this.#toldOf(turn.id, (emit) => this.options.build(task, { emit, signal }));
    signal.throwIfAborted();
    return packDelivery(built, { worker: this.options.name, outDir: task.outDir, store, signal });
  }

  /** Whoever waits for the job hears what happens in it, and so does this worker's own user. */
  async #toldOf<T>(id: string, work: (emit: Emit) => Promise<T>): Promise<T> {
    using teller = new Teller((told) => this.#tell(id, told));
    return await work((event) => {
      teller.take(event);
      this.options.emit(event);
    });
  }

  /** What ended without a verdict. */
  async #failed(turn: Turn, error: unknown): Promise<void> {
    const { job } = turn;
    switch (turn.endedBy) {
      case 'lost':
        return this.#note('warn', `${job.name}: its lock is lost, so another worker has it; stopped here`);
      case 'stopped':
        // A server that is away gives the cell to another worker when the lock has run out.
        if (this.means.redis.status !== 'ready') return;
        await job.moveToWait(this.#token);
        await this.means.redis.publish(NAMES.wake, job.queueName);
        return this.#note('info', `${job.name}: given back`);
      case 'cancelled':
        await job.moveToFailed(new UnrecoverableError(CANCELLED), this.#token);
        await job.remove().catch(() => undefined);
        await this.#tell(turn.id, { type: 'done' });
        return this.#note('info', `${job.name}: cancelled`);
      case null: {
        const own = error instanceof Dkms2binError;
        const reason = own ? error.message : `internal error: ${messageOf(error)}`;
        this.#note('warn', `${job.name}: ${reason}`);
        if (own && error.fault === 'host') this.#rest(reason);
        const again = !own || isPassing(error.fault);
        const told = again ? new Error(reason) : new UnrecoverableError(reason);
        return this.#over(turn, () => job.moveToFailed(told, this.#token));
      }
    }
  }

  /** Says how the cell ended, unless another worker has it by now. */
  async #over(turn: Turn, move: () => Promise<unknown>): Promise<void> {
    try {
      await move();
    } catch (error) {
      // The lock went in the last moment: the result does not count.
      return this.#note('warn', `${turn.job.name}: not delivered: ${messageOf(error)}`);
    }
    await this.#tell(turn.id, { type: 'done' });
  }

  async #cancel(id: string): Promise<void> {
    const turn = this.#turns.get(id);
    if (!turn) return;
    // Somebody may have asked for it since.
    if ((await unwanted(this.means.redis, [id])).length === 1) turn.end('cancelled');
  }

  /** Takes nothing for a while, so that a broken machine does not spoil one cell after the other. */
  #rest(why: string): void {
    const pause = 2 * this.options.timing.backoff;
    this.#restUntil = Date.now() + pause;
    this.#note('warn', `This machine takes no cells for ${Math.round(pause / 1000)} s: ${why}`);
  }

  #info(): WorkerInfo {
    const { can, name } = this.options;
    return { name, version: packageVersion(), ...can, running: this.#turns.size };
  }

  async #leave(): Promise<void> {
    // A server that is away sees to it by itself.
    const left = async (): Promise<void> => {
      await this.#presence.leave();
      for (const worker of this.#queues.values()) await worker.close(true);
    };
    await forAMoment(left());
  }

  async #tell(id: string, told: Told): Promise<void> {
    await this.means.redis.publish(NAMES.told(id), JSON.stringify(told));
  }

  #note(level: 'info' | 'warn', message: string): void {
    this.options.emit({ type: 'note', level, message });
  }
}

/** Faults that another try, or another machine, may not meet. */
const isPassing = (fault: CellResult['fault']): boolean => fault === 'transient' || fault === 'host';
