import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { MatrixRun } from '../../src/model/matrix.js';
import { missing } from '../queue/harness.js';
import { DISTRO, FIXTURES, MAIN, ROAD } from './tool.js';

/** The real thing: two workers as they are started by hand, a Redis, and VMs. */
describe.skipIf(missing !== null)(`a matrix through workers${missing ? ` (${missing})` : ''}`, () => {
  let dir = '';
  const children: ChildProcess[] = [];
  const url = (): string => `unix:${join(dir, 'redis.sock')}`;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'd2b-vmq-'));
    await mkdir(join(dir, 'redis'));
    const server = [
      '--port',
      '0',
      '--unixsocket',
      join(dir, 'redis.sock'),
      '--dir',
      join(dir, 'redis'),
      '--save',
      '',
    ];
    children.push(spawn('redis-server', server, { stdio: 'ignore' }));
    for (const name of ['one', 'two']) {
      const args = ['worker', '--queue', url(), '--store', join(dir, 'store'), '--name', name, '--jobs', '1'];
      const more = ['--distro', DISTRO];
      const env = { ...process.env, DKMS2BIN_STATE: join(dir, name) };
      children.push(spawn(process.execPath, [MAIN, ...args, ...more], { env, stdio: 'inherit' }));
    }
  });

  afterAll(async () => {
    for (const child of children.reverse()) {
      const gone = new Promise((resolve) => child.once('close', resolve));
      child.kill('SIGTERM');
      if (child.exitCode === null) await gone;
    }
    await rm(dir, { recursive: true, force: true });
  });

  test('verdicts, packages and logs are those of a build here', async () => {
    const out = join(dir, 'out');
    const sources = ['tiny', 'broken'].flatMap((name) => ['--dkms', join(FIXTURES, name)]);
    const where = ['--kernel', 'latest', ...ROAD, '--no-verify', '--out-dir', out];
    const queue = ['--queue', url(), '--store', join(dir, 'store'), '--json'];
    const env = { DKMS2BIN_STATE: join(dir, 'state') };
    const { stdout, exitCode } = await execa(
      process.execPath,
      [MAIN, 'matrix', ...sources, ...where, ...queue],
      {
        ...{ env, reject: false, stderr: 'inherit' },
      },
    );
    expect(exitCode).toBe(1);
    const { cells } = JSON.parse(stdout) as MatrixRun;
    expect(cells.map(({ verdict, worker }) => [verdict, worker]).sort()).toEqual([
      ['built', expect.stringMatching(/^(one|two)$/)],
      ['failed', expect.stringMatching(/^(one|two)$/)],
    ]);
    expect(new Set(cells.map(({ worker }) => worker)).size).toBe(2);
    const names = await readdir(out);
    expect(names.filter((name) => name.endsWith('.deb'))).toHaveLength(1);
    expect(names.filter((name) => name.endsWith('.log'))).toHaveLength(2);
    expect(
      names.filter((name) => name.endsWith('.intoto.jsonl') || name.includes('provenance')),
    ).toHaveLength(1);
  });
});
