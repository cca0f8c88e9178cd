import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { CellResult } from '../../../src/model/cell.js';
import { openStore } from '../../../src/lib/object-store/index.js';
import { packDelivery, publishDelivery } from '../../../src/engine/queue/delivery.js';

const signal = new AbortController().signal;
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'd2b-delivery-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const RESULT: CellResult = {
  ...{ module: 'm', version: '1', kernel: '6.1.0-1-amd64', distro: 'debian-12', arch: 'x86_64' },
  ...{ verdict: 'built', reason: null, package: '/far/away/m.deb', log: '/far/away/m.log' },
  otherPackages: ['/far/away/common.deb'],
  ...{ phases: {}, kept: 'a run of the worker', fault: null },
};

test('what a worker made is in the out-dir, with its paths there; the second time it is up to date', async () => {
  const made = join(dir, 'made');
  const outDir = join(dir, 'out');
  await mkdir(join(made, 'a folder'), { recursive: true });
  await writeFile(join(made, 'm.deb'), 'package');
  await writeFile(join(made, 'common.deb'), 'what all kernels share');
  await writeFile(join(made, 'm.log'), 'log');
  await mkdir(join(dir, 'store'));
  const store = await openStore(join(dir, 'store'), { emit: () => undefined });
  const built = { results: [RESULT], accelerator: 'tcg', seconds: 1 };
  const delivery = await packDelivery(built, { worker: 'one', outDir: made, store, signal });
  expect(delivery.files.map(({ name }) => name)).toEqual(['common.deb', 'm.deb', 'm.log']);
  const names = { package: 'm.deb', otherPackages: ['common.deb'], log: 'm.log' };
  expect(delivery.results).toEqual([{ ...RESULT, ...names, kept: null }]);

  const place = { store, dir: join(dir, 'on the way'), outDir };
  const [first] = await publishDelivery(delivery, place);
  expect(first).toMatchObject({
    ...{ package: join(outDir, 'm.deb'), otherPackages: [join(outDir, 'common.deb')] },
    ...{ log: join(outDir, 'm.log'), reason: null },
  });
  expect(await readFile(join(outDir, 'm.deb'), 'utf8')).toBe('package');
  const [second] = await publishDelivery(delivery, place);
  expect(second?.reason).toBe('up to date');
  expect((await readdir(dir)).sort()).toEqual(['made', 'out', 'store']);
});

test('nothing is published of a delivery with a file that is not in the store', async () => {
  await mkdir(join(dir, 'store'));
  const store = await openStore(join(dir, 'store'), { emit: () => undefined });
  const delivery = {
    ...{
      results: [{ ...RESULT, package: 'm.deb', log: null, kept: null }],
      worker: 'one',
      accelerator: null,
      seconds: 1,
    },
    files: [{ name: 'm.deb', sha256: 'a'.repeat(64), size: 1 }],
  };
  const place = { store, dir: join(dir, 'on the way'), outDir: join(dir, 'out') };
  await expect(publishDelivery(delivery, place)).rejects.toMatchObject({ fault: 'not-found' });
  expect(await readdir(join(dir, 'out'))).toEqual([]);
});
