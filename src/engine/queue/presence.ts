import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { Redis } from 'ioredis';
import { NAMES, parseWorkerInfo, type WorkerInfo } from './protocol.js';

/** Who has not been heard of for three heartbeats is gone. */
const BEATS = 3;
const DAY_MS = 86_400_000;

/** A run says that it is there, and which jobs it waits for: what nobody waits for is cancelled. */
export class CoordinatorPresence {
  readonly #id = `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`;
  readonly #wants = NAMES.wants(this.#id);

  constructor(
    private readonly redis: Redis,
    /** Milliseconds. */
    private readonly heartbeat: number,
  ) {}

  async want(ids: readonly string[]): Promise<void> {
    await this.redis.sadd(this.#wants, ...ids);
    await this.#last();
  }

  async unwant(ids: readonly string[]): Promise<void> {
    await this.redis.srem(this.#wants, ...ids);
  }

  /** `ids`: all that it waits for. */
  async beat(ids: () => string[]): Promise<void> {
    await this.redis.zadd(NAMES.coordinators, Date.now(), this.#id);
    await this.redis.zremrangebyscore(NAMES.coordinators, 0, Date.now() - DAY_MS);
    if (await this.#last()) return;
    // Gone while this machine slept or the server forgot.
    const wanted = ids();
    if (wanted.length > 0) await this.want(wanted);
  }

  async leave(): Promise<void> {
    await this.redis.del(this.#wants);
    await this.redis.zrem(NAMES.coordinators, this.#id);
  }

  /** False when there is nothing that could last. */
  async #last(): Promise<boolean> {
    return (await this.redis.pexpire(this.#wants, BEATS * this.heartbeat)) !== 0;
  }
}

/** Those of the jobs that no coordinator waits for. */
export async function unwanted(redis: Redis, ids: readonly string[]): Promise<string[]> {
  const free = new Set(ids);
  for (const each of await redis.zrange(NAMES.coordinators, 0, '-1')) {
    const asked = [...free];
    if (asked.length === 0) break;
    const wanted = await redis.smismember(NAMES.wants(each), ...asked);
    asked.forEach((id, at) => {
      if (Number(wanted[at]) === 1) free.delete(id);
    });
  }
  return [...free];
}

/** A worker says that it is there, and what it can do. */
export class WorkerPresence {
  constructor(
    private readonly redis: Redis,
    /** Milliseconds. */
    private readonly heartbeat: number,
    private readonly info: () => WorkerInfo,
  ) {}

  async beat(): Promise<void> {
    const info = this.info();
    await this.redis.set(NAMES.worker(info.name), JSON.stringify(info), 'PX', BEATS * this.heartbeat);
    await this.redis.zadd(NAMES.workers, Date.now(), info.name);
  }

  async leave(): Promise<void> {
    const { name } = this.info();
    await this.redis.del(NAMES.worker(name));
    await this.redis.zrem(NAMES.workers, name);
  }
}

/** `wanted`, with this process's number when another worker has that name. */
export async function freeName(redis: Redis, wanted: string): Promise<string> {
  const taken = (await redis.exists(NAMES.worker(wanted))) === 1;
  return taken ? `${wanted}-${process.pid}` : wanted;
}

export async function livingWorkers(redis: Redis): Promise<WorkerInfo[]> {
  const known = await redis.zrange(NAMES.workers, 0, '-1');
  if (known.length === 0) return [];
  const texts = await redis.mget(...known.map(NAMES.worker));
  const gone = known.filter((_, at) => texts[at] === null);
  if (gone.length > 0) await redis.zrem(NAMES.workers, ...gone);
  return texts.flatMap((text) => (text === null ? [] : (parseWorkerInfo(text) ?? [])));
}
