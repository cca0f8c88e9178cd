// got looks into Node's TLS sockets as it is loaded, and failed there when tests had run in the same process before.
import 'got';
import childProcess from 'node:child_process';
import { syncBuiltinESMExports } from 'node:module';
import { afterEach, expect, vi } from 'vitest';

vi.mock('../../src/lib/lock.js', () => import('./fixtures/lock.js'));

/** What was refused since the last test: the code under test may have caught the error. */
const refused: string[] = [];

for (const name of ['spawn', 'spawnSync', 'exec', 'execSync', 'execFile', 'execFileSync', 'fork'] as const)
  childProcess[name] = ((program: string) => {
    refused.push(program);
    throw new Error(`Unit tests start no programs, but this one wants ${program}: it belongs in test/host`);
  }) as never;
syncBuiltinESMExports();

afterEach(() => {
  expect(refused.splice(0), 'unit tests start no programs: this one belongs in test/host').toEqual([]);
});
