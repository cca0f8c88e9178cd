import { spawn, type ChildProcess } from 'node:child_process';
import { accessSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterEach, inject } from 'vitest';
import type { ModuleSource } from '../../src/model/cell.js';
import type { Event } from '../../src/model/events.js';
import type { CellDone } from '../../src/engine/executor.js';
import { queueExecutor, type QueueOptions } from '../../src/engine/queue/executor.js';
import type { Timing } from '../../src/engine/queue/timing.js';
import type { BuildPlan, PlannedCell } from '../../src/engine/plan/types.js';
import type { BuildRequest } from '../../src/options/request.js';
import type { WorkerSetting } from './processes/worker.js';

/** Why these tests cannot run here; null when they can. */
export const missing = ['redis-server', 'valkey-server'].some(onPath)
  ? null
  : 'skipped: neither redis-server nor valkey-server is installed';

function onPath(tool: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some((dir) => {
    try {
      accessSync(join(dir, tool));
      return true;
    } catch {
      return false;
    }
  });
}

/** Short, for tests of seconds. */
const TIMES: Timing = {
  lock: 1500,
  renew: 300,
  stalled: 500,
  sweep: 400,
  heartbeat: 500,
  backoff: 200,
};

/** A real server in a folder of its own, workers and coordinators as processes; all end with the test. */
export class Bench {
  #children: ChildProcess[] = [];
  #server: ChildProcess | undefined;

  private constructor(readonly dir: string) {}

  static async open(): Promise<Bench> {
    const bench = new Bench(await mkdtemp(join(tmpdir(), 'd2b-q-')));
    benches.push(bench);
    for (const name of ['redis', 'store', 'out', 'sources', 'state']) await mkdir(join(bench.dir, name));
    process.env.DKMS2BIN_STATE = join(bench.dir, 'state');
    await bench.startServer();
    return bench;
  }

  get url(): string {
    return `unix:${join(this.dir, 'redis.sock')}`;
  }

  get options(): QueueOptions {
    return { url: this.url, store: join(this.dir, 'store'), timing: TIMES };
  }

  async startServer(more: string[] = []): Promise<void> {
    const args = [
      '--port',
      '0',
      '--unixsocket',
      join(this.dir, 'redis.sock'),
      '--dir',
      join(this.dir, 'redis'),
    ];
    const durable = ['--save', '', '--appendonly', 'yes', '--appendfsync', 'always'];
    const tool = onPath('redis-server') ? 'redis-server' : 'valkey-server';
    this.#server = spawn(tool, [...args, ...durable, ...more], { stdio: 'ignore' });
    await until('the server', async () => {
      const redis = this.client();
      try {
        return (await redis.ping()) === 'PONG';
      } catch {
        return false;
      } finally {
        redis.disconnect();
      }
    });
  }

