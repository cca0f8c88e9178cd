import { describe, expect, test } from 'vitest';
import type { KernelTarget } from '../../../src/model/cell.js';
import type { MatrixRun, Outcome } from '../../../src/model/matrix.js';
import { parseConfig } from '../../../src/options/config.js';
import {
  expectedOf,
  matrixPlan,
  notRun,
  outcomeOf,
  recordedSeconds,
  type MatrixInput,
  type MatrixPlan,
} from '../../../src/engine/plan/matrix.js';
import type { NamedSource } from '../../../src/engine/plan/refresh.js';
import type { BuildRequest } from '../../../src/options/request.js';
import { cell } from '../fixtures/cli-harness.js';

const REQUEST = { image: 'auto', nameStyle: 'release' } as BuildRequest;
const repo = (name: string): NamedSource => ({
  source: { kind: 'repo', text: name, name },
  names: [name.replace(/-dkms$/, '')],
});
const folder = (path: string, names: string[]): NamedSource => ({
  source: { kind: 'folder', text: path, path },
  names,
});
const kernel = (release: string, distro = 'debian-12'): KernelTarget => ({ release, distro, arch: 'x86_64' });

const [ACPI, TWINS] = [repo('acpi-call-dkms'), folder('./src/twins', ['left', 'right'])];
const [K9, K10, D13] = [
  kernel('6.1.0-9-amd64'),
  kernel('6.1.0-10-amd64'),
  kernel('6.12.1+deb13-amd64', 'debian-13'),
];

function plan(input: Partial<MatrixInput>): MatrixPlan {
  const none = { include: [], exclude: [], expectations: [] };
  return matrixPlan(REQUEST, { sources: [ACPI, TWINS], targets: [K9, D13, K10], ...none, ...input });
}
const names = ({ cells }: MatrixPlan): string[] => cells.map((c) => `${c.source} ${c.kernel}`);

describe('plan', () => {
  test('by distro, the newest kernel first, each cell once', () => {
    const { sources, kernels, ...made } = plan({ sources: [ACPI, TWINS, ACPI], targets: [K9, D13, K10, K9] });
    expect(names(made as MatrixPlan)).toEqual([
      ...['acpi-call-dkms 6.1.0-10-amd64', './src/twins 6.1.0-10-amd64'],
      ...['acpi-call-dkms 6.1.0-9-amd64', './src/twins 6.1.0-9-amd64'],
      ...['acpi-call-dkms 6.12.1+deb13-amd64', './src/twins 6.12.1+deb13-amd64'],
    ]);
    expect(sources).toEqual(['acpi-call-dkms', './src/twins']);
    expect(kernels.map(({ release }) => release)).toEqual([
      ...['6.1.0-10-amd64', '6.1.0-9-amd64', '6.12.1+deb13-amd64'],
    ]);
  });

  test.each([
    [{ module: 'acpi-call' }, 3],
    [{ module: 'acpi-call-dkms', kernel: '6.1.0-*' }, 4],
    [{ module: 'twins' }, 3],
    [{ module: 'left', distro: 'debian-13' }, 5],
    [{ kernel: '6.1.0-1?-amd64' }, 4],
    [{ kernel: '6.1.0-1' }, 6],
  ])('exclude %j leaves %i cells', (pattern, left) => {
    const { cells, idle } = plan({ exclude: [pattern] });
    expect(cells).toHaveLength(left);
    // What fits nothing is told.
    expect(idle).toHaveLength(left === 6 ? 1 : 0);
  });

  test('what is included is there though excluded, and what loses all its cells is not named', () => {
    const made = plan({
      exclude: [{ module: 'twins' }, { distro: 'debian-13' }],
      include: [{ source: TWINS, target: K9 }],
    });
    expect(names(made)).toEqual([
      ...['acpi-call-dkms 6.1.0-10-amd64', 'acpi-call-dkms 6.1.0-9-amd64', './src/twins 6.1.0-9-amd64'],
    ]);
    expect(made.kernels.map(({ distro }) => distro)).toEqual(['debian-12', 'debian-12']);
  });

  test('an included source or kernel does not multiply', () => {
    const made = plan({
      ...{ sources: [ACPI], targets: [K9] },
      include: [{ source: TWINS, target: D13 }],
    });
    expect(names(made)).toEqual(['acpi-call-dkms 6.1.0-9-amd64', './src/twins 6.12.1+deb13-amd64']);
  });

  test('nothing left is a mistake', () => {
    expect(() => plan({ exclude: [{ module: '*' }] })).toThrow(/no cell/);
  });

  test('an expectation that matches no cell is named', () => {
    const expectations = [{ module: 'gone', kernel: '6.1.0-9-*', reason: 'r' }];
    expect(plan({ expectations }).idle).toEqual([
      'expect-failure of module gone, kernel 6.1.0-9-* matches no cell',
    ]);
  });
});

