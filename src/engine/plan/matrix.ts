import { basename } from 'node:path';
import type { CellResult, KernelTarget } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import { globExpression } from '../../lib/glob.js';
import type { MatrixCell, MatrixKernel, MatrixRun, Outcome } from '../../model/matrix.js';
import { compareReleases } from '../../formats/versions.js';
import { plannedCell } from './planned-cell.js';
import type { NamedSource } from './refresh.js';
import type { BuildPlan, PlannedCell } from './types.js';
import type { BuildRequest } from '../../options/request.js';

/** Patterns of cells; what is absent fits every one. */
export interface CellPattern {
  module?: string | undefined;
  kernel?: string | undefined;
  distro?: string | undefined;
}

export interface Expectation extends CellPattern {
  reason: string;
}

/** What `matrix` will do: a build plan, and what its cells are held against. */
export interface MatrixPlan extends BuildPlan {
  readonly sources: readonly string[];
  /** By distro, newest first. */
  readonly kernels: readonly MatrixKernel[];
  /** What each source may be called in a pattern, by its text. */
  readonly names: Readonly<Record<string, readonly string[]>>;
  readonly expectations: readonly Expectation[];
  /** Entries of the file that fit no cell, in words. */
  readonly idle: readonly string[];
}

export interface MatrixInput {
  sources: readonly NamedSource[];
  targets: readonly KernelTarget[];
  include: readonly { source: NamedSource; target: KernelTarget }[];
  exclude: readonly CellPattern[];
  expectations: readonly Expectation[];
}

/**
 * Every source on every kernel, without what is excluded, with what is included: by distro, and of each the newest kernel
 * first. Throws `usage` when nothing is left.
 */
export function matrixPlan(request: BuildRequest, input: MatrixInput): MatrixPlan {
  const { exclude, expectations, include } = input;
  const sources = unique(
    [...input.sources, ...include.map(({ source }) => source)],
    ({ source }) => source.text,
  );
  const targets = unique([...input.targets, ...include.map(({ target }) => target)], place).sort(byAge);
  const names = Object.fromEntries(sources.map((each) => [each.source.text, namesOf(each)]));
  const own = (each: readonly NamedSource[], source: NamedSource): boolean =>
    each.some((other) => other.source.text === source.source.text);
  const crossed = targets.flatMap((target) =>
    sources
      .filter((source) => own(input.sources, source) && input.targets.some((t) => place(t) === place(target)))
      .map((source) => plannedCell(source.source, target, request)),
  );
  const kept = crossed.filter((cell) => !exclude.some((each) => fits(each, cell, names[cell.source] ?? [])));
  const extra = include.map(({ source, target }) => plannedCell(source.source, target, request));
  const all = unique([...kept, ...extra], (cell) => `${place(cell.target)} ${cell.source}`);
  const cells = targets.flatMap((target) => all.filter((cell) => place(cell.target) === place(target)));
  if (cells.length === 0) throw new Dkms2binError('usage', 'The matrix has no cell: everything is excluded');
  const idle = [
    ...idleOnes('exclude', exclude, crossed, names),
    ...idleOnes('expect-failure', expectations, cells, names),
  ];
  const used = <T>(list: readonly T[], has: (cell: PlannedCell, each: T) => boolean): T[] =>
    list.filter((each) => cells.some((cell) => has(cell, each)));
  return {
    request: { ...request },
    cells,
    otherSources: sources.map(({ source }) => source),
    sources: used(sources, (cell, each) => cell.source === each.source.text).map(({ source }) => source.text),
    kernels: used(targets, (cell, each) => place(cell.target) === place(each)).map(
      ({ release, distro, arch, packageVersion = null }) => ({ release, distro, arch, packageVersion }),
    ),
    names,
    expectations,
    idle,
  };
}

const place = ({ distro, release }: KernelTarget): string => `${distro} ${release}`;

const byAge = (a: KernelTarget, b: KernelTarget): number =>
  Number(a.distro > b.distro) - Number(a.distro < b.distro) || compareReleases(b.release, a.release);

