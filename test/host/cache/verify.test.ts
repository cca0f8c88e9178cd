import { createHash, randomBytes } from 'node:crypto';
import { chmod, copyFile, mkdir, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { cached, contentDigest } from '../../../src/cache/entries.js';
import { verifyCache } from '../../../src/cache/upkeep.js';
import { entry, exists, heldElsewhere, MIB, ownCache, signal, sparse } from './fixture.js';

const cache = ownCache();

const verify = async (remove = false, pinned: string[] = []): Promise<Record<string, string>> => {
  const rows = await verifyCache({ remove, emit: () => undefined, signal }, pinned);
  return Object.fromEntries(rows.map((r) => [r.name, r.removed ? 'removed' : (r.problem ?? r.state)]));
};

async function flip(path: string, at: number): Promise<void> {
  await chmod(path, 0o644);
  const handle = await open(path, 'r+');
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, at);
  byte[0]! ^= 1;
  await handle.write(byte, 0, 1, at);
  await handle.close();
}

test('a digest is that of the content, whether holes or zeros', async () => {
  const data = randomBytes(MIB);
  const holes = join(cache.dir, 'holes');
  const full = join(cache.dir, 'full');
  await sparse(holes, data);
  await writeFile(full, await readFile(holes));
  const expected = createHash('sha256')
    .update(Buffer.concat([Buffer.alloc(8 * MIB), data, Buffer.alloc(55 * MIB)]))
    .digest('hex');
  expect(await contentDigest(holes)).toBe(expected);
  expect(await contentDigest(full)).toBe(expected);
  await truncate(holes, 64 * MIB - 1);
  expect(await contentDigest(holes)).not.toBe(expected);
  await writeFile(full, '');
  expect(await contentDigest(full)).toBe(createHash('sha256').digest('hex'));
});

test('a flipped byte is found, in data and in a hole; what builds on it is damaged too', async () => {
  const image = await entry('images', 'base', { mib: 3 });
  await entry('layers', 'kernel', { parents: [image] });
  await entry('layers', 'other');
  const { dir, use } = await cached('snapshots', 'snap', async (to) => {
    await sparse(join(to, 'ram'));
    return { name: 'snap' };
  });
  await use.release();
  const good = { 'base base': 'good', 'kernel kernel': 'good', 'other other': 'good', 'snap snap': 'good' };
  expect(await verify()).toEqual(good);
  await flip(join(image.dir, 'disk.qcow2'), 2 * MIB + 5);
  await flip(join(dir, 'ram'), 50 * MIB);
  expect(await verify()).toEqual({
    ...good,
    'base base': 'disk.qcow2 has changed since it was made',
    'kernel kernel': 'built on base base, which is damaged',
    'snap snap': 'ram has changed since it was made',
  });
  expect(await verify(true)).toEqual({
    'base base': 'removed',
    'kernel kernel': 'removed',
    'other other': 'good',
    'snap snap': 'removed',
  });
  expect(await verify()).toEqual({ 'other other': 'good' });
});

test('a truncated file is found, and a missing parent', async () => {
  const image = await entry('images', 'base');
  const layer = await entry('layers', 'kernel', { parents: [{ kind: 'images', hash: 'nowhere' }] });
  await chmod(join(image.dir, 'disk.qcow2'), 0o644);
  await truncate(join(image.dir, 'disk.qcow2'), 1000);
  expect(await verify()).toEqual({
    'damaged base': 'a file is missing or does not have the size that it was made with',
    'kernel kernel': 'what it is built on is gone: images/nowhere',
  });
  await verify(true);
  expect([await exists(image.dir), await exists(layer.dir)]).toEqual([false, false]);
});

test.each(['sha256', 'sha512'])('an official image is compared with its name, a %s', async (algorithm) => {
  const hex = createHash(algorithm).update('official').digest('hex');
  const path = join(cache.dir, 'images', `${hex}.qcow2`);
  await mkdir(join(cache.dir, 'images'));
  await writeFile(path, 'official');
  expect(Object.values(await verify())).toEqual(['good']);
  await flip(path, 3);
  expect(Object.values(await verify())[0]).toMatch(/digest/);
  expect(Object.values(await verify(true))).toEqual(['removed']);
  expect(await exists(path)).toBe(false);
});

test('what is in use is not removed, what is being made is not read', async () => {
  const used = await entry('layers', 'used');
  const kept = await entry('layers', 'kept');
  await entry('layers', 'made');
  await flip(join(used.dir, 'disk.qcow2'), 0);
  await flip(join(kept.dir, 'disk.qcow2'), 0);
  const holders = [
    await heldElsewhere(join(cache.dir, 'layers', 'used.lock'), '-s'),
    await heldElsewhere(join(cache.dir, 'layers', 'made.lock'), '-x'),
  ];
  const bad = 'disk.qcow2 has changed since it was made';
  const disk = join(kept.dir, 'disk.qcow2');
  expect(await verify(true, [disk])).toEqual({ 'used used': bad, 'kept kept': bad, 'made made': 'busy' });
  for (const end of holders) await end();
  expect(await verify(true)).toEqual({ 'used used': 'removed', 'kept kept': 'removed', 'made made': 'good' });
});

test('a copy of the cache without its holes is still good', async () => {
  const { dir, use } = await cached('snapshots', 'snap', async (to) => {
    await sparse(join(to, 'ram'));
    return { name: 'snap' };
  });
  await use.release();
  const copy = join(cache.dir, 'copy');
  await writeFile(copy, await readFile(join(dir, 'ram')));
  // It may be read-only, as a snapshot's is.
  await rm(join(dir, 'ram'));
  await copyFile(copy, join(dir, 'ram'));
  expect(await verify()).toEqual({ 'snap snap': 'good' });
});
