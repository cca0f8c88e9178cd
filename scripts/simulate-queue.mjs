// What a queue costs: CELLS cells (100000) through WORKERS workers (1000) whose building is nothing, over a real Redis.
// Usage: node scripts/simulate-queue.mjs [CELLS [WORKERS]], after npm run build. Prints JSON.
import { spawn } from 'node:child_process';
import { setMaxListeners } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { queueExecutor } from '../dist/engine/queue/executor.js';
import { runWorker } from '../dist/engine/queue/worker.js';

const PER_PROCESS = 250;

if (process.env.WORKERS_OF) {
  const { dir, from, count } = JSON.parse(process.env.WORKERS_OF);
  const controller = new AbortController();
  // One signal for all the workers of a process.
  setMaxListeners(0, controller.signal);
  process.once('SIGTERM', () => controller.abort());
  const can = { distros: ['debian-12'], arches: ['x86_64'], accelerator: 'tcg', signer: null, vms: 1 };
  await Promise.all(
    Array.from({ length: count }, (_, at) =>
      runWorker({
        url: `unix:${dir}/redis.sock`,
        store: `${dir}/store`,
        name: `worker-${from + at}`,
        can,
        emit: () => undefined,
        signal: controller.signal,
        build: ({ label, job }) =>
          Promise.resolve({
            results: [
              {
                ...{
                  module: label,
                  version: '1',
                  kernel: job.target.release,
                  distro: 'debian-12',
                  arch: 'x86_64',
                },
                ...{
                  verdict: 'skipped',
                  reason: null,
                  package: null,
                  log: null,
                  phases: {},
                  kept: null,
                  fault: null,
                },
              },
            ],
            accelerator: null,
            seconds: 0,
          }),
      }),
    ),
  );
  process.exit(0);
}

const cells = Number(process.argv[2] ?? 100_000);
const workers = Number(process.argv[3] ?? 1000);
const dir = await mkdtemp(join(tmpdir(), 'd2b-sim-'));
process.env.DKMS2BIN_STATE = join(dir, 'state');
process.env.DKMS2BIN_CACHE = join(dir, 'cache');

await mkdir(join(dir, 'redis'));
const children = [];
const start = (file, args, env = {}) => {
  const child = spawn(file, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  children.push(child);
  return child;
};
const ended = (child) => (child.exitCode !== null ? null : new Promise((done) => child.once('close', done)));
try {
  const durable = ['--save', '', '--appendonly', 'yes', '--maxclients', '10000'];
  start('redis-server', [
    '--port',
    '0',
    '--unixsocket',
    join(dir, 'redis.sock'),
    '--dir',
    join(dir, 'redis'),
    ...durable,
  ]);
  await sleep(1000);
  const redis = new Redis({ path: join(dir, 'redis.sock') });
  const info = async (key) => Number(new RegExp(`^${key}:([0-9.]+)`, 'm').exec(await redis.info())[1]);
  for (let from = 0; from < workers; from += PER_PROCESS) {
    const count = Math.min(PER_PROCESS, workers - from);
    start(process.execPath, [process.argv[1]], { WORKERS_OF: JSON.stringify({ dir, from, count }) });
  }
  while ((await redis.zcard('dkms2bin:workers')) < workers) await sleep(500);
  const empty = await info('used_memory');
  const target = (release) => ({ release, distro: 'debian-12', arch: 'x86_64' });
  const plan = {
    request: {
      ...{
        dkms: [],
        kernels: [],
        outDir: join(dir, 'out'),
        arch: 'x86_64',
        image: 'auto',
        timeoutSeconds: 60,
      },
      ...{
        accel: 'auto',
        nameStyle: 'release',
        verify: true,
        debugSymbols: false,
        checkReproducible: false,
        force: false,
      },
      ...{ debug: false, keepFailed: false, offline: true, kernelPackages: [], cwd: dir },
    },
    cells: Array.from({ length: cells }, (_, at) => ({
      ...{
        source: `module-${at % 1000}-dkms`,
        kernel: `6.1.0-${Math.floor(at / 1000)}-amd64`,
        distro: 'debian-12',
      },
      ...{ arch: 'x86_64', packageVersion: null, image: 'auto', fileStyle: 'release' },
      module: { kind: 'repo', text: `module-${at % 1000}-dkms`, name: `module-${at % 1000}-dkms` },
      target: target(`6.1.0-${Math.floor(at / 1000)}-amd64`),
    })),
  };
  const planned = process.memoryUsage().rss;
  const [cpu, serverCpu] = [process.cpuUsage(), (await info('used_cpu_user')) + (await info('used_cpu_sys'))];
  let peak = 0;
  const watch = setInterval(() => (peak = Math.max(peak, process.memoryUsage().rss)), 200);
  const seen = new Map();
  const started = performance.now();
  await queueExecutor({ url: `unix:${join(dir, 'redis.sock')}`, store: join(dir, 'store') }).run(plan, {
    emit: (event) => event.type === 'note' && console.error(event.message),
    signal: new AbortController().signal,
    expectedSeconds: () => null,
    begun: () => undefined,
    ended: async (cell) => void seen.set(cell, (seen.get(cell) ?? 0) + 1),
  });
  const seconds = (performance.now() - started) / 1000;
  clearInterval(watch);
  const { user, system } = process.cpuUsage(cpu);
  const spent = (await info('used_cpu_user')) + (await info('used_cpu_sys')) - serverCpu;
  const mib = (bytes) => Math.round(bytes / 2 ** 20);
  console.log(
    JSON.stringify({
      ...{ cells, workers, seconds: Math.round(seconds), cellsPerSecond: Math.round(cells / seconds) },
      endedOnce: [...seen.values()].filter((times) => times === 1).length,
      coordinatorMsPerCell: +((user + system) / 1000 / cells).toFixed(3),
      serverMsPerCell: +((spent * 1000) / cells).toFixed(3),
      serverBytesPerCell: Math.round(((await info('used_memory')) - empty) / cells),
      ...{ coordinatorPeakMiB: mib(peak), coordinatorPlanMiB: mib(planned) },
    }),
  );
  redis.disconnect();
} finally {
  for (const child of children.reverse()) {
    child.kill('SIGKILL');
    await ended(child);
  }
  await rm(dir, { recursive: true, force: true });
}
