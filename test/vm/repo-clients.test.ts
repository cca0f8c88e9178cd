import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { serveRepository } from '../../src/repo/index.js';
import { Apt } from '../host/fixtures/apt.js';
import { addDeb, makeKey, publishQuietly, tempFolder } from '../unit/fixtures/repository.js';

// Needs no VM, but minutes: real dates, each publication in a second of its own.

let tmp: ReturnType<typeof tempFolder>;
beforeEach(() => (tmp = tempFolder()));
afterEach(() => tmp.remove());

test('a hundred publications under three clients that update without end: no mismatch', async () => {
  const dir = join(tmp.path, 'out');
  mkdirSync(dir);
  const { key } = await makeKey(tmp.path);
  addDeb(dir, 'foo', '0');
  await publishQuietly(dir, { key });
  await using served = await serveRepository(dir);
  let done = false;
  const publisher = (async () => {
    try {
      for (let version = 1; version <= 100; version++) {
        addDeb(dir, 'foo', String(version));
        await publishQuietly(dir, { key, keep: 50 });
      }
    } finally {
      done = true;
    }
  })();
  // The first starts from nothing each time, the others keep what they have.
  const clients = [true, false, false].map(async (fresh, i) => {
    const apt = new Apt(join(tmp.path, `apt${i}`));
    apt.sources(`deb [signed-by=${join(dir, 'dkms2bin-archive-keyring.asc')}] ${served.url} ./\n`);
    let updates = 0;
    for (let last = false; !last; updates++) {
      last = done;
      if (fresh) {
        rmSync(join(apt.root, 'state/lists'), { recursive: true });
        mkdirSync(join(apt.root, 'state/lists/partial'), { recursive: true });
      }
      const { code, text } = await apt.get('update');
      expect([code, /^[WE]:.*/m.exec(text)?.[0]]).toEqual([0, undefined]);
    }
    expect((await apt.cache('policy', 'foo')).text).toContain('Candidate: 100\n');
    return updates;
  });
  await publisher;
  for (const updates of await Promise.all(clients)) expect(updates).toBeGreaterThan(10);
});
