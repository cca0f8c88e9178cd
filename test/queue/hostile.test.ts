import { mkdtemp, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Queue, Worker } from 'bullmq';
import { describe, expect, test } from 'vitest';
import { openStore } from '../../src/lib/object-store/index.js';
import { packDelivery } from '../../src/engine/queue/delivery.js';
import { queueOf } from '../../src/engine/queue/needs.js';
import { NAMES, parseJob, PREFIX, type CellJob, type Delivery } from '../../src/engine/queue/protocol.js';
import { changedAt, corpus, DELIVERY, JOB } from '../hostile/corpus.js';
import { Bench, missing, until } from './harness.js';

interface Row {
  at: string;
  input: unknown;
  answer: string;
}
const NEED = parseJob(JOB).need;
const QUEUE = queueOf(NEED);

/** Somebody who can write to Redis. */
async function intruder(bench: Bench): Promise<Queue> {
  const redis = bench.client();
  await redis.hset(NAMES.queues, QUEUE, JSON.stringify(NEED));
  return new Queue(QUEUE, { connection: redis, prefix: PREFIX });
}

describe.skipIf(missing !== null)(`who can write to Redis${missing ? ` (${missing})` : ''}`, () => {
  test('puts no job into a worker that it should not take, and the worker goes on', async () => {
    const bench = await Bench.open();
    const worker = bench.worker('one');
    const queue = await intruder(bench);
    const redis = bench.client();
    const rows = corpus<Row>('jobs');
    // By its id a job could once name a folder.
    const jobs = rows.map(({ at, input }, index) => ({
      name: `x \u001b[2J ${index}`,
      data: changedAt<object>(JOB, at, input),
      opts: { jobId: `../../../..${bench.dir}/escape-${index}` },
    }));
    const elsewhere = { ...JOB, need: { ...NEED, signer: 'b'.repeat(64) } };
    jobs.push({ name: 'a job of another queue', data: elsewhere, opts: { jobId: 'elsewhere' } });
    await queue.addBulk(jobs);
    for (const [id, broken] of Object.entries({ 'no-json': { data: '{' }, 'null-opts': { opts: 'null' } })) {
      await redis.hset(queue.toKey(id), { name: 'x', data: '{}', opts: '{}', timestamp: '1', ...broken });
      await redis.lpush(queue.toKey('wait'), id);
    }
    await redis.publish(NAMES.wake, QUEUE);
    const ids = jobs.map(({ opts }) => opts.jobId);
    await until('all are refused', async () => {
      const states = await Promise.all(ids.map((id) => queue.getJobState(id)));
      return states.every((state) => state === 'failed');
    });
    for (const id of ids)
      expect((await queue.getJob(id))!.failedReason).toMatch(
        /^The queue holds a job that (cannot be read|is in)/,
      );
    expect(await bench.traced()).toEqual([]);
    expect((await readdir(bench.dir)).filter((name) => name.startsWith('escape'))).toEqual([]);
    expect(worker.output).not.toContain('\u001b');
    const run = bench.run(await bench.plan(['good'], 1));
    await run.over;
    expect(run.ended.get('good × 6.1.0-1-amd64')![0]!.results[0]!.verdict).toBe('built');
  });

  test('ends single cells with what it delivers, by an error that names the worker, and the matrix goes on', async () => {
    const bench = await Bench.open();
    const plan = await bench.plan(['good', 'evil'], corpus<Row>('deliveries').length);
    const store = await openStore(join(bench.dir, 'store'), { emit: () => undefined });
    const { signal } = new AbortController();
    const rows = corpus<Row>('deliveries');
    const deliver = async ({ source, kernel, need }: CellJob): Promise<Delivery> => {
      const { release } = kernel;
      const name = `${source.text}_1-${release}_${need.arch}`;
      const outDir = await mkdtemp(join(bench.dir, 'made-'));
      for (const end of ['deb', 'log']) await writeFile(join(outDir, `${name}.${end}`), end);
      const result = {
        ...{ ...DELIVERY.results[0]!, module: source.text, kernel: release, arch: need.arch },
        ...({
          verdict: 'built',
          package: `${name}.deb`,
          log: `${name}.log`,
          fault: null,
          kept: null,
        } as const),
      };
      const built = { results: [result], accelerator: 'tcg', seconds: 1 };
      return packDelivery(built, { worker: 'mallory', outDir, store, signal });
    };
    const mallory = new Worker<CellJob>(
      QUEUE,
      async ({ data }) => {
        const fine = await deliver(data);
        if (data.source.text !== 'evil') return fine;
        const { at, input } = rows[Number(/^6\.1\.0-(\d+)-/.exec(data.kernel.release)![1]) - 1]!;
        // Of files the attack is the last one, or that there is none; the others are this cell's own.
        const isFiles = at === 'files' && Array.isArray(input) && input.length > 0;
        const added = isFiles ? [...fine.files, input.at(-1)] : input;
        return changedAt<object>(fine, at, added);
      },
      { connection: bench.client(), prefix: PREFIX, concurrency: 4 },
    );
    mallory.on('error', () => undefined);
    const run = bench.run(plan);
    try {
      await run.over;
    } finally {
      await mallory.close(true);
    }
    expect(run.ended.size).toBe(2 * rows.length);
    for (const [name, [done]] of run.ended) {
      const [result] = done!.results;
      if (name.startsWith('good')) {
        expect(result!.verdict, name).toBe('built');
        continue;
      }
      expect(result, name).toMatchObject({ verdict: 'error', fault: 'transient', package: null, log: null });
      expect(result!.reason, name).toMatch(
        /^Worker \S+ delivered what this cell did not ask for: [^\u001b]+$/,
      );
    }
    const published = [...(await bench.published()).keys()];
    expect(published.filter((name) => !/^good_1-6\.1\.0-\d+-amd64_x86_64\.(deb|log)$/.test(name))).toEqual(
      [],
    );
    expect(published).toHaveLength(2 * rows.length);
  });
});
