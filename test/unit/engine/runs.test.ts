import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { RunDir } from '../../../src/cell/run-dir.js';
import { listRuns, login, removeRun } from '../../../src/engine/runs.js';

let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dk2b-runs-'));
  vi.stubEnv('DKMS2BIN_STATE', dir);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true, force: true });
});

const about = { cell: 'x × 6.1.0-1-amd64', kernel: '6.1.0-1-amd64', distro: 'debian-12' };
const left = (): Promise<string[]> => readdir(join(dir, 'runs'));

test('a run is listed while it runs, gone when it ends, and stays when kept', async () => {
  const run = await RunDir.create(about);
  expect(await listRuns()).toMatchObject([{ id: run.record.id, state: 'running', kernel: about.kernel }]);
  await run.close();
  expect(await left()).toEqual([]);

  const kept = await RunDir.create(about);
  await kept.save({ kept: true });
  await kept.close();
  expect(await listRuns()).toMatchObject([{ id: kept.record.id, state: 'kept' }]);
});

test('rm removes a kept run with all that is in it, and refuses one in use', async () => {
  const run = await RunDir.create(about);
  await writeFile(join(run.dir, 'disk.qcow2'), 'disk');
  await run.save({ kept: true });
  await expect(removeRun(run.record.id)).rejects.toThrow('in use');
  await run.close();
  await removeRun(run.record.id);
  expect(await left()).toEqual([]);
  await expect(removeRun(run.record.id)).rejects.toMatchObject({ exitCode: 2 });
});

test('the folder and the sockets of a run that was killed go with the next look', async () => {
  const sockets = await mkdtemp(join(tmpdir(), 'dk2b-sock-'));
  const stale = join(dir, 'runs', '20200101T000000-abcdef');
  await mkdir(stale, { recursive: true });
  const record = { id: '20200101T000000-abcdef', ...about, created: '', kept: false, vm: null };
  await writeFile(
    join(stale, 'run.json'),
    JSON.stringify({ ...record, live: { socketDir: sockets, sshPort: 1 } }),
  );
  expect(await listRuns()).toEqual([]);
  expect(await left()).toEqual([]);
  await expect(readdir(sockets)).rejects.toThrow('ENOENT');
});

test('login without a kept run says how to get one', async () => {
  const attempt = login(undefined, { serial: false, signal: new AbortController().signal });
  await expect(attempt).rejects.toMatchObject({
    exitCode: 2,
    hint: expect.stringContaining('--debug') as string,
  });
});
