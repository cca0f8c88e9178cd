import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
// @ts-expect-error It brings no types.
import UntypedS3rver from '@20minutes/s3rver';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { openStore } from '../../src/lib/object-store/index.js';
import { Bench, missing, nameOf, until } from './harness.js';

interface S3Server {
  run(): Promise<AddressInfo>;
  close(): Promise<void>;
}
const S3rver = UntypedS3rver as new (options: object) => S3Server;

const SECRET = 'c0ffee-marker-secret';
const why = missing ? ` (${missing})` : '';

describe.skipIf(missing !== null)(`what is shared${why}`, () => {
  const env = { ...process.env };
  afterEach(() => {
    process.env = { ...env };
  });

  test('the same cell, asked for twice, is built once; a forced one again', async () => {
    const bench = await Bench.open();
    bench.worker('one', { seconds: 0.5 });
    const plan = await bench.plan(['good', 'broken'], 2);
    const [first, second] = [bench.run(plan), bench.run(plan)];
    await Promise.all([first.over, second.over]);
    const third = bench.run(plan);
    await third.over;
    for (const run of [first, second, third])
      expect([...run.ended.keys()].sort()).toEqual(plan.cells.map(nameOf).sort());
    const begun = async (): Promise<number> =>
      (await bench.traced()).filter((line) => line.startsWith('begin')).length;
    expect(await begun()).toBe(4);
    // The package is there already.
    expect(third.ended.get('good × 6.1.0-1-amd64')![0]!.results[0]!.reason).toBe('up to date');
    await bench.run(await bench.plan(['good', 'broken'], 2, { force: true })).over;
    expect(await begun()).toBe(8);
  });

  test('a source that changed is another cell', async () => {
    const bench = await Bench.open();
    bench.worker('one');
    await bench.run(await bench.plan(['good'], 1)).over;
    const plan = await bench.plan(['good'], 1);
    await writeFile(join(bench.dir, 'sources/good/more.c'), 'int x;');
    await bench.run(plan).over;
    expect((await bench.traced()).filter((line) => line.startsWith('begin'))).toHaveLength(2);
  });

  test('a package that is gone from the store is built again', async () => {
    const bench = await Bench.open();
    bench.worker('one');
    const plan = await bench.plan(['good'], 1);
    await bench.run(plan).over;
    for (const name of ['store/sha256', 'out']) await rm(join(bench.dir, name), { recursive: true });
    await mkdir(join(bench.dir, 'store/sha256'));
    const again = bench.run(plan);
    await again.over;
    expect(again.ended.get('good × 6.1.0-1-amd64')![0]!.results[0]!.verdict).toBe('built');
    expect((await bench.published()).get('good_1-6.1.0-1-amd64_x86_64.deb')).toBe(
      'package of good × 6.1.0-1-amd64',
    );
  });

  test('a package that has other content in the store is built again, which mends it there', async () => {
    const bench = await Bench.open();
    bench.worker('one');
    const plan = await bench.plan(['good'], 1);
    await bench.run(plan).over;
    await rm(join(bench.dir, 'out'), { recursive: true });
    const blobs = (await readdir(join(bench.dir, 'store'), { recursive: true, withFileTypes: true })).filter(
      (each) => each.isFile(),
    );
    for (const { parentPath, name } of blobs) {
      const path = join(parentPath, name);
      if ((await readFile(path, 'utf8')).startsWith('package')) await writeFile(path, 'PACKAGE of somebody');
    }
    const again = bench.run(plan);
    await again.over;
    expect(again.notes.join()).toContain('has different content');
    expect(again.ended.get('good × 6.1.0-1-amd64')![0]!.results[0]!.verdict).toBe('built');
    expect((await bench.published()).get('good_1-6.1.0-1-amd64_x86_64.deb')).toBe(
      'package of good × 6.1.0-1-amd64',
    );
  });

  test('an interrupted run takes its cells back, but not those that another run waits for', async () => {
    const bench = await Bench.open();
    bench.worker('one', { seconds: 8, can: { ...CAN, vms: 2 } });
    const all = await bench.plan(['good', 'broken'], 3);
    const other = { ...all, cells: all.cells.slice(0, 1) };
    const run = bench.run(all);
    await until('two are built', () => run.begun.length === 2);
    const staying = bench.run(other);
    await until('the other run hears of it', () => staying.begun.length === 1);
    run.abort();
    await run.over;
    await staying.over;
    expect(run.ended.size).toBe(0);
    expect([...staying.ended.keys()]).toEqual(other.cells.map(nameOf));
    const traced = await bench.traced();
    expect(traced.filter((line) => line.startsWith('made'))).toEqual([`made one ${nameOf(other.cells[0]!)}`]);
    expect(traced.filter((line) => line.startsWith('stopped'))).toHaveLength(1);
    expect(traced.filter((line) => line.startsWith('begin'))).toHaveLength(2);
    const redis = bench.client();
    // Of six jobs one is left: the one that was wanted.
    await until(
      'the others are gone',
      async () => (await redis.keys('*:cell-*')).filter((key) => !key.includes(':told:')).length === 1,
    );
  });

  test('without a worker that can do it, the run says what is missing, and ends the cells when it was told to', async () => {
    const bench = await Bench.open();
    bench.worker('ubuntu', { can: { ...CAN, distros: ['ubuntu-24.04'] } });
    const redis = bench.client();
    await until('it is there', async () => (await redis.exists('dkms2bin:worker:ubuntu')) === 1);
    const run = bench.run(await bench.plan(['good'], 20, { accel: 'kvm' }), { waitSeconds: 1 });
    await run.over;
    expect(run.notes.join('\n')).toContain(
      'No worker can build for debian-12 x86_64 kvm: ubuntu does not build for debian-12 and has tcg, not kvm. 20 cells wait for one.',
    );
    expect([...run.ended.values()].flat().map(({ results }) => results[0]!.verdict)).toEqual(
      Array(20).fill('error'),
    );
    expect(await bench.traced()).toEqual([]);
    expect((await redis.keys('*:cell-*')).filter((key) => !key.includes(':told:'))).toEqual([]);
  });

  test('no more jobs are in the queue than a window holds', async () => {
    const bench = await Bench.open();
    const run = bench.run(await bench.plan(['good'], 200));
    const redis = bench.client();
    const jobs = async (): Promise<number> =>
      (await redis.keys('*:cell-*')).filter((key) => /cell-[0-9a-f]+$/.test(key) && !key.includes(':told:'))
        .length;
    await until('jobs', async () => (await jobs()) >= 16);
    expect(await jobs()).toBe(16);
    run.abort();
    await run.over;
    expect(await jobs()).toBe(0);
  });

  test('nothing secret is in Redis', async () => {
    const bench = await Bench.open();
    await bench.killServer();
    process.env.DKMS2BIN_QUEUE_PASSWORD = SECRET;
    await bench.startServer(['--requirepass', SECRET]);
    bench.worker(
      'one',
      {},
      { DKMS2BIN_SIGN_PASSPHRASE: SECRET, https_proxy: `http://user:${SECRET}@127.0.0.1:9` },
    );
    const plan = await bench.plan(['good', 'broken'], 1, {
      proxy: `http://user:${SECRET}@127.0.0.1:9`,
      mirror: `http://user:${SECRET}@mirror.example/debian`,
      archive: `http://user:${SECRET}@old.example/debian`,
    });
    const run = bench.run(plan);
    await run.over;
    expect(run.ended.size).toBe(2);
    expect(run.notes).toContain('--mirror and --archive count for this machine; workers use their own');
    await expect(bench.run(await bench.plan(['good'], 1, { signKey: 'key.pem' })).over).rejects.toMatchObject(
      { fault: 'usage' },
    );
    const redis = bench.client();
    const keys = await redis.keys('*');
    expect(keys.some((key) => key.includes(':cell-'))).toBe(true);
    for (const key of keys)
      expect((await redis.dumpBuffer(key))?.toString('latin1') ?? '', key).not.toContain(SECRET);
    // As it lies on the disk, uncompressed.
    for (const name of await readdir(join(bench.dir, 'redis/appendonlydir'))) {
      expect(await readFile(join(bench.dir, 'redis/appendonlydir', name), 'latin1'), name).not.toContain(
        SECRET,
      );
    }
    process.env.DKMS2BIN_QUEUE_PASSWORD = 'wrong';
    await expect(bench.run(plan).over).rejects.toMatchObject({
      fault: 'usage',
      hint: expect.stringContaining('PASSWORD') as string,
    });
  });
});

