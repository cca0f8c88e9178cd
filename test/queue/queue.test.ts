import { describe, expect, test } from 'vitest';
import { Bench, missing, nameOf } from './harness.js';

describe.skipIf(missing !== null)(`a queue${missing ? ` (${missing})` : ''}`, () => {
  test('cells are built by workers and published, each once', async () => {
    const bench = await Bench.open();
    bench.worker('one');
    bench.worker('two');
    const plan = await bench.plan(['good', 'broken'], 4);
    const run = bench.run(plan);
    await run.over;
    expect([...run.ended.keys()].sort()).toEqual(plan.cells.map(nameOf).sort());
    for (const [name, dones] of run.ended) {
      expect(dones, name).toHaveLength(1);
      const [result] = dones[0]!.results;
      expect(result!.verdict).toBe(name.startsWith('good') ? 'built' : 'failed');
      expect(['one', 'two']).toContain(dones[0]!.worker);
    }
    const published = await bench.published();
    expect([...published.keys()].filter((name) => name.endsWith('.deb'))).toHaveLength(4);
    expect([...published.keys()].filter((name) => name.endsWith('.log'))).toHaveLength(8);
    expect(published.get('good_6.1.0-1-amd64.deb')).toBe('package of good × 6.1.0-1-amd64');
    const begun = (await bench.traced()).filter((line) => line.startsWith('begin'));
    expect(begun).toHaveLength(8);
    expect(run.begun).toHaveLength(8);
  });
});
