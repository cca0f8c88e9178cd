import type { CellResult } from '../../src/model/cell.js';
import type { MatrixCell, MatrixKernel, MatrixRun, Outcome } from '../../src/model/matrix.js';

const FAULT: Partial<Record<Outcome, CellResult['fault']>> = { failed: 'module', error: 'transient' };
const VERDICT: Record<Outcome, MatrixCell['verdict']> = {
  built: 'built',
  'up-to-date': 'built',
  skipped: 'skipped',
  'expected-failure': 'failed',
  'unexpected-pass': 'built',
  failed: 'failed',
  error: 'error',
  'not-run': null,
};

export function kernel(release: string, distro = 'debian-12'): MatrixKernel {
  return { release, distro, arch: 'x86_64', packageVersion: `${release.split('-')[0]}-1` };
}

export function cell(
  module: string,
  on: MatrixKernel,
  outcome: Outcome,
  more: Partial<MatrixCell> = {},
): MatrixCell {
  const built = outcome === 'built' || outcome === 'up-to-date' || outcome === 'unexpected-pass';
  const ran = outcome !== 'not-run' && outcome !== 'up-to-date';
  return {
    source: `${module.replaceAll('_', '-')}-dkms`,
    module,
    version: '1.2.3',
    kernel: on.release,
    distro: on.distro,
    arch: on.arch,
    verdict: VERDICT[outcome],
    reason: null,
    package: built ? `/srv/out/${module}-modules-${on.release}_1.2.3_amd64.deb` : null,
    log: ran ? `/srv/out/${module}-modules-${on.release}_1.2.3_amd64.log` : null,
    phases: ran ? { layer: 0.4, boot: 1.1, push: 0.6, build: 48.2, pack: 0.9, verify: 7.3 } : {},
    kept: null,
    fault: FAULT[outcome] ?? null,
    outcome,
    expected:
      outcome === 'expected-failure' || outcome === 'unexpected-pass'
        ? 'not ported to this kernel yet'
        : null,
    signedBy: null,
    logTail: null,
    startedAt: ran ? '2026-03-02T03:10:00.000Z' : null,
    seconds: ran ? 58.5 : null,
    worker: ran ? 'build-1' : null,
    ...more,
  };
}

/** A run of the night of 2026-03-`day`. Kernels and sources are those of the cells unless given. */
export function run(
  day: number,
  kernels: MatrixKernel[],
  cells: MatrixCell[],
  more: Partial<MatrixRun> = {},
): MatrixRun {
  const date = `2026-03-${String(day).padStart(2, '0')}`;
  return {
    schemaVersion: 1,
    run: `${date.replaceAll('-', '')}T030000-abcd`,
    tool: '0.1.0',
    startedAt: `${date}T03:00:00.000Z`,
    endedAt: `${date}T04:05:09.000Z`,
    complete: true,
    accelerators: ['tcg'],
    kernels,
    sources: [...new Set(cells.map(({ source }) => source))],
    cells,
    ...more,
  };
}

/** Modules × kernels with every outcome in it, and the night before: the same numbers give the same runs. */
export function large(modules: number, kernels: number): { now: MatrixRun; before: MatrixRun[] } {
  const distros = ['debian-12', 'debian-13', 'ubuntu-24.04'];
  const each = Math.ceil(kernels / distros.length);
  const all = Array.from({ length: kernels }, (_, k) => {
    const [d, age] = [Math.floor(k / each), k % each];
    return kernel(`6.${[1, 12, 8][d]}.0-${60 - age}-amd64`, distros[d]);
  });
  const night = (day: number): MatrixRun => {
    const cells = Array.from({ length: modules }, (_, m) => moduleName(m)).flatMap((name, m) =>
      all.map((on, k) => {
        const outcome = outcomeAt(m, k, k % each, day);
        return cell(name, on, outcome, textsOf(name, on, outcome, m));
      }),
    );
    return run(day, all, cells);
  };
  return { now: night(9), before: [5, 6, 7, 8].map(night) };
}

const STEMS = [
  'acpi_call',
  'v4l2loopback',
  'r8168',
  'xtables_addons',
  'zfs',
  'wireguard',
  'ddcci',
  'nvidia',
  'evdi',
  'dm_writeboost',
];

function moduleName(m: number): string {
  const stem = STEMS[m % STEMS.length]!;
  return m < STEMS.length ? stem : `${stem}_${Math.floor(m / STEMS.length)}`;
}

function outcomeAt(m: number, k: number, age: number, day: number): Outcome {
  if (m % 11 === 3 && age < 3) return day < 9 && age > 0 ? 'built' : 'failed';
  if (m % 17 === 5 && age === 0) return day < 9 ? 'built' : 'failed';
  if (m % 13 === 7 && age > 6) return 'skipped';
  if (m % 23 === 9) return age < 5 ? 'expected-failure' : 'built';
  if (m % 31 === 4 && age === 1) return 'unexpected-pass';
  if (m % 29 === 8 && k % 9 === 2) return 'error';
  if (m % 37 === 12 && k % 10 > 7) return 'not-run';
  return (m + k) % 3 === 0 ? 'built' : 'up-to-date';
}

function textsOf(name: string, on: MatrixKernel, outcome: Outcome, m: number): Partial<MatrixCell> {
  if (outcome === 'failed' || outcome === 'expected-failure') {
    const error = `${name}.c:${100 + m}:9: error: implicit declaration of function ‘from_timer’; did you mean ‘mod_timer’? [-Werror=implicit-function-declaration]`;
    const log = [
      `make -C /lib/modules/${on.release}/build M=/var/lib/dkms/${name}/1.2.3/build`,
      ...Array.from({ length: 40 }, (_, i) => `  CC [M]  /var/lib/dkms/${name}/1.2.3/build/part${i}.o`),
      `/var/lib/dkms/${name}/1.2.3/build/${error}`,
      'make[1]: *** [Makefile:1936: modules] Error 2',
    ];
    return { reason: error, logTail: `${log.join('\n')}\n`, kept: m % 2 ? `20260309T030000-${m}` : null };
  }
  if (outcome === 'error')
    return { reason: 'mirror.example: connection timed out after 30 s, 3 tries', phases: { layer: 30.2 } };
  if (outcome === 'skipped') return { reason: 'BUILD_EXCLUSIVE_KERNEL="^6\\.(8|9|1[0-9])" does not match' };
  return {
    reproducible: m % 4 !== 3,
    signedBy: '9f2c1be07d0a44c1c2b3ff0e5d8c6a7b1e2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b',
  };
}
