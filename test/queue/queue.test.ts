import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
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
    expect(published.get('good_1-6.1.0-1-amd64_x86_64.deb')).toBe('package of good × 6.1.0-1-amd64');
    const begun = (await bench.traced()).filter((line) => line.startsWith('begin'));
    expect(begun).toHaveLength(8);
    expect(run.begun).toHaveLength(8);
  });

  test('over TLS: a server with a certificate of an authority of our own', async () => {
    const bench = await Bench.open();
    await bench.killServer();
    const [key, certificate] = [join(bench.dir, 'key.pem'), join(bench.dir, 'certificate.pem')];
    await execa('openssl', [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
      ...['-subj', '/CN=queue', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'],
      ...['-keyout', key, '-out', certificate],
    ]);
    const probe = createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as AddressInfo;
    probe.close();
    await once(probe, 'close');
    await bench.startServer([
      ...['--tls-port', String(port), '--bind', '127.0.0.1', '--tls-auth-clients', 'no'],
      ...['--tls-cert-file', certificate, '--tls-key-file', key, '--tls-ca-cert-file', certificate],
    ]);
    bench.worker('named', { url: `rediss://localhost:${port}?ca=${certificate}`, seconds: 1 });
    const run = bench.run(await bench.plan(['good', 'broken'], 2), {
      url: `rediss://127.0.0.1:${port}/?ca=${certificate}`,
    });
    await run.over;
    expect(run.ended.size).toBe(4);
    expect([...(await bench.published()).keys()].filter((name) => name.endsWith('.deb'))).toHaveLength(2);
    const other = await bench.plan(['other'], 1);
    for (const [url, message] of [
      [`rediss://localhost:${port}`, /certificate/],
      [`rediss://localhost:${port}?ca=${bench.dir}/none.pem`, /none\.pem/],
    ] as const)
      await expect(bench.run(other, { url }).over).rejects.toMatchObject({
        ...{ fault: 'usage', message: expect.stringMatching(message) as string },
        hint: expect.stringContaining('?ca=FILE') as string,
      });
  });
});
