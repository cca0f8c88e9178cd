import type { MatrixCell, MatrixRun, Outcome } from '../core/matrix.js';
import { failureText, oneLine, table } from './text.js';

/** In the order in which they are counted. */
const OUTCOMES: readonly Outcome[] = [
  ...(['built', 'up-to-date', 'skipped', 'expected-failure'] as const),
  ...(['unexpected-pass', 'failed', 'error', 'not-run'] as const),
];

/** A line for each row of a matrix: how it ended, its package or the reason. */
export function matrixLines({ cells }: MatrixRun): string {
  return table(
    cells.map((cell) => [
      cell.outcome,
      cell.version === null ? cell.module : `${cell.module} ${cell.version}`,
      cell.kernel,
      cell.distro,
      headline(cell),
    ]),
  );
}

function headline({ outcome, expected, package: file, reason }: MatrixCell): string {
  const first = reason?.split('\n').find((line) => line.trim() !== '') ?? '';
  if (outcome === 'expected-failure') return `${expected ?? ''}: ${first}`;
  if (outcome === 'unexpected-pass') return `expected to fail (${expected ?? ''}): ${file ?? ''}`;
  return file ?? first;
}

/** What went wrong in each cell that was to be built, and what to do next. */
export function matrixFailures({ cells }: MatrixRun): string {
  return cells
    .map(({ outcome, verdict, ...cell }) => {
      if (outcome === 'unexpected-pass')
        return `${oneLine(cell.module)} on ${oneLine(cell.kernel)} (${oneLine(cell.distro)}) is built, but was expected to fail: ${oneLine(cell.expected ?? '')}\n  hint:   take the entry of expect-failure that names it out of the config file\n`;
      return verdict === null || outcome === 'expected-failure' ? '' : failureText({ ...cell, verdict });
    })
    .join('');
}

/** `18 cells: 12 built, 4 up-to-date, 2 failed`. */
export function matrixSummary({ cells, complete }: MatrixRun): string {
  const parts = OUTCOMES.map((outcome) => [cells.filter((cell) => cell.outcome === outcome).length, outcome])
    .filter(([count]) => count !== 0)
    .map(([count, outcome]) => `${count} ${outcome}`);
  const rest = complete ? '' : '; --resume goes on with it';
  return `${cells.length} ${cells.length === 1 ? 'cell' : 'cells'}: ${parts.join(', ')}${rest}`;
}
