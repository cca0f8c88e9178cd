import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { chooseFollowers, type Followers } from '../../../src/engine/prove-upgrade.js';
import { makeDeb } from '../../../src/pack/deb.js';
import { makeMetapackage, type Following } from '../../../src/pack/metapackage.js';
import { readOfferedPackages } from '../../../src/repo/index.js';
import { publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';

const [FROM, TO] = ['6.1.0-56-amd64', '6.1.0-57-amd64'];

let tmp: ReturnType<typeof tempFolder>;
beforeEach(() => {
  tmp = tempFolder();
});
afterEach(() => tmp.remove());

function module(name: string, release: string): void {
  const bytes = makeDeb({
    control: {
      ...{ package: `${name}-modules-${release}`, version: '1.2', architecture: 'amd64', section: 'kernel' },
      ...{ priority: 'optional', maintainer: 'A Person <person@example.org>' },
      description: { synopsis: name, lines: [] },
    },
    ...{ files: [], scripts: {}, mtime: 0 },
  });
  writeFileSync(join(tmp.path, `${name}-modules-${release}.deb`), bytes);
}

function meta(module: string, more: Partial<Following> = {}, hold = true): void {
  const following: Following = {
    ...{ distro: 'debian-12', arch: 'x86_64', module, meta: 'linux-image-amd64', backports: false },
    ...{ release: TO, moduleVersion: '1.2', upTo: '6.1.192-3', ...more },
  };
  const { file, bytes } = makeMetapackage(following, { hold, mtime: 0 });
  writeFileSync(join(tmp.path, file), bytes);
}

async function choose(...modules: string[]): Promise<Followers> {
  await publishQuietly(tmp.path);
  const offer = await readOfferedPackages(tmp.path);
  const { signal } = new AbortController();
  return chooseFollowers({ dir: tmp.path, offer }, { from: FROM, to: TO }, { modules, signal });
}

test('the metapackages that lead from one kernel to the other, all or those asked for', async () => {
  for (const name of ['foo', 'bar-baz']) {
    for (const release of [FROM, TO]) module(name, release);
    meta(name);
  }
  // Not on the way: of one kernel alone, of backports, and as it was before.
  module('only-new', TO);
  meta('only-new');
  meta('foo', { backports: true });
  meta('foo', { release: FROM, upTo: '6.1.192-2' });
  // Of an earlier build of the same release.
  meta('foo', { upTo: '6.1.192-3~rc1' });
  const names = ({ each }: Followers): string[] => each.map(({ name }) => name).sort();
  const all = await choose();
  expect(all).toMatchObject({ meta: 'linux-image-amd64', toVersion: '6.1.192-3' });
  expect(names(all)).toEqual(['bar-baz-modules-amd64', 'foo-modules-amd64']);
  const [one] = (await choose('bar_baz')).each;
  expect(one).toMatchObject({
    ...{ name: 'bar-baz-modules-amd64', from: { name: `bar-baz-modules-${FROM}` } },
    to: { name: `bar-baz-modules-${TO}` },
  });
  await expect(choose('only-new')).rejects.toMatchObject({ fault: 'not-found' });
});

test('one that holds nothing proves nothing', async () => {
  for (const release of [FROM, TO]) module('foo', release);
  meta('foo', {}, false);
  await expect(choose()).rejects.toThrow('foo-modules-amd64 was published with --no-hold');
});
