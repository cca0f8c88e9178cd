import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Bench, missing, until, type Program } from '../queue/harness.js';

/**
 * A worker and a coordinator are killed at steps that are spread over all of a run: changes of the disk, commands to Redis, and
 * with them each event. The guest is a stand-in. After the next run all is delivered once, and nothing is left.
 */
const POINTS = 40;
const SIDE_BY_SIDE = 3;

const names = (folder: string): Promise<string[]> =>
  readdir(folder, { recursive: true }).catch(() => [] as string[]);
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** What is wrong after all have ended. */
async function trouble(bench: Bench, kernels: number): Promise<string[]> {
  const wrong: string[] = [];
  const published = await bench.published();
  const files = [...published.keys()];
  const wanted = Array.from({ length: kernels }, (_, at) => `good_1-6.1.0-${at + 1}-amd64_x86_64`);
  const all = wanted.flatMap((name) => [`${name}.deb`, `${name}.log`]).sort();
  if (files.join() !== all.join()) wrong.push(`out-dir: ${files.join(', ')}`);
  for (const [name, content] of published) {
    const [, kernel = ''] = /^good_1-(.*)_x86_64\.deb$/.exec(name) ?? [];
    if (content !== (kernel === '' ? 'log' : `package of good × ${kernel}`))
      wrong.push(`${name}: ${content}`);
  }
  for (const name of await names(join(bench.dir, 'store'))) {
    if (/\.part$|tmp/.test(name)) wrong.push(`store: ${name}`);
    const [digest] = /[0-9a-f]{64}$/.exec(name) ?? [];
    if (digest && sha256(await readFile(join(bench.dir, 'store', name))) !== digest)
      wrong.push(`store: ${name} is not whole`);
  }
  for (const name of await readdir(join(bench.dir, 'state/scratch')).catch(() => [] as string[]))
    wrong.push(`scratch: ${name}`);
  const left = async (): Promise<string[]> => {
    const found: string[] = [];
    for (const pid of (await readdir('/proc')).filter((each) => /^\d+$/.test(each))) {
      const line = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ');
      if (line.includes(`${bench.dir}/`) && !line.includes('redis.sock')) found.push(line.slice(0, 200));
    }
    return found;
  };
  await until('processes end', async () => (await left()).length === 0, 10_000).catch(() => undefined);
  return [...wrong, ...(await left()).map((line) => `process: ${line}`)];
}

interface Point {
  bench: Bench;
  env: Record<string, string>;
  /** Of a process of its own. */
  killed: (killAt: number) => Record<string, string>;
}

async function opened(): Promise<Point> {
  const bench = await Bench.open();
  const env = { DKMS2BIN_STATE: join(bench.dir, 'state') };
  return { bench, env, killed: (killAt) => ({ ...env, KILL_AT: String(killAt) }) };
}

const stepsOf = ({ output }: Program): number => Number(/"steps":(\d+)/.exec(output)?.[1]);
const stopped = async (worker: Program): Promise<void> => {
  worker.signal('SIGTERM');
  await worker.ended;
};

/** One run with a worker and a coordinator, one of which is killed at a step (0: none); its steps, or what is wrong. */
const KINDS = {
  worker: async ({ bench, env, killed }: Point, at: number): Promise<number> => {
    const worker = bench.worker('doomed', { seconds: 0.1 }, killed(at));
    const coordinator = bench.coordinator(await bench.plan(['good'], 2), env);
    if (at > 0) expect(await worker.ended).toBeNull();
    const heir = at > 0 ? bench.worker('heir', { seconds: 0.1 }, env) : worker;
    expect(await coordinator.ended, coordinator.output).toBe(0);
    // Where all was delivered by then it has hardly begun, and would be no run at all.
    await until('it takes signals', () => heir.output.includes('takes signals'));
    await stopped(heir);
    return stepsOf(worker);
  },
  coordinator: async ({ bench, env, killed }: Point, at: number): Promise<number> => {
    const worker = bench.worker('one', { seconds: 0.1 }, env);
    const plan = await bench.plan(['good'], 2);
    const first = bench.coordinator(plan, killed(at));
    const code = await first.ended;
    if (at > 0) {
      expect(code, first.output).toBeNull();
      const next = bench.coordinator(plan, env);
      expect(await next.ended, next.output).toBe(0);
    } else expect(code, first.output).toBe(0);
    await stopped(worker);
    return stepsOf(first);
  },
};

describe.skipIf(missing !== null)(`over a queue${missing ? ` (${missing})` : ''}`, () => {
  test.each(['worker', 'coordinator'] as const)('a %s is killed at any step', async (kind) => {
    const one = async (at: number): Promise<{ steps: number; wrong: string[] }> => {
      const point = await opened();
      try {
        const steps = await KINDS[kind](point, at);
        return { steps, wrong: await trouble(point.bench, 2) };
      } catch (error) {
        return { steps: 0, wrong: [String(error).slice(0, 600)] };
      } finally {
        await point.bench.close();
      }
    };
    const whole = await one(0);
    expect(whole.wrong).toEqual([]);
    expect(whole.steps).toBeGreaterThanOrEqual(POINTS);
    // The last ones are beats of the heart, of which some runs have fewer.
    const last = whole.steps - 6;
    const waiting = Array.from({ length: POINTS }, (_, at) => 1 + Math.floor((at * last) / POINTS));
    const wrong: string[] = [];
    await Promise.all(
      Array.from({ length: SIDE_BY_SIDE }, async () => {
        for (let at = waiting.shift(); at !== undefined; at = waiting.shift()) {
          const found = (await one(at)).wrong.map((line) => `${at} of ${whole.steps}: ${line}`);
          // Told at once: the whole takes minutes.
          if (found.length > 0) console.error(found.join('\n'));
          wrong.push(...found);
        }
      }),
    );
    expect(wrong).toEqual([]);
  });
});
