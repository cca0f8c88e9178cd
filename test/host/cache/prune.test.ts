import { execa } from 'execa';
import { mkdir, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { cached, cacheItems, holdOfficial } from '../../../src/cache/entries.js';
import { listImages, prune, pruneSuperseded, type PruneOptions } from '../../../src/cache/upkeep.js';
import { entry, exists, heldElsewhere, MIB, ownCache, signal, sparse } from './fixture.js';

const cache = ownCache();

const pruned = async (options: Partial<PruneOptions>, pinned: string[] = []): Promise<string[]> =>
  (await prune({ dryRun: false, signal, ...options }, pinned)).removed.map((r) => r.name);

test('least recently used first, until the limit is kept', async () => {
  await entry('layers', 'old', { days: 30 });
  await entry('layers', 'new', { days: 2 });
  await entry('layers', 'middle', { days: 20 });
  const result = await prune({ dryRun: false, signal, maxBytes: 1.5 * MIB });
  expect(result.removed.map((r) => r.name)).toEqual(['old old', 'middle middle']);
  expect(result.freed).toBeGreaterThan(2 * MIB);
  expect(result.left).toBeLessThan(1.5 * MIB);
  expect((await cacheItems()).map((i) => i.hash)).toEqual(['new']);
});

test('by age alone what was used since stays', async () => {
  await entry('layers', 'old', { days: 31 });
  await entry('layers', 'new', { days: 29 });
  expect(await pruned({ maxAgeSeconds: 30 * 86400 })).toEqual(['old old']);
});

test('without a limit whole entries stay', async () => {
  await entry('layers', 'old', { days: 3000 });
  expect(await pruned({})).toEqual([]);
});

test('children go before parents, and a parent stays while a child does', async () => {
  const image = await entry('images', 'base', { days: 90 });
  const layer = await entry('layers', 'kernel', { days: 60, parents: [image] });
  await entry('snapshots', 'snap', { days: 10, parents: [layer] });
  expect(await pruned({ maxAgeSeconds: 30 * 86400 })).toEqual([]);
  expect(await pruned({ maxAgeSeconds: 5 * 86400 })).toEqual(['snap snap', 'kernel kernel', 'base base']);
});

test('what another process uses stays, and so does what it builds on', async () => {
  const image = await entry('images', 'base', { days: 90 });
  await entry('layers', 'used', { days: 60, parents: [image] });
  await entry('layers', 'other', { days: 50, parents: [image] });
  const release = await heldElsewhere(join(cache.dir, 'layers', 'used.lock'), '-s');
  expect((await listImages()).map((r) => [r.name, r.inUse])).toEqual([
    ['other other', false],
    ['used used', true],
    ['base base', false],
  ]);
  expect(await pruned({ maxBytes: 0 })).toEqual(['other other']);
  await release();
  expect(await pruned({ maxBytes: 0 })).toEqual(['used used', 'base base']);
});

test('the list says what each is built on', async () => {
  const image = await entry('images', 'base', { days: 90 });
  await entry('layers', 'kernel', { days: 60, parents: [image] });
  expect((await listImages()).map((r) => [r.name, r.on])).toEqual([
    ['kernel kernel', 'base base'],
    ['base base', null],
  ]);
});

test('what a kept run boots from stays, with all below it', async () => {
  const image = await entry('images', 'base', { days: 90 });
  const layer = await entry('layers', 'kernel', { days: 60, parents: [image] });
  const kept = [join(layer.dir, 'disk.qcow2')];
  expect(await pruned({ maxBytes: 0 }, kept)).toEqual([]);
  expect((await listImages(kept)).map((r) => r.inUse)).toEqual([true, true]);
  expect(await pruned({ maxBytes: 0 })).toHaveLength(2);
});

test('an official image takes part: kept while a layer builds on it or a run holds it', async () => {
  const name = `${'ab'.repeat(32)}.qcow2`;
  const path = join(cache.dir, 'images', name);
  await mkdir(join(cache.dir, 'images'));
  await writeFile(path, 'official');
  const ago = new Date(Date.now() - 40 * 86400_000);
  await utimes(path, ago, ago);
  const id = { kind: 'images' as const, hash: name };
  await entry('layers', 'kernel', { parents: [id] });
  expect(await pruned({ maxAgeSeconds: 30 * 86400 })).toEqual([]);
  expect(await pruned({ maxAgeSeconds: 0.5 * 86400 })).toEqual(['kernel kernel', 'official abababababab']);
  expect(await exists(path)).toBe(false);
  await expect(holdOfficial(id)).rejects.toMatchObject({ fault: 'transient' });

  await writeFile(path, 'official');
  await utimes(path, ago, ago);
  const use = await holdOfficial(id);
  expect((await listImages())[0]).toMatchObject({ kind: 'image', inUse: true });
  const [item] = await cacheItems();
  expect(Date.now() - item!.lastUsed).toBeLessThan(60_000);
  await utimes(`${path}.lock`, ago, ago);
  expect(await pruned({ maxBytes: 0 })).toEqual([]);
  await use.release();
  expect(await pruned({ maxBytes: 0 })).toHaveLength(1);
});

test('a dry run says the same and changes nothing', async () => {
  const image = await entry('images', 'base', { days: 90 });
  await entry('layers', 'kernel', { days: 60, parents: [image] });
  await mkdir(join(cache.dir, 'layers', 'dead.part'));
  await mkdir(join(cache.dir, 'index'));
  await writeFile(join(cache.dir, 'index', 'a.json'), '{}');
  await utimes(join(cache.dir, 'index', 'a.json'), 0, 0);
  const tree = async (): Promise<string[]> => (await readdir(cache.dir, { recursive: true })).sort();
  const before = await tree();
  const said = await pruned({ dryRun: true, maxBytes: 0 });
  expect(said).toEqual(['unfinished dead.part', 'package index a.json', 'kernel kernel', 'base base']);
  expect(await tree()).toEqual(before);
  expect(await pruned({ maxBytes: 0 })).toEqual(said);
  expect((await cacheItems()).length).toBe(0);
});

test('what dead makers left goes, what a living one works on stays', async () => {
  const layers = join(cache.dir, 'layers');
  const images = join(cache.dir, 'images');
  const digest = 'cd'.repeat(32);
  for (const dir of [join(layers, 'dead.part'), join(layers, 'alive.part'), images])
    await mkdir(dir, { recursive: true });
  const part = `${digest}.qcow2.0123456789abcdef.part`;
  for (const name of [part, `${part}.json`, 'debian-12.x86_64.json'])
    await writeFile(join(images, name), 'x');
  const makers = [
    await heldElsewhere(join(layers, 'alive.lock'), '-x'),
    await heldElsewhere(join(images, `${digest}.qcow2.lock`), '-x'),
  ];
  expect(await pruned({})).toEqual(['unfinished dead.part']);
  for (const end of makers) await end();
  expect((await pruned({})).sort()).toEqual([
    'unfinished alive.part',
    `unfinished ${part}`,
    `unfinished ${part}.json`,
  ]);
  expect(await exists(join(images, 'debian-12.x86_64.json'))).toBe(true);
  // Somebody may wait on a lock file: it stays.
  expect(await exists(join(layers, 'alive.lock'))).toBe(true);
});

const NAMESPACE = ['--user', '--map-root-user', '--map-auto'];
const namespaces =
  process.getuid?.() !== 0 &&
  (await execa('unshare', [...NAMESPACE, 'true'], { reject: false })).exitCode === 0;

test.skipIf(!namespaces)("files that belong to a namespace's other users go too", async () => {
  const part = join(cache.dir, 'images', 'dead.part');
  await mkdir(part, { recursive: true });
  const script = 'mkdir -p root/etc; touch root/etc/shadow; chown -R 33:33 root; chmod 700 root';
  await execa('unshare', [...NAMESPACE, 'sh', '-c', script], { cwd: part });
  await expect(rm(part, { recursive: true })).rejects.toThrow('EACCES');
  expect(await pruned({})).toEqual(['unfinished dead.part']);
  expect(await exists(part)).toBe(false);
});

test('old records and scratch go, young ones stay', async () => {
  for (const folder of ['index', 'built', 'packages', 'packages/cafe', 'tmp-old', 'tmp-new'])
    await mkdir(join(cache.dir, folder));
  for (const [path, days] of [
    ['index/old.json', 31],
    ['index/new.json', 29],
    ['built/old.json', 31],
    ['packages/cafe', 31],
    ['tmp-old', 8],
    ['tmp-new', 6],
  ] as const) {
    if (path.endsWith('.json')) await writeFile(join(cache.dir, path), '{}');
    const then = Date.now() / 1000 - days * 86400;
    await utimes(join(cache.dir, path), then, then);
  }
  expect((await pruned({})).sort()).toEqual([
    'downloaded package cafe',
    'package index old.json',
    'record of a build old.json',
    'scratch tmp-old',
  ]);
  expect(await pruned({ maxAgeSeconds: 86400 })).toEqual(['package index new.json']);
});

test('a damaged entry goes without any limit, but not below a living child', async () => {
  const image = await entry('images', 'base');
  await entry('layers', 'kernel', { parents: [image] });
  await rm(join(cache.dir, 'layers', 'kernel', 'disk.qcow2'));
  const [, row] = (await listImages()).sort((a, b) => a.kind.localeCompare(b.kind));
  expect(row).toMatchObject({ kind: 'layer', damaged: true });
  await rm(join(image.dir, 'disk.qcow2'));
  // The damaged layer no longer says what it builds on.
  expect((await pruned({})).sort()).toEqual(['damaged base', 'damaged kernel']);

  const good = await entry('images', 'base');
  await entry('layers', 'kernel', { parents: [good] });
  await rm(join(good.dir, 'disk.qcow2'));
  expect(await pruned({})).toEqual([]);
});

test('a sparse file counts with what it takes on the disk', async () => {
  const { use } = await cached('snapshots', 'snap', async (to) => {
    await sparse(join(to, 'ram'));
    return { name: 'snap' };
  });
  await use.release();
  const [row] = await listImages();
  expect(row!.bytes).toBeGreaterThanOrEqual(MIB);
  expect(row!.bytes).toBeLessThan(2 * MIB);
});

test('an entry that was made a moment ago stays: its maker is about to use it', async () => {
  const { hash } = await entry('layers', 'fresh', { days: 0 });
  expect(await pruned({ maxBytes: 0 })).toEqual([]);
  expect((await cacheItems()).map((i) => i.hash)).toEqual([hash]);
});

test('what a newer one has taken the place of goes with what stands on it, once nothing has used it for two weeks', async () => {
  const before = await entry('images', 'old', { days: 40, name: 'd' });
  const layer = await entry('layers', 'oldlayer', { days: 39, name: 'k', parents: [before] });
  await entry('snapshots', 'oldsnap', { days: 38, name: 's', parents: [layer] });
  // The only one of its name, but what it stands on is superseded.
  await entry('layers', 'other', { days: 30, name: 'other', parents: [before] });
  // Old, and still the newest of its name.
  await entry('images', 'single', { days: 400 });
  const after = await entry('images', 'new', { days: 2, name: 'd' });
  await entry('layers', 'newlayer', { days: 1, name: 'k', parents: [after] });
  let asked = 0;
  const superseded = async (pinned: string[] = []): Promise<string[]> =>
    (
      await pruneSuperseded({ current: [], signal }, () => {
        asked += 1;
        return Promise.resolve(pinned);
      })
    ).removed.map((r) => r.name);
  expect(await superseded([join(cache.dir, 'snapshots', 'oldsnap', 'ram')])).toEqual(['other other']);
  expect(await superseded()).toEqual(['s oldsnap', 'k oldlayer', 'd old']);
  expect(await superseded()).toEqual([]);
  expect(asked).toBe(2);
  expect((await cacheItems()).map((i) => i.hash)).toEqual(['new', 'single', 'newlayer']);
});

test('an official image goes when no record names it any more', async () => {
  const folder = join(cache.dir, 'images');
  await mkdir(folder, { recursive: true });
  const old = new Date(Date.now() - 20 * 86400_000);
  for (const name of ['aa.qcow2', 'bb.qcow2']) {
    await writeFile(join(folder, name), name);
    await utimes(join(folder, name), old, old);
  }
  const pinned = (): Promise<string[]> => Promise.resolve([]);
  const { removed } = await pruneSuperseded({ current: ['bb.qcow2'], signal }, pinned);
  expect(removed.map((r) => r.name)).toEqual(['official aa.qcow2']);
  expect(await readdir(folder)).toContain('bb.qcow2');
});
