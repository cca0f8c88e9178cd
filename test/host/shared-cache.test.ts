import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Event } from '../../src/model/events.js';
import { run } from '../../src/lib/exec.js';
import { cached, contentDigest, type Entry } from '../../src/cache/entries.js';
import { openSharedCache } from '../../src/cache/shared.js';
import { ownCache } from './cache-fixture.js';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';

const cache = ownCache();
const HASH = 'ab'.repeat(16);

async function layers(store: string): Promise<{ entry: Entry; made: string[]; notes: string[] }> {
  const made: string[] = [];
  const events: Event[] = [];
  const { signal } = new AbortController();
  const shared = await openSharedCache(store, { emit: (event) => void events.push(event), signal });
  const image = await cached(
    'images',
    HASH,
    async (dir) => {
      made.push('image');
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', join(dir, 'disk.qcow2'), '4M']);
      return { name: 'image' };
    },
    { signal, shared },
  );
  const entry = await cached(
    'layers',
    HASH,
    async (dir) => {
      made.push('layer');
      const backing = join(image.dir, 'disk.qcow2');
      await run('qemu-img', [
        'create',
        '-q',
        '-f',
        'qcow2',
        '-F',
        'qcow2',
        '-b',
        backing,
        join(dir, 'disk.qcow2'),
      ]);
      await writeFile(join(dir, 'vmlinuz'), 'kernel');
      return { name: 'layer', parents: [{ kind: 'images', hash: HASH }] };
    },
    { signal, shared },
  );
  await image.use.release();
  await entry.use.release();
  const notes = events.flatMap((event) => (event.type === 'note' ? [`${event.level} ${event.message}`] : []));
  return { entry, made, notes };
}

test('what one machine made another one fetches; what is spoilt is made again', async () => {
  const store = await mkdtemp(join(tmpdir(), 'dk2b-layers-'));
  try {
    const first = await layers(store);
    expect(first.made).toEqual(['image', 'layer']);
    // Another machine's cache lies elsewhere.
    const before = cache.dir;
    const elsewhere = await mkdtemp(join(tmpdir(), 'dk2b-other-'));
    process.env.DKMS2BIN_CACHE = elsewhere;
    try {
      const second = await layers(store);
      expect(second.made, second.notes.join('\n')).toEqual([]);
      expect(second.entry.dir).toContain(elsewhere);
      expect(second.entry.meta.created).toBe(first.entry.meta.created);
      expect(await readFile(join(second.entry.dir, 'vmlinuz'), 'utf8')).toBe('kernel');
      const disk = join(second.entry.dir, 'disk.qcow2');
      const { stdout } = await run('qemu-img', ['info', '--output=json', disk]);
      expect((JSON.parse(stdout) as { 'full-backing-filename': string })['full-backing-filename']).toBe(
        join(elsewhere, 'images', HASH, 'disk.qcow2'),
      );
      const { digests } = second.entry.meta as { digests: Record<string, string> };
      expect(await contentDigest(disk)).toBe(digests['disk.qcow2']);

      await rm(join(elsewhere, 'layers'), { recursive: true });
      for (const name of await readdir(join(store, 'sha256'), { recursive: true })) {
        if (name.length > 60) await writeFile(join(store, 'sha256', name), 'spoilt');
      }
      const third = await layers(store);
      expect(third.made).toEqual(['layer']);
      expect(third.notes.join('\n')).toMatch(
        /^warn layers abababababab of .* cannot be used, so it is made here: /m,
      );
    } finally {
      process.env.DKMS2BIN_CACHE = before;
      await rm(elsewhere, { recursive: true, force: true });
    }
  } finally {
    await rm(store, { recursive: true, force: true });
  }
});
