import { execa } from 'execa';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { z } from 'zod';
import { lock } from '../../src/lib/lock.js';
import { cached } from '../../src/cache/entries.js';
import { listImages } from '../../src/cache/upkeep.js';

let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dk2b-cache-'));
  vi.stubEnv('DKMS2BIN_CACHE', dir);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true, force: true });
});

const make =
  (text: string, made: string[] = []) =>
  async (to: string): Promise<{ name: string }> => {
    made.push(text);
    await writeFile(join(to, 'disk.qcow2'), text);
    return { name: text };
  };

// Again and again: one may come to make the entry when the other has made it and uses it.
test.each(Array.from({ length: 20 }, (_, i) => `x${i}`))(
  'two at once make an entry once and share it: %s',
  async (hash) => {
    const made: string[] = [];
    const [a, b] = await Promise.all([
      cached('layers', hash, make('one', made)),
      cached('layers', hash, make('two', made)),
    ]);
    expect(made).toHaveLength(1);
    expect(a.dir).toBe(b.dir);
    expect(await readFile(join(a.dir, 'disk.qcow2'), 'utf8')).toBe(made[0]);
    await a.use.release();
    await b.use.release();
  },
);

test('an entry in use cannot be locked for change; when released it can', async () => {
  const entry = await cached('layers', 'x', make('one'));
  const path = join(dir, 'layers', 'x.lock');
  expect(await lock(path, 'exclusive', { wait: false })).toBeNull();
  await entry.use.release();
  const held = await lock(path, 'exclusive', { wait: false });
  expect(held).not.toBeNull();
  await held?.release();
});

test('a maker that fails leaves nothing, and the next one makes it', async () => {
  const failing = cached('layers', 'x', async (to) => {
    await writeFile(join(to, 'disk.qcow2'), 'half');
    throw new Error('power cut');
  });
  await expect(failing).rejects.toThrow('power cut');
  expect((await readdir(join(dir, 'layers'))).filter((n) => !n.endsWith('.lock'))).toEqual([]);
  const entry = await cached('layers', 'x', make('whole'));
  expect(await readFile(join(entry.dir, 'disk.qcow2'), 'utf8')).toBe('whole');
  await entry.use.release();
});

test('a truncated entry is listed as damaged and made again', async () => {
  const first = await cached('layers', 'x', make('whole'));
  await first.use.release();
  await rm(join(first.dir, 'disk.qcow2'));
  await writeFile(join(first.dir, 'disk.qcow2'), 'ho');
  expect(await listImages()).toMatchObject([{ kind: 'layer', damaged: true }]);
  const second = await cached('layers', 'x', make('again'));
  expect(await readFile(join(second.dir, 'disk.qcow2'), 'utf8')).toBe('again');
  await second.use.release();
});

test('an entry that does not say what its reader needs is made again', async () => {
  const first = await cached('layers', 'x', make('old'));
  await first.use.release();
  const about = z.object({ cmdline: z.string() });
  const second = await cached('layers', 'x', async (to) => ({ ...(await make('new')(to)), cmdline: 'ro' }), {
    about,
  });
  expect(second.meta).toMatchObject({ name: 'new', cmdline: 'ro' });
  await second.use.release();
  const third = await cached('layers', 'x', () => Promise.reject(new Error('made again')), { about });
  expect(third.meta.cmdline).toBe('ro');
  await third.use.release();
});

test('the lock of a killed process is free', async () => {
  const path = join(dir, 'l.lock');
  const holder = execa('sh', ['-c', `sleep 60 | flock -x "${path}" sh -c 'echo got; exec cat >/dev/null'`], {
    reject: false,
    detached: true,
  });
  await new Promise((resolve) => holder.stdout.once('data', resolve));
  expect(await lock(path, 'exclusive', { wait: false })).toBeNull();
  process.kill(-holder.pid!, 'SIGKILL');
  await holder;
  const held = await lock(path, 'exclusive', { wait: true });
  expect(held).not.toBeNull();
  await held?.release();
});
