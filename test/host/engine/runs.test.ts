import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { RunDir } from '../../../src/cell/run-dir.js';
import { login } from '../../../src/engine/runs.js';
import { messageOf } from '../../../src/model/errors.js';
import { corpus } from '../../hostile/corpus.js';

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
const BOOTS = {
  ...{ boot: { kind: 'direct', vmlinuz: '/k', initrd: '/i', cmdline: '' }, control: 'channel' },
  ...{ accel: 'tcg', cpu: 'max', cpus: 1, memoryMiB: 64, egress: true, forward: false },
  ...{ arch: 'x86_64', network: 'login' },
};
const asked = (): Promise<void> => login(undefined, { serial: false, signal: new AbortController().signal });

/** A kept run whose disk builds on a base beside it; `recorded`: what its record says. */
async function kept(recorded: (base: string) => object): Promise<string> {
  const run = await RunDir.create(about);
  const base = join(run.dir, 'base.qcow2');
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', base, '1M']);
  const args = ['-F', 'qcow2', '-b', base, join(run.dir, 'disk.qcow2')];
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...args]);
  await run.save({ kept: true, vm: { ...BOOTS, ...recorded(base) } });
  await run.close();
  return run.dir;
}

/** A program in the place of those that start VMs; resolves to what it was called with, '' for not at all. */
async function instead(): Promise<() => Promise<string>> {
  const tools = join(dir, 'tools');
  const started = join(dir, 'started');
  await mkdir(tools);
  await writeFile(join(tools, 'setpriv'), `#!/bin/sh\necho "$@" >${started}\nexit 1\n`, { mode: 0o755 });
  vi.stubEnv('PATH', `${tools}:${process.env.PATH}`);
  return () => readFile(started, 'utf8').catch(() => '');
}

test('a kept run boots as its record says, and its network leads nowhere', async () => {
  await kept((base) => ({ backings: [base] }));
  const started = await instead();
  await expect(asked()).rejects.toThrow('before the VM ran');
  expect(await started()).toMatch(/[ /]qemu-system-x86_64 /);
  expect((await started()).match(/user,id=\S+restrict=on/g)).toHaveLength(2);
});

test('a kept run that does not say what its disk builds on is not booted', async () => {
  await kept(() => ({}));
  const started = await instead();
  await expect(asked()).rejects.toMatchObject({
    fault: 'usage',
    hint: expect.stringContaining('rm') as string,
  });
  expect(await started()).toBe('');
});

interface Row {
  what: string;
  does: string;
  answer: string;
}
describe('a kept disk, written by a QEMU that its guest took over', () => {
  test.each(corpus<Row>('kept-disks').map((row) => [row.what, row] as const))('%s', async (_, row) => {
    const folder = await kept((base) => ({ backings: [base] }));
    await writeFile(join(folder, 'secret'), 'a private key');
    const rebase = 'rebase() { qemu-img rebase -q -u -f qcow2 -F raw -b "$1" disk.qcow2; }';
    execFileSync('bash', ['-ec', `${rebase}\n${row.does}`], {
      cwd: folder,
      env: { ...process.env, DIR: folder },
    });
    const started = await instead();
    const error: unknown = await asked().catch((each: unknown) => each);
    if (row.answer === 'taken') {
      expect(await started()).toMatch(/ disk.qcow2 |file=\S+disk.qcow2/);
      return;
    }
    expect(error).toMatchObject({ fault: 'host' });
    expect(messageOf(error)).toMatch(new RegExp(row.answer));
    expect(messageOf(error)).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
    expect(await started()).toBe('');
  });
});
