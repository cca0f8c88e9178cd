import type { MatrixCell, MatrixKernel, MatrixRun, Outcome } from '../model/matrix.js';
import { gridRows, grouped, kernelKey, rowKey, saying, type GridRow, type Some } from './grid.js';

/** A cell whose answer is another than the last one that an earlier run gave. */
export interface Change {
  cell: MatrixCell;
  /** The cell of that earlier run. */
  before: MatrixCell;
  /** When that run began, ISO 8601. */
  beforeAt: string;
}

/** A module that does not build on the newest kernel of a distro which gave an answer. */
export interface Broken {
  source: string;
  module: string;
  distro: string;
  arch: MatrixKernel['arch'];
  /** The newest kernel with an answer. */
  newest: string;
  /** The oldest kernel since which it never built; the same as `newest` when that one broke it. */
  firstBad: string;
  /** The newest kernel on which it built; null when it built on none of those known. */
  lastGood: string | null;
  /** Kernels between these two that gave no answer: the first bad one may be among them. */
  unanswered: number;
  /** The cell of `firstBad`. */
  cell: MatrixCell;
}

/** What changed between the runs, and since which kernel. */
export interface Comparison {
  /** The run before this one; null for the first. */
  previous: { run: string; startedAt: string } | null;
  /** Built before, fails now. */
  broke: Change[];
  /** Failed before, builds now. */
  fixed: Change[];
  broken: Broken[];
}

/** `none`: no answer yet, or the module does not apply. */
type Answer = 'good' | 'bad' | 'none';

const ANSWER: Record<Outcome, Answer> = {
  built: 'good',
  'up-to-date': 'good',
  'unexpected-pass': 'good',
  failed: 'bad',
  'expected-failure': 'bad',
  skipped: 'none',
  error: 'none',
  'not-run': 'none',
};

interface Known {
  cell: MatrixCell;
  at: string;
}

/**
 * Compares a run with those before it. A cell without an answer (error, not run) keeps the last one known: a mirror
 * that was down for a night neither breaks nor mends a module. Kernels of earlier runs count for `broken` too.
 */
export function compare(run: MatrixRun, history: readonly MatrixRun[]): Comparison {
  const past = pastRuns(run, history);
  const before = new Map<string, Known>();
  for (const { at, cells } of past.map(cellsOf)) {
    for (const [key, cell] of cells) if (ANSWER[cell.outcome] !== 'none') before.set(key, { cell, at });
  }
  const now = cellsOf(run).cells;
  const changes = (answer: Answer): Change[] =>
    [...now].flatMap(([key, cell]) => {
      const last = before.get(key);
      if (!last || ANSWER[cell.outcome] !== answer || ANSWER[last.cell.outcome] === answer) return [];
      return [{ cell, before: last.cell, beforeAt: last.at }];
    });
  const last = past.at(-1);
  return {
    previous: last ? { run: last.run, startedAt: last.startedAt } : null,
    broke: changes('bad').filter(({ cell }) => cell.outcome === 'failed'),
    fixed: changes('good'),
    broken: brokenRows(run, past, now, before),
  };
}

/** Changes that say the same of one module on several kernels, together. */
export function changeGroups(changes: readonly Change[]): Some<Change>[] {
  return grouped(changes, ({ cell, before, beforeAt }) =>
    [saying(cell), before.outcome, before.version, beforeAt].join('\0'),
  );
}

/** What earlier runs said of each cell of `row`, oldest first: per kernel of the run, null where it was not asked. */
export function pastOutcomes(
  row: GridRow,
  run: MatrixRun,
  history: readonly MatrixRun[],
): { run: MatrixRun; outcomes: (Outcome | null)[] }[] {
  return pastRuns(run, history).map((past) => {
    const { cells } = cellsOf(past);
    return { run: past, outcomes: run.kernels.map((k) => cells.get(cellKey(row, k))?.outcome ?? null) };
  });
}

/** The runs before `run`, oldest first. */
function pastRuns(run: MatrixRun, history: readonly MatrixRun[]): MatrixRun[] {
  return history.filter((past) => past.run < run.run).sort((a, b) => (a.run < b.run ? -1 : 1));
}

