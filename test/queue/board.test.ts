import { got } from 'got';
import { describe, expect, test } from 'vitest';
import { board } from '../../src/engine/queue/board.js';
import { Bench, missing } from './harness.js';

describe.skipIf(missing !== null)(`the board${missing ? ` (${missing})` : ''}`, () => {
  test('shows cells and changes none', async () => {
    const bench = await Bench.open();
    bench.worker('one');
    await bench.run(await bench.plan(['good'], 2)).over;
    const controller = new AbortController();
    let over: Promise<void> | undefined;
    const address = await new Promise<string>((ready, failed) => {
      over = board({ url: bench.url, port: 0 }, { emit: () => undefined, signal: controller.signal, ready });
      over.catch(failed);
    });
    try {
      expect(await got(address).text()).toContain('dkms2bin at unix:');
      const { queues } = await got(`${address}api/queues?activeQueue=&page=1&jobsPerPage=10`).json<{
        queues: { name: string; readOnlyMode: boolean; counts: { completed: number } }[];
      }>();
      expect(queues).toMatchObject([
        { name: 'debian-12.x86_64.any.unsigned', readOnlyMode: true, counts: { completed: 2 } },
      ]);
      const clean = `${address}api/queues/${queues[0]!.name}/clean/completed`;
      expect((await got.put(clean, { throwHttpErrors: false, retry: { limit: 0 } })).statusCode).toBe(405);
      const headers = { host: 'evil.example' };
      expect((await got(address, { headers, throwHttpErrors: false })).statusCode).toBe(404);
    } finally {
      controller.abort();
      await over;
    }
  });
});
