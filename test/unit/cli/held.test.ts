import { expect, test } from 'vitest';
import type { Engine, PublishResult } from '../../../src/cli/services.js';
import { matrixPlan } from '../../../src/engine/plan/matrix.js';
import type { MatrixCell } from '../../../src/model/matrix.js';
import { cell, cli, type Fake } from '../fixtures/cli-harness.js';

const RESULT: PublishResult = {
  ...{ packages: [], changed: true, removed: [], leftOut: [], kinds: ['apt'], signedBy: null },
  metapackages: [
    {
      ...{
        name: 'foo-modules-amd64',
        follows: 'linux-image-amd64',
        distro: 'debian-12',
        kernel: '6.1.0-56-amd64',
      },
      held: {
        ...{ meta: 'linux-image-amd64', release: '6.1.0-57-amd64', packageVersion: '6.1.192-3' },
        why: 'failed: foo.c:1: error\x1b[2J',
      },
    },
    {
      ...{ name: 'kmod-foo', follows: 'kernel-core', distro: 'alma-9', kernel: '5.14.0-503.el9.x86_64' },
      held: null,
    },
  ],
};

const row: MatrixCell = {
  ...{ ...cell(), source: 'foo-dkms', outcome: 'built', expected: null, signedBy: null, logTail: null },
  ...{ startedAt: null, seconds: null, worker: null },
};
const fake: Fake = {
  planRefresh: (request) =>
    Promise.resolve({
      request,
      cells: [],
      otherSources: [],
      wanted: [],
      blocked: [],
      tried: [],
      validate: false,
    }),
  refresh: () => Promise.resolve({ run: null, accelerator: null, cells: [] }),
  planMatrix: (request) => {
    const source = { kind: 'repo', text: 'foo-dkms', name: 'foo-dkms' } as const;
    const target = { release: '6.1.0-56-amd64', distro: 'debian-12', arch: 'x86_64' } as const;
    const rest = { include: [], exclude: [], expectations: [] };
    return Promise.resolve(
      matrixPlan(request, { sources: [{ source, names: [] }], targets: [target], ...rest }),
    );
  },
  matrix: () =>
    Promise.resolve({
      run: {
        ...{
          schemaVersion: 1,
          run: '20260101T000000-abcdef',
          tool: '0',
          complete: true,
          accelerators: ['tcg'],
        },
        ...{ startedAt: '2026-01-01T00:00:00Z', endedAt: '2026-01-01T00:01:00Z', kernels: [], sources: [] },
        cells: [row],
      },
      history: [],
    }),
};

test.each([['build'], ['matrix'], ['refresh'], ['repo']])(
  '%s publishes metapackages that hold or do not, and says what is held and why',
  async (command) => {
    const holds: boolean[] = [];
    const publishRepository: Engine['publishRepository'] = (_, { hold }) => {
      holds.push(hold);
      return Promise.resolve(RESULT);
    };
    const argv = command === 'repo' ? ['repo', 'out'] : [command, '--dkms', 'foo-dkms', '--repo'];
    const held = await cli(argv, { ...fake, publishRepository });
    expect(held.code, held.stderr).toBe(0);
    expect(held.stderr.split('\n').filter((line) => line.includes('waits for'))).toEqual([
      'foo-modules-amd64 waits for 6.1.0-57-amd64 (linux-image-amd64 6.1.192-3): failed: foo.c:1: error',
    ]);
    expect((await cli([...argv, '--no-hold'], { ...fake, publishRepository })).code).toBe(0);
    expect(holds).toEqual([true, false]);
  },
);