function cellKey(row: Pick<GridRow, 'source' | 'module'>, kernel: MatrixKernel): string {
  return `${rowKey(row)}\0${kernelKey(kernel)}`;
}

const seen = new WeakMap<MatrixRun, { at: string; cells: Map<string, MatrixCell> }>();

/** The cells of a run by their place in the grid. Remembered: reports of many modules ask for the same runs. */
function cellsOf(run: MatrixRun): { at: string; cells: Map<string, MatrixCell> } {
  const known = seen.get(run);
  if (known) return known;
  const cells = new Map<string, MatrixCell>();
  for (const row of gridRows(run)) {
    for (const [i, kernel] of run.kernels.entries()) {
      const cell = row.cells[i];
      if (cell) cells.set(cellKey(row, kernel), cell);
    }
  }
  const made = { at: run.startedAt, cells };
  seen.set(run, made);
  return made;
}

function brokenRows(
  run: MatrixRun,
  past: readonly MatrixRun[],
  now: Map<string, MatrixCell>,
  before: Map<string, Known>,
): Broken[] {
  const lines = kernelLines([...past, run]);
  return gridRows(run).flatMap((row) =>
    lines.flatMap((kernels) => {
      const asked = kernels.map((kernel): Asked => {
        const key = cellKey(row, kernel);
        const own = now.get(key);
        const cell = own && ANSWER[own.outcome] !== 'none' ? own : (before.get(key)?.cell ?? own ?? null);
        return { kernel, cell, answer: cell ? ANSWER[cell.outcome] : 'none' };
      });
      return brokenOn(row, asked) ?? [];
    }),
  );
}

/** What is known of a module on one kernel. */
interface Asked {
  kernel: MatrixKernel;
  cell: MatrixCell | null;
  answer: Answer;
}

/** `asked` is of one distro, newest first. */
function brokenOn({ source, module }: GridRow, asked: readonly Asked[]): Broken | null {
  const newest = asked.find(({ answer }) => answer !== 'none');
  if (newest?.answer !== 'bad') return null;
  const good = asked.findIndex(({ answer }) => answer === 'good');
  const sinceGood = good < 0 ? asked : asked.slice(0, good);
  const bad = sinceGood.findLastIndex(({ answer }) => answer === 'bad');
  const firstBad = sinceGood[bad];
  if (!firstBad?.cell) return null;
  const between = good < 0 ? [] : sinceGood.slice(bad + 1);
  return {
    ...{ source, module, distro: newest.kernel.distro, arch: newest.kernel.arch },
    newest: newest.kernel.release,
    firstBad: firstBad.kernel.release,
    lastGood: asked[good]?.kernel.release ?? null,
    unanswered: between.filter(({ cell }) => cell?.outcome !== 'skipped').length,
    cell: firstBad.cell,
  };
}

/**
 * The kernels of all runs, a list for each distro and architecture, newest first. Each run gives the order of its own
 * kernels; those of older runs are put in beside the neighbours they had there, or at the end when they had none.
 * @internal
 */
export function kernelLines(runs: readonly MatrixRun[]): MatrixKernel[][] {
  const lines = new Map<string, MatrixKernel[]>();
  for (const run of [...runs].reverse()) {
    for (const [name, kernels] of byDistro(run.kernels)) {
      const line = lines.get(name) ?? [];
      lines.set(name, line);
      let place = line.length;
      for (const kernel of [...kernels].reverse()) {
        const at = line.findIndex((known) => known.release === kernel.release);
        if (at < 0) line.splice(place, 0, kernel);
        else place = at;
      }
    }
  }
  return [...lines.values()];
}

function byDistro(kernels: readonly MatrixKernel[]): Map<string, MatrixKernel[]> {
  const groups = new Map<string, MatrixKernel[]>();
  for (const kernel of kernels) {
    const name = `${kernel.distro}\0${kernel.arch}`;
    groups.set(name, [...(groups.get(name) ?? []), kernel]);
  }
  return groups;
}