  async killServer(): Promise<void> {
    await end(this.#server!);
  }

  client(): Redis {
    const password = process.env.DKMS2BIN_QUEUE_PASSWORD;
    const redis = new Redis({
      ...(password !== undefined && { password }),
      path: join(this.dir, 'redis.sock'),
      retryStrategy: () => null,
      maxRetriesPerRequest: 0,
    });
    redis.on('error', () => undefined);
    return redis;
  }

  get trace(): string {
    return join(this.dir, 'trace');
  }

  /** `begin|made|stopped WORKER CELL` as the stand-in builders wrote it. */
  async traced(): Promise<string[]> {
    const text = await readFile(this.trace, 'utf8').catch(() => '');
    return text.split('\n').filter((line) => line !== '');
  }

  worker(name: string, setting: Partial<WorkerSetting> = {}, env: Record<string, string> = {}): Program {
    const can = { distros: ['debian-12'], arches: ['x86_64'], accelerator: 'tcg', signer: null, vms: 2 };
    const given = { can, name, seconds: 0.3, timing: TIMES, trace: this.trace, ...this.options, ...setting };
    return this.#program('worker', given, env);
  }

  coordinator(plan: BuildPlan, env: Record<string, string> = {}): Program {
    return this.#program('coordinator', { plan, options: this.options }, env);
  }

  #program(name: string, setting: object, env: Record<string, string>): Program {
    const path = join(inject('programs'), 'test/queue/processes', `${name}.js`);
    const child = spawn(process.execPath, [path], {
      env: { ...process.env, ...env, SETTING: JSON.stringify(setting) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#children.push(child);
    return new Program(child);
  }

  /** A plan of these sources, each a folder, for so many kernels. */
  async plan(
    sources: readonly string[],
    kernels: number,
    request: Partial<BuildRequest> = {},
  ): Promise<BuildPlan> {
    const modules: Extract<ModuleSource, { kind: 'folder' }>[] = [];
    for (const text of sources) {
      const path = join(this.dir, 'sources', text);
      await mkdir(path, { recursive: true });
      await writeFile(join(path, 'dkms.conf'), `PACKAGE_NAME="${text}"\nPACKAGE_VERSION="1"\n`);
      modules.push({ kind: 'folder', text, path });
    }
    const releases = Array.from({ length: kernels }, (_, at) => `6.1.0-${at + 1}-amd64`);
    return {
      request: {
        ...{
          dkms: [...sources],
          kernels: releases,
          kernelRepos: [],
          outDir: join(this.dir, 'out'),
          arch: 'x86_64',
          image: 'auto',
        },
        ...{
          timeoutSeconds: 60,
          accel: 'auto',
          compile: 'auto',
          nameStyle: 'release',
          verify: true,
          strict: false,
          debugSymbols: false,
        },
        ...{ checkReproducible: false, force: false, debug: false, keepFailed: false, offline: false },
        ...{ kernelPackages: [], buildPackages: [], cwd: this.dir, ...request },
      },
      cells: releases.flatMap((release) =>
        modules.map((module): PlannedCell => ({
          ...{
            source: module.text,
            kernel: release,
            distro: 'debian-12',
            arch: 'x86_64',
            packageVersion: null,
          },
          ...{ image: 'auto', fileStyle: 'release', module },
          target: { release, distro: 'debian-12', arch: 'x86_64' },
        })),
      ),
    };
  }

  /** Runs a plan here. */
  run(plan: BuildPlan, options: Partial<QueueOptions> = {}): Run {
    return new Run(plan, { ...this.options, ...options });
  }

  /** Names and contents of what is published. */
  async published(): Promise<Map<string, string>> {
    const out = join(this.dir, 'out');
    const names = (await readdir(out)).sort();
    return new Map(
      await Promise.all(names.map(async (name) => [name, await readFile(join(out, name), 'utf8')] as const)),
    );
  }

  async close(): Promise<void> {
    for (const child of this.#children) await end(child);
    if (this.#server) await end(this.#server);
    await rm(this.dir, { recursive: true, force: true });
  }
}

export const nameOf = ({ source, kernel }: PlannedCell): string => `${source} × ${kernel}`;

export class Run {
  readonly ended = new Map<string, CellDone[]>();
  readonly begun: string[] = [];
  readonly events: Event[] = [];
  readonly over: Promise<void>;
  readonly #controller = new AbortController();

  constructor(plan: BuildPlan, options: QueueOptions) {
    this.over = queueExecutor(options).run(plan, {
      emit: (event) => void this.events.push(event),
      signal: this.#controller.signal,
      expectedSeconds: () => null,
      begun: (cell, worker) => void this.begun.push(`${worker} ${nameOf(cell)}`),
      ended: (cell, done) => {
        this.ended.set(nameOf(cell), [...(this.ended.get(nameOf(cell)) ?? []), done]);
        return Promise.resolve();
      },
    });
    this.over.catch(() => undefined);
  }

  abort(): void {
    this.#controller.abort();
  }

  get notes(): string[] {
    return this.events.flatMap((event) => (event.type === 'note' ? [event.message] : []));
  }
}

export class Program {
  output = '';
  readonly #ended: Promise<number | null>;

  constructor(readonly child: ChildProcess) {
    child.stdout!.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    child.stderr!.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    this.#ended = new Promise((resolve) => child.once('close', (code) => resolve(code)));
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name);
  }

  /** Exit code; null when a signal ended it. */
  get ended(): Promise<number | null> {
    return this.#ended;
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('close', resolve));
  child.kill('SIGKILL');
  await gone;
}

/** Waits for what will come; a deadline only for what hangs. */
export async function until(
  what: string,
  done: () => Promise<boolean> | boolean,
  ms = 30_000,
): Promise<void> {
  for (const end = Date.now() + ms; !(await done());) {
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await sleep(20);
  }
}

const benches: Bench[] = [];
afterEach(async () => {
  for (const bench of benches.splice(0)) await bench.close();
});
