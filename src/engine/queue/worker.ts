import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import { UnrecoverableError, Worker, type Job } from 'bullmq';
import type { Redis } from 'ioredis';
import type { CellResult, ModuleSource } from '../../model/cell.js';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import type { Emit, Event } from '../../model/events.js';
import { packageVersion } from '../../lib/paths.js';
import { scratch } from '../../lib/scratch.js';
import { openStore, type Store } from '../../lib/object-store/index.js';
import { CANCELLED, unwanted } from './executor.js';
import { connect, parseAddress, unblocking } from './redis.js';
import { fetchSource } from './sources.js';
import {
  ATTEMPTS,
  canDo,
  MAX_LOST,
  names,
  parseJob,
  parseNeed,
  prefixOf,
  TIMING,
  workerKey,
  WORKERS,
  type CellJob,
  type Delivery,
  type Timing,
  type Told,
  type WorkerInfo,
} from './protocol.js';

/** One cell as the builder gets it: all files are on this machine. */
export interface CellTask {
  label: string;
  job: CellJob;
  source: ModuleSource;
  otherSources: ModuleSource[];
  kernelPackages: string[];
  /** Empty; what is in it at the end is delivered. */
  outDir: string;
}

export interface CellBuilt {
  /** Paths are below the task's outDir. */
  results: CellResult[];
  accelerator: string | null;
  /** Wall seconds, the waiting for image and layer not included. */
  seconds: number;
}

/** Builds one cell. When `signal` is aborted its VM ends, and it rejects. */
export type CellBuilder = (task: CellTask, turn: { emit: Emit; signal: AbortSignal }) => Promise<CellBuilt>;

export interface WorkerOptions {
  /** Of Redis or Valkey. */
  url: string;
  store: string;
  /** The machine's own when absent; one that is taken gets a number. */
  name?: string;
  /** What it can do. */
  can: Pick<WorkerInfo, 'distros' | 'arches' | 'accelerator' | 'signer' | 'vms'>;
  build: CellBuilder;
  emit: Emit;
  /** Ends the work: VMs end, and their cells go back to the queue. */
  signal: AbortSignal;
  timing?: Partial<Timing>;
}

/** Takes cells from the queue and builds them until `signal` is aborted. */
export async function runWorker(options: WorkerOptions): Promise<void> {
  const store = await openStore(options.store, options);
  await using place = await scratch();
  const redis = await connect(parseAddress(options.url), options.emit);
  const listening = redis.duplicate({ lazyConnect: false });
  listening.on('error', () => undefined);
  try {
    const name = options.name ?? hostname();
    const taken = (await redis.exists(workerKey(name))) === 1;
    const own = taken ? `${name}-${process.pid}` : name;
    const timing = { ...TIMING, ...options.timing };
    await new CellWorker({ ...options, timing, name: own }, store, place.dir, redis, listening).run();
  } finally {
    redis.disconnect();
    listening.disconnect();
  }
}

type CellJobOf = Job<CellJob, Delivery>;

/** A cell that is being built. */
interface Turn {
  job: CellJobOf;
  controller: AbortController;
  /** Why it was ended before its time. */
  ended: 'lost' | 'cancelled' | 'stopped' | null;
}