const CAN = { distros: ['debian-12'], arches: ['x86_64'], accelerator: 'tcg', signer: null, vms: 1 };

/** A server that speaks S3 and checks signatures; not Amazon's. */
describe('S3', () => {
  let server: S3Server;
  let dir = '';
  const env = { ...process.env };

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'd2b-s3-'));
    server = new S3rver({
      port: 0,
      address: '127.0.0.1',
      silent: true,
      directory: dir,
      configureBuckets: [{ name: 'shared' }],
    });
    const { port } = await server.run();
    Object.assign(process.env, {
      ...{ AWS_ENDPOINT_URL: `http://127.0.0.1:${port}`, AWS_REGION: 'us-east-1' },
      ...{ AWS_ACCESS_KEY_ID: 'S3RVER', AWS_SECRET_ACCESS_KEY: 'S3RVER' },
    });
  });

  afterAll(async () => {
    await server.close();
    await rm(dir, { recursive: true, force: true });
    process.env = env;
  });

  test('files come back as they were put; wrong keys and what is not there are told', async () => {
    const store = await openStore('s3://shared/some/where', { emit: () => undefined });
    const [from, to] = [join(dir, 'from'), join(dir, 'to')];
    const bytes = randomBytes(3 * 2 ** 20);
    await writeFile(from, bytes);
    const { sha256 } = await store.put(from);
    expect(await store.put(from)).toEqual({ sha256, size: bytes.length });
    await store.get(sha256, to);
    expect((await readFile(to)).equals(bytes)).toBe(true);
    await expect(store.get('0'.repeat(64), to)).rejects.toMatchObject({ fault: 'not-found' });
    expect(await store.getNote('x.json')).toBeNull();
    await store.putNote('x.json', '{}');
    expect(await store.getNote('x.json')).toBe('{}');
    process.env.AWS_SECRET_ACCESS_KEY = 'wrong';
    const other = await openStore('s3://shared', { emit: () => undefined });
    await expect(other.put(from)).rejects.toMatchObject({ fault: 'usage' });
    process.env.AWS_SECRET_ACCESS_KEY = 'S3RVER';
  });

  test.skipIf(missing !== null)(`packages reach the publisher through a bucket${why}`, async () => {
    const bench = await Bench.open();
    bench.worker('one', { store: 's3://shared/matrix' });
    const run = bench.run(await bench.plan(['good'], 2), { store: 's3://shared/matrix' });
    await run.over;
    expect((await bench.published()).get('good_1-6.1.0-2-amd64_x86_64.deb')).toBe(
      'package of good × 6.1.0-2-amd64',
    );
  });
});

test('a web server that takes PUT is a store, too; what is spoilt there is refused', async () => {
  const files = new Map<string, Buffer>();
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const path = request.url!;
      if (request.method === 'PUT') files.set(path, Buffer.concat(chunks));
      const file = files.get(path);
      response.writeHead(
        file ? 200 : 404,
        file && request.method !== 'PUT' ? { 'content-length': file.length } : {},
      );
      response.end(request.method === 'GET' ? file : undefined);
    });
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const dir = await mkdtemp(join(tmpdir(), 'd2b-http-'));
  try {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/layers`;
    const store = await openStore(url, { emit: () => undefined });
    await writeFile(join(dir, 'from'), 'bytes');
    const { sha256 } = await store.put(join(dir, 'from'));
    await store.get(sha256, join(dir, 'to'));
    expect(await readFile(join(dir, 'to'), 'utf8')).toBe('bytes');
    expect(await store.getNote('none')).toBeNull();
    for (const path of files.keys()) files.set(path, Buffer.from('other'));
    await expect(store.get(sha256, join(dir, 'again'))).rejects.toMatchObject({ fault: 'transient' });
    expect(await readdir(dir)).not.toContain('again');
  } finally {
    server.close();
    await rm(dir, { recursive: true, force: true });
  }
});