test('one module of a source may be expected to fail, or all of them', () => {
  const made = plan({
    expectations: [
      { module: 'left', reason: 'one' },
      { module: 'twins', distro: 'debian-13', reason: 'all' },
    ],
  });
  const of = (distro: string): (string | null)[] => {
    const twins = made.cells.find((each) => each.source === './src/twins' && each.distro === distro)!;
    return ['left', 'right'].map((module) => expectedOf(made, twins, module));
  };
  expect(of('debian-12')).toEqual(['one', null]);
  expect(of('debian-13')).toEqual(['one', 'all']);
});

test.each<[Parameters<typeof cell>[0], string | null, Outcome]>([
  [{}, null, 'built'],
  [{}, 'known', 'unexpected-pass'],
  [{ reason: 'up to date', phases: {} }, null, 'up-to-date'],
  [{ reason: 'up to date', phases: {} }, 'known', 'unexpected-pass'],
  [{ reason: 'up to date', phases: { boot: 1, build: 2 } }, null, 'built'],
  [{ verdict: 'failed' }, null, 'failed'],
  [{ verdict: 'failed' }, 'known', 'expected-failure'],
  [{ verdict: 'error' }, 'known', 'error'],
  [{ verdict: 'skipped' }, 'known', 'skipped'],
])('%j, expected to fail: %s, counts as %s', (values, expected, outcome) => {
  expect(outcomeOf(cell(values), expected)).toBe(outcome);
});

test('recorded times: the newest of the same kernel, else of the same distro, else any; none of what was not built', () => {
  const made = plan({});
  const run = (id: string, times: [string, KernelTarget, number, string | null][]): MatrixRun =>
    ({
      run: id,
      cells: times.map(([source, { release, distro }, seconds, worker]) => ({
        ...notRun(made, made.cells[0]!),
        ...{ source, kernel: release, distro, seconds, worker },
      })),
    }) as MatrixRun;
  const seconds = recordedSeconds([
    run('1', [
      ['acpi-call-dkms', K9, 10, 'here'],
      ['acpi-call-dkms', D13, 99, 'here'],
    ]),
    run('2', [
      ['acpi-call-dkms', K9, 20, 'here'],
      ['acpi-call-dkms', K10, 0.1, null],
      ['./src/twins', K9, 0.1, null],
    ]),
  ]);
  const of = (source: string, target: KernelTarget): number | null =>
    seconds(made.cells.find((each) => each.source === source && each.kernel === target.release)!);
  expect([K9, K10, D13].map((target) => of('acpi-call-dkms', target))).toEqual([20, 20, 99]);
  expect(of('./src/twins', K9)).toBeNull();
});

test.each([
  ['matrix:\n  expect-failure:\n    - module: x\n', /:3: matrix\.expect-failure\.0\.reason/],
  ['matrix:\n  exclude:\n    - kernel: 6.1\n    - {}\n', /:4: matrix\.exclude\.1: names neither/],
  ['matrix:\n  kernel: latest\n', /:2: unknown key matrix\.kernel; did you mean kernels/],
  ['matrix:\n  include:\n    - module: x\n', /matrix\.include\.0\.kernel/],
  ['matrix:\n  exclude:\n    - module: "[z-a]"\n', /matrix\.exclude\.0\.module: not a pattern/],
])('the config file says where a mistake is: %j', (text, message) => {
  expect(() => parseConfig(text)).toThrow(message);
});
