import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Bench, missing, nameOf, until, type Run } from './harness.js';
import type { BuildPlan } from '../../src/engine/plan/types.js';

/** Every cell of the plan ended once, and what is published is whole and there once. */
async function expectWhole(bench: Bench, plan: BuildPlan, run: Run): Promise<void> {
  expect([...run.ended.keys()].sort()).toEqual(plan.cells.map(nameOf).sort());
  for (const [name, dones] of run.ended) {
    expect(dones, name).toHaveLength(1);
    expect(dones[0]!.results[0]!.verdict, name).toBe(name.startsWith('good') ? 'built' : 'failed');
  }
  const published = await bench.published();
  const packages = [...published].filter(([name]) => name.endsWith('.deb'));
  expect(packages).toHaveLength(plan.cells.filter(({ source }) => source.startsWith('good')).length);
  for (const [name, content] of packages)
    expect(content).toBe(`package of ${name.replace('_1-', ' × ').replace('_x86_64.deb', '')}`);
  expect([...published.keys()].filter((name) => name.startsWith('.'))).toEqual([]);
}

const traceOf = async (bench: Bench, what: string): Promise<string[]> =>
  (await bench.traced()).filter((line) => line.startsWith(what)).map((line) => line.slice(what.length + 1));

describe.skipIf(missing !== null)(`faults${missing ? ` (${missing})` : ''}`, () => {
  test('a killed worker: its cells run again elsewhere', async () => {
    const bench = await Bench.open();
    const doomed = bench.worker('doomed', { seconds: 60 });
    const plan = await bench.plan(['good', 'broken'], 3);
    const run = bench.run(plan);
    await until('two cells on the doomed worker', async () => (await traceOf(bench, 'begin')).length === 2);
    doomed.signal('SIGKILL');
    bench.worker('heir');
    await run.over;
    await expectWhole(bench, plan, run);
    for (const [dones] of run.ended.values()) expect(dones!.worker).toBe('heir');
  });

  test('a killed coordinator: the next one finds running and finished jobs', async () => {
    const bench = await Bench.open();
    bench.worker('one', { seconds: 0.5 });
    const plan = await bench.plan(['good', 'broken'], 4);
    const first = bench.coordinator(plan);
    await until('a cell has ended', () => first.output.includes('"ended"'));
    first.signal('SIGKILL');
    await first.ended;
    const run = bench.run(plan);
    await run.over;
    await expectWhole(bench, plan, run);
    // Nothing was built for the second time.
    expect(await traceOf(bench, 'begin')).toHaveLength(plan.cells.length);
  });

  test('a restarted server: worker and coordinator come back, every cell ends once', async () => {
    const bench = await Bench.open();
    bench.worker('one', { seconds: 0.6 });
    bench.worker('two', { seconds: 0.6 });
    const plan = await bench.plan(['good', 'broken'], 6);
    const run = bench.run(plan);
    await until('some have ended', () => run.ended.size >= 2);
    await bench.killServer();
    await sleep(500);
    await bench.startServer();
    await run.over;
    await expectWhole(bench, plan, run);
    expect(run.notes.join('\n')).toContain('Lost the connection');
  });

  test('a server that lost its memory: what is not done is handed out again', async () => {
    const bench = await Bench.open();
    bench.worker('one', { seconds: 0.4 });
    const plan = await bench.plan(['good'], 6);
    const run = bench.run(plan);
    await until('one has ended', () => run.ended.size >= 1);
    await bench.client().flushall();
    await run.over;
    await expectWhole(bench, plan, run);
  });

  test('a frozen worker loses its lock: its building is stopped, and its result does not count', async () => {
    const bench = await Bench.open();
    const frozen = bench.worker('frozen', { seconds: 6, can: ONE_VM });
    const plan = await bench.plan(['good'], 1);
    const run = bench.run(plan);
    await until('it builds', async () => (await traceOf(bench, 'begin')).length === 1);
    frozen.signal('SIGSTOP');
    bench.worker('heir', { seconds: 0.2 });
    await run.over;
    frozen.signal('SIGCONT');
    // Long before its child would have come to an end by itself.
    await until('it stops', async () => (await traceOf(bench, 'stopped')).length === 1, 4000);
    await expectWhole(bench, plan, run);
    expect(await bench.traced()).toEqual([
      'begin frozen good × 6.1.0-1-amd64',
      'begin heir good × 6.1.0-1-amd64',
      'made heir good × 6.1.0-1-amd64',
      'stopped frozen good × 6.1.0-1-amd64',
    ]);
    expect(frozen.output).toContain('its lock is lost');
  });

  test('a stopped worker gives its cells back at once', async () => {
    const bench = await Bench.open();
    const leaving = bench.worker('leaving', { seconds: 60 });
    const plan = await bench.plan(['good'], 2);
    const run = bench.run(plan);
    await until('it builds', async () => (await traceOf(bench, 'begin')).length === 2);
    bench.worker('heir');
    leaving.signal('SIGTERM');
    expect(await leaving.ended).toBe(0);
    await run.over;
    await expectWhole(bench, plan, run);
    expect(await traceOf(bench, 'stopped')).toHaveLength(2);
    const redis = bench.client();
    expect(await redis.exists('dkms2bin:worker:leaving')).toBe(0);
  });

  test('a cell that kills its workers ends as an error, and the others are built', async () => {
    const bench = await Bench.open();
    const plan = await bench.plan(['good'], 1);
    const run = bench.run(plan);
    // Once more than a cell may lose its worker.
    for (let at = 0; at < 4; at += 1) {
      const doomed = bench.worker(`doomed-${at}`, { seconds: 60 });
      await until('it builds', async () => (await traceOf(bench, 'begin')).length === at + 1);
      doomed.signal('SIGKILL');
    }
    bench.worker('last', { seconds: 60 });
    await run.over;
    const [result] = run.ended.get('good × 6.1.0-1-amd64')![0]!.results;
    expect(result).toMatchObject({ verdict: 'error', fault: 'transient', package: null });
    expect(result!.reason).toContain('worker was lost');
    expect(await traceOf(bench, 'begin')).toHaveLength(4);
  });

  test('a passing fault is tried again; a failed module is not', async () => {
    const bench = await Bench.open();
    bench.worker('one');
    const plan = await bench.plan(['flaky', 'broken'], 1);
    const run = bench.run(plan);
    await run.over;
    expect(run.ended.get('flaky × 6.1.0-1-amd64')![0]!.results[0]!.verdict).toBe('built');
    const begun = await traceOf(bench, 'begin');
    expect(begun.filter((line) => line.includes('flaky'))).toHaveLength(2);
    expect(begun.filter((line) => line.includes('broken'))).toHaveLength(1);
  });
});

const ONE_VM = { distros: ['debian-12'], arches: ['x86_64'], accelerator: 'tcg', signer: null, vms: 1 };