/** The first of each. */
const unique = <T>(list: readonly T[], key: (each: T) => string): T[] => {
  const seen = new Set<string>();
  return list.filter((each) => !seen.has(key(each)) && seen.add(key(each)));
};

/** A source as it is named, a path's last part, a package's name, and the modules that it seems to bring. */
function namesOf({ source, names }: NamedSource): string[] {
  return [...new Set([source.text, source.kind === 'repo' ? source.name : basename(source.text), ...names])];
}

function fits(
  { module, kernel, distro }: CellPattern,
  cell: Pick<PlannedCell, 'kernel' | 'distro'>,
  names: readonly string[],
): boolean {
  const like = (pattern: string | undefined, values: readonly string[]): boolean => {
    if (pattern === undefined) return true;
    const expression = globExpression(pattern);
    return values.some((value) => expression.test(value));
  };
  return like(module, names) && like(kernel, [cell.kernel]) && like(distro, [cell.distro]);
}

function idleOnes(
  key: string,
  patterns: readonly CellPattern[],
  cells: readonly PlannedCell[],
  names: MatrixPlan['names'],
): string[] {
  return patterns
    .filter((pattern) => !cells.some((cell) => fits(pattern, cell, names[cell.source] ?? [])))
    .map(({ module, kernel, distro }) => {
      const said = Object.entries({ module, kernel, distro }).filter(([, value]) => value !== undefined);
      return `${key} of ${said.map(([name, value]) => `${name} ${value}`).join(', ')} fits no cell`;
    });
}

/** Why a row is expected to fail; null where it is not. A source with several modules may be expected to fail in one. */
export function expectedOf(plan: MatrixPlan, cell: PlannedCell, module: string): string | null {
  const names = plan.names[cell.source] ?? [];
  // The names of its other modules are not this one's.
  const own = names.includes(module) ? namesOf({ source: cell.module, names: [module] }) : [...names, module];
  return plan.expectations.find((each) => fits(each, cell, own))?.reason ?? null;
}

/** How a result counts. `error` is no answer, so that no expectation is met or missed by it. */
export function outcomeOf({ verdict, reason, phases }: CellResult, expected: string | null): Outcome {
  switch (verdict) {
    case 'built':
      if (expected !== null) return 'unexpected-pass';
      // What was built again with the same outcome was built.
      return reason === 'up to date' && phases.boot === undefined ? 'up-to-date' : 'built';
    case 'failed':
      return expected === null ? 'failed' : 'expected-failure';
    default:
      return verdict;
  }
}

/** Rows of cells that had no turn. */
export function notRun(plan: MatrixPlan, cell: PlannedCell): MatrixCell {
  const { source, kernel, distro, arch } = cell;
  return {
    ...{ source, module: source, version: null, kernel, distro, arch, verdict: null, outcome: 'not-run' },
    ...{ reason: null, package: null, log: null, phases: {}, kept: null, fault: null },
    expected: expectedOf(plan, cell, source),
    ...{ signedBy: null, logTail: null, startedAt: null, seconds: null, worker: null },
  };
}

/**
 * Wall seconds that cells took in earlier runs, the newest first: of the same source on the same kernel, else on
 * another one. Null when a source was never built.
 */
export function recordedSeconds(runs: readonly MatrixRun[]): (cell: PlannedCell) => number | null {
  const times = new Map<string, { distro: string; kernel: string; seconds: number }[]>();
  for (const { cells } of [...runs].sort((a, b) => (a.run < b.run ? 1 : -1))) {
    for (const { source, distro, kernel, seconds, worker } of cells) {
      if (seconds === null || worker === null) continue;
      times.set(source, [...(times.get(source) ?? []), { distro, kernel, seconds }]);
    }
  }
  return ({ source, distro, kernel }) => {
    const known = times.get(source) ?? [];
    const there = known.filter((each) => each.distro === distro);
    return (there.find((each) => each.kernel === kernel) ?? there[0] ?? known[0])?.seconds ?? null;
  };
}
