import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { RunDir } from '../../../src/cell/run-dir.js';
import { listImages, pruneImages } from '../../../src/engine/images.js';
import { removeRun } from '../../../src/engine/runs.js';
import { entry, ownCache, signal } from './fixture.js';

const cache = ownCache();

test('the snapshot under the disk of a kept run stays until the run is removed', async () => {
  vi.stubEnv('DKMS2BIN_STATE', join(cache.dir, 'state'));
  const layer = await entry('layers', 'kernel');
  const snap = await entry('snapshots', 'snap', { parents: [layer] });
  await entry('layers', 'other');
  const run = await RunDir.create({ cell: 'm × k', kernel: 'k', distro: 'debian-12' });
  await run.save({ kept: true, vm: { backings: [join(snap.dir, 'disk.qcow2')] } });
  await run.close();

  expect((await listImages()).filter((i) => i.inUse).map((i) => i.kind)).toHaveLength(2);
  const prune = async (): Promise<string[]> =>
    (await pruneImages({ maxBytes: 0, dryRun: false, signal })).removed.map((r) => r.name);
  expect(await prune()).toEqual(['other other']);
  await removeRun(run.record.id);
  expect(await prune()).toEqual(['snap snap', 'kernel kernel']);
});