class CellWorker {
  readonly #token = randomUUID();
  readonly #names = names(prefixOf());
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
    private readonly store: Store,
    private readonly dir: string,
    private readonly redis: Redis,
    private readonly listening: Redis,
  ) {}

  async run(): Promise<void> {
    const { signal, can, name, timing, emit } = this.options;
    const stop = (): void => {
      for (const turn of this.#turns.values()) this.#end(turn, 'stopped');
      this.#wake();
    };
    signal.addEventListener('abort', stop, { once: true });
    const beat = setInterval(() => void this.#heartbeat().catch(() => undefined), timing.heartbeat);
    try {
      this.listening.on('message', (channel: string, text: string) => {
        if (channel === this.#names.cancel) void this.#cancel(text).catch(() => undefined);
        // A busy one looks for itself when it has a VM free.
        else if (this.#turns.size < can.vms) this.#wake();
      });
      await this.listening.subscribe(this.#names.wake, this.#names.cancel);
      await this.#heartbeat();
      const what = `${can.vms} VM${can.vms === 1 ? '' : 's'} with ${can.accelerator} for ${can.distros.join(', ')}`;
      emit({ type: 'note', level: 'info', message: `Worker ${name}: ${what}` });
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
    const queues = await this.redis.hgetall(this.#names.queues);
    for (const [queue, text] of Object.entries(queues)) {
      if (this.#queues.has(queue) || !canDo(this.#info(), parseNeed(text))) continue;
      const worker = new Worker<CellJob, Delivery>(
        queue,
        null,
        {
          ...{ connection: this.redis, prefix: prefixOf(), name, autorun: false },
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
    for (let at = 0; at < queues.length; at += 1) {
      const worker = queues[(this.#next + at) % queues.length]!;
      const since = Date.now();
      const job = (await worker.getNextJob(this.#token, { block: false })) as CellJobOf | undefined;
      if (!job) continue;
      this.#next = (this.#next + at + 1) % queues.length;
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

  async #work(job: CellJobOf, since: number): Promise<void> {
    const id = job.id!;
    if (job.deferredFailure) {
      await job.moveToFailed(new UnrecoverableError(lostText(job)), this.#token);
      return this.#tell(id, { type: 'done' });
    }
    const turn: Turn = { job, controller: new AbortController(), ended: null };
    this.#turns.set(id, turn);
    const renewal = this.#renew(turn, since);
    const dir = join(this.dir, `${id}-${randomUUID().slice(0, 8)}`);
    try {
      await this.#build(turn, dir);
    } finally {
      clearInterval(renewal);
      this.#turns.delete(id);
      await rm(dir, { recursive: true, force: true });
    }
  }

  /** Keeps the cell's lock. A process that was frozen, or cut off for too long, sees by its clock that the lock is gone. */
  #renew(turn: Turn, since: number): NodeJS.Timeout {
    const { lock, renew } = this.options.timing;
    let held = since;
    return setInterval(() => {
      const now = Date.now();
      if (now - held > lock) return this.#end(turn, 'lost');
      turn.job.extendLock(this.#token, lock).then(
        (kept) => {
          if (Number(kept) === 1) held = now;
          else this.#end(turn, 'lost');
        },
        (error: unknown) => {
          if (/lock/i.test(messageOf(error))) this.#end(turn, 'lost');
        },
      );
    }, renew);
  }

  async #build(turn: Turn, dir: string): Promise<void> {
    const { job } = turn;
    const { name } = this.options;
    await job.updateProgress({ worker: name });
    await this.#tell(job.id!, { type: 'begun', worker: name });
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
    const { job } = turn;
    const { signal } = turn.controller;
    const outDir = join(dir, 'out');
    await mkdir(outDir, { recursive: true });
    const data = parseJob(job.data);
    const otherSources: ModuleSource[] = [];
    for (const [at, each] of data.otherSources.entries()) {
      otherSources.push(await fetchSource(each, this.store, join(dir, `sibling-${at}`), signal));
    }
    const source = await fetchSource(data.source, this.store, join(dir, 'source'), signal);
    const kernelPackages: string[] = [];
    if (data.kernelPackages.length > 0) await mkdir(join(dir, 'kernel'));
    for (const { file, sha256 } of data.kernelPackages) {
      const path = join(dir, 'kernel', file);
      await this.store.get(sha256, path, signal);
      kernelPackages.push(path);
    }
    const teller = new Teller((told) => this.#tell(job.id!, told));
    const emit: Emit = (event) => {
      teller.take(event);
      this.options.emit(event);
    };
    const task = { label: job.name, job: data, source, otherSources, kernelPackages, outDir };
    const built = await this.options.build(task, { emit, signal }).finally(() => teller.close());
    signal.throwIfAborted();
    const files: Delivery['files'] = [];
    for (const each of (await readdir(outDir, { withFileTypes: true })).sort((a, b) =>
      a.name < b.name ? -1 : 1,
    )) {
      if (!each.isFile()) continue;
      files.push({ name: each.name, ...(await this.store.put(join(outDir, each.name), signal)) });
    }
    signal.throwIfAborted();
    const bare = (path: string | null): string | null => path && basename(path);
    const results = built.results.map((r) => ({
      ...r,
      package: bare(r.package),
      log: bare(r.log),
      kept: null,
    }));
    const { accelerator, seconds } = built;
    return { results, files, worker: this.options.name, accelerator, seconds };
  }

  /** What ended without a verdict. */
  async #failed(turn: Turn, error: unknown): Promise<void> {
    const { job } = turn;
    switch (turn.ended) {
      case 'lost':
        return this.#note('warn', `${job.name}: its lock is lost, so another worker has it; stopped here`);
      case 'stopped':
        // A server that is away gives the cell to another worker when the lock has run out.
        if (this.redis.status !== 'ready') return;
        await job.moveToWait(this.#token);
        await this.redis.publish(this.#names.wake, job.queueName);
        return this.#note('info', `${job.name}: given back`);
      case 'cancelled':
        await job.moveToFailed(new UnrecoverableError(CANCELLED), this.#token);
        await job.remove().catch(() => undefined);
        await this.#tell(job.id!, { type: 'done' });
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
    const { job } = turn;
    try {
      await move();
    } catch (error) {
      // The lock went in the last moment: the result does not count.
      return this.#note('warn', `${job.name}: not delivered: ${messageOf(error)}`);
    }
    await this.#tell(job.id!, { type: 'done' });
  }

  #end(turn: Turn, why: NonNullable<Turn['ended']>): void {
    if (turn.ended !== null) return;
    turn.ended = why;
    turn.controller.abort(new Dkms2binError('interrupted', 'Interrupted'));
  }

  async #cancel(id: string): Promise<void> {
    const turn = this.#turns.get(id);
    if (!turn) return;
    // Somebody may have asked for it since.
    if ((await unwanted(this.redis, prefixOf(), [id])).length === 1) this.#end(turn, 'cancelled');
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

  async #heartbeat(): Promise<void> {
    const info = this.#info();
    await this.redis.set(workerKey(info.name), JSON.stringify(info), 'PX', 3 * this.options.timing.heartbeat);
    await this.redis.zadd(WORKERS, Date.now(), info.name);
  }

  async #leave(): Promise<void> {
    const { name } = this.options;
    // A server that is away sees to it by itself.
    const left = (async () => {
      await this.redis.del(workerKey(name));
      await this.redis.zrem(WORKERS, name);
      for (const worker of this.#queues.values()) await worker.close(true);
    })().catch(() => undefined);
    await Promise.race([left, new Promise((done) => setTimeout(done, 5000).unref())]);
  }

  async #tell(id: string, told: Told): Promise<void> {
    await this.redis.publish(this.#names.told(id), JSON.stringify(told));
  }

  #note(level: 'info' | 'warn', message: string): void {
    this.options.emit({ type: 'note', level, message });
  }
}

/** Faults that another try, or another machine, may not meet. */
const isPassing = (fault: CellResult['fault']): boolean => fault === 'transient' || fault === 'host';

const lostText = (job: CellJobOf): string =>
  `Its worker was lost ${job.stalledCounter} times while it was built`;

/** Tells of a cell's phases at once, and of its output a few times a second the last lines. */
class Teller {
  #lines: string[] = [];
  readonly #timer: NodeJS.Timeout;

  constructor(private readonly tell: (told: Told) => Promise<void>) {
    this.#timer = setInterval(() => this.#flush(), 500);
  }

  take(event: Event): void {
    if (event.type === 'output') this.#lines = [...this.#lines, event.line].slice(-20);
    if (event.type !== 'phase') return;
    const { type, state, phase, seconds } = event;
    void this.tell({ type, state, phase, ...(seconds !== undefined && { seconds }) }).catch(() => undefined);
  }

  #flush(): void {
    if (this.#lines.length === 0) return;
    const lines = this.#lines.splice(0);
    void this.tell({ type: 'output', lines }).catch(() => undefined);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#flush();
  }
}
