import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { RunDir } from '../../../src/cell/run-dir.js';
import { login } from '../../../src/engine/runs.js';

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
test('a run that was kept before there was another architecture boots as x86_64', async () => {
  const run = await RunDir.create(about);
  const boot = { kind: 'direct', kernel: '/k', initrd: '/i', cmdline: '' };
  const shape = { accel: 'tcg', cpu: 'max', cpus: 1, memoryMiB: 64, egress: false, forward: false };
  await run.save({ kept: true, vm: { boot, control: 'channel', ...shape } });
  await writeFile(join(run.dir, 'disk.qcow2'), '');
  await run.close();
  const tools = join(dir, 'tools');
  await mkdir(tools);
  await writeFile(join(tools, 'setpriv'), `#!/bin/sh\necho "$@" >${join(dir, 'started')}\nexit 1\n`, {
    mode: 0o755,
  });
  vi.stubEnv('PATH', `${tools}:${process.env.PATH}`);
  await expect(login(undefined, { serial: false, signal: new AbortController().signal })).rejects.toThrow(
    'before the VM ran',
  );
  expect(await readFile(join(dir, 'started'), 'utf8')).toMatch(/[ /]qemu-system-x86_64 /);
});
