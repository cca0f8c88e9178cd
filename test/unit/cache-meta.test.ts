import { expect, test } from 'vitest';
import { EntryMeta } from '../../src/cache/entries.js';

const meta = { created: '2026-01-02T03:04:05.000Z', sizes: { disk: 1 }, digests: { disk: 'ab' } };

test("an entry's record keeps what its maker added", () => {
  expect(EntryMeta.parse({ ...meta, name: 'kernel', cmdline: 'ro' })).toEqual({
    ...meta,
    name: 'kernel',
    cmdline: 'ro',
    parents: [],
  });
});

// A shared cache's record names files of this machine: nothing in it may lead out of the cache.
test.each(['../../etc/passwd', '/etc/passwd', 'a/b', '..', '', 'ab.raw'])(
  'no parent is called %j',
  (hash) => {
    const parents = [{ kind: 'images', hash }];
    expect(EntryMeta.safeParse({ ...meta, parents }).success).toBe(false);
  },
);

test('a record without sizes, or with a size that is no number, is none', () => {
  expect(EntryMeta.safeParse({ ...meta, sizes: undefined }).success).toBe(false);
  expect(EntryMeta.safeParse({ ...meta, sizes: { disk: '1' } }).success).toBe(false);
});
