import { expect, test } from 'vitest';
import { cli } from '../fixtures/cli-harness.js';

const fake = {
  listDistros: () => Promise.resolve(['debian-12', 'debian-13', 'rocky-9']),
  listKernels: (distro: string | undefined, { offline }: { offline?: boolean | undefined }) => {
    if (!offline) throw new Error('the network is not asked');
    const all = ['6.1.0-56-amd64', '6.12.9-amd64'].map((release) => ({
      ...{ release, distro: 'debian-12', packageVersion: '1', suite: 's' },
    }));
    return Promise.resolve(distro === 'rocky-9' ? [] : all);
  },
  listRuns: () =>
    Promise.resolve(
      ['run-1', 'run-2'].map((id) => ({
        ...{ id, cell: 'm', kernel: 'k', distro: 'd', created: '', bytes: 0, state: 'kept' as const },
      })),
    ),
};
const words = async (...typed: string[]): Promise<string[]> => {
  const { code, stdout } = await cli(['complete', '--', ...typed], fake);
  expect(code).toBe(0);
  return stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => line.split('\t')[0] ?? '');
};

test.each<[string[], string[]]>([
  [['ma'], ['matrix']],
  [
    ['images', ''],
    ['list', 'prune', 'verify', 'warm', 'update'],
  ],
  [['images', 'pr'], ['prune']],
  [['--accel', 'k'], ['kvm']],
  [['--accel=t'], ['--accel=tcg']],
  [
    ['build', '--accel', '=', ''],
    ['auto', 'kvm', 'tcg'],
  ],
  [
    ['--accel', '='],
    ['auto', 'kvm', 'tcg'],
  ],
  [
    ['--name-style', ''],
    ['release', 'dkms'],
  ],
  [
    ['matrix', '--distro', 'deb'],
    ['debian-12', 'debian-13'],
  ],
  [
    ['--kernel', '6.1'],
    ['6.1.0-56-amd64', '6.12.9-amd64'],
  ],
  [['--kernel', 'l'], ['latest']],
  [['bisect', '--good', 'l'], []],
  [['--distro', 'rocky-9', '--kernel', '6'], []],
  [
    ['login', ''],
    ['run-1', 'run-2'],
  ],
  [['login', 'run-1', ''], []],
  [['rm', 'run-1', ''], ['run-2']],
  [['inspect', ''], [':files']],
  [['--out-dir', ''], [':files']],
  [['completion', 'z'], ['zsh']],
  [
    ['images', 'prune', '--m'],
    ['--max-size', '--max-age'],
  ],
  [['--no-v'], ['--no-verify']],
  [['kernels', '--offline', '--off'], []],
  [['--dkms', 'a', '--dk'], ['--dkms']],
  [['nonsense', 'more', ''], []],
])('%j', async (typed, expected) => {
  expect(await words(...typed)).toEqual(expected);
});

test('a source that fails is silence, not an error in the middle of a prompt', async () => {
  const { code, stdout, stderr } = await cli(['complete', '--', 'login', ''], {});
  expect([code, stdout, stderr]).toEqual([0, '', '']);
});

test('it is not in the help, and completion is', async () => {
  const { stdout } = await cli(['--help']);
  expect(stdout).toMatch(/^ {2}completion /m);
  expect(stdout).not.toMatch(/^ {2}complete /m);
});
