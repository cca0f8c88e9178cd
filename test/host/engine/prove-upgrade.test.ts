import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { chooseFollowers } from '../../../src/engine/prove-upgrade.js';
import { stageAfter, stageBefore, type Followers } from '../../../src/engine/upgrade-stage.js';
import { makeDeb } from '../../../src/pack/deb.js';
import { makeMetapackage, type Following } from '../../../src/pack/metapackage.js';
import { readOfferedPackages, serveRepository } from '../../../src/repo/index.js';
import { makeKey, publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';
import { Apt } from '../fixtures/apt.js';
import { hasTool } from '../fixtures/has-tool.js';

const [FROM, TO] = ['6.1.0-56-amd64', '6.1.0-57-amd64'];

let tmp: ReturnType<typeof tempFolder>;
beforeEach(() => {
  tmp = tempFolder();
});
afterEach(() => tmp.remove());

function module(name: string, release: string, dir = tmp.path): void {
  const bytes = makeDeb({
    control: {
      ...{ package: `${name}-modules-${release}`, version: '1.2', architecture: 'amd64', section: 'kernel' },
      ...{ priority: 'optional', maintainer: 'A Person <person@example.org>' },
      description: { synopsis: name, lines: [] },
    },
    ...{ files: [], scripts: {}, mtime: 0 },
  });
  writeFileSync(join(dir, `${name}-modules-${release}.deb`), bytes);
}

function meta(module: string, more: Partial<Following> = {}, hold = true, dir = tmp.path): void {
  const following: Following = {
    ...{ distro: 'debian-12', arch: 'x86_64', module, meta: 'linux-image-amd64', backports: false },
    ...{ release: TO, moduleVersion: '1.2', upTo: '6.1.192-3', ...more },
  };
  const { file, bytes } = makeMetapackage(following, { hold, mtime: 0 });
  writeFileSync(join(dir, file), bytes);
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

test.for(['signed', 'unsigned'])(
  'apt takes the repository as it is published after the one before it, %s',
  async (how, { skip }) => {
    if (!hasTool('apt-get')) skip('apt-get is not installed');
    const [dir, stage] = [join(tmp.path, 'repo'), join(tmp.path, 'stage')];
    for (const each of [dir, stage]) mkdirSync(each);
    for (const release of [FROM, TO]) module('foo', release, dir);
    meta('foo', {}, true, dir);
    const { key } = await makeKey(tmp.path);
    await publishQuietly(dir, how === 'signed' ? { key } : {});
    const offer = await readOfferedPackages(dir);
    const { signal } = new AbortController();
    const follow = await chooseFollowers({ dir, offer }, { from: FROM, to: TO }, { modules: [], signal });
    const staged = { dir, offer, follow, from: FROM, to: TO, stage };
    // Some time has gone by since it was published.
    await setTimeout(1100);
    await stageBefore(staged, { fromVersion: '6.1.192-2', emit: () => undefined, signal });
    await using served = await serveRepository(stage);
    const apt = new Apt(join(tmp.path, 'apt'));
    const versions = async (sources: string): Promise<string[]> => {
      apt.sources(sources);
      const { code, text } = await apt.get('update');
      expect(code, text).toBe(0);
      const shown = await apt.cache('search', '--names-only', '^foo-modules');
      const { text: policy } = await apt.cache('policy', 'foo-modules-amd64');
      return [
        /Candidate: (\S+)/.exec(policy)?.[1] ?? '',
        ...shown.text.split('\n').map((line) => line.split(' ')[0] ?? ''),
      ]
        .filter((each) => each !== '')
        .sort();
    };
    expect(await versions(`deb [trusted=yes] ${served.url} ./\n`)).toEqual([
      ...['1.2-6.1.192.2', `foo-modules-${FROM}`, 'foo-modules-amd64'],
    ]);
    // To HTTP, files of one second are the same.
    await setTimeout(1100);
    await stageAfter(staged);
    const trust = how === 'signed' ? `signed-by=${join(dir, 'dkms2bin-archive-keyring.asc')}` : 'trusted=yes';
    expect(await versions(`deb [${trust}] ${served.url} ./\n`)).toEqual([
      ...['1.2-6.1.192.3', `foo-modules-${FROM}`, `foo-modules-${TO}`, 'foo-modules-amd64'],
    ]);
  },
);
