import type { MatrixCell, MatrixRun } from '../model/matrix.js';
import { plain } from '../lib/text.js';
import { moduleOf, OUTCOMES, plural, reasonOf } from './grid.js';
import { compare } from './history.js';

/** GitHub shows so many errors, and so many warnings, of one step; the rest is dropped without a word. */
const SHOWN = 10;

/**
 * Workflow commands for GitHub Actions, a line each: an error for each cell that failed, what broke since the last run
 * first; a warning where a failure was expected and did not come.
 */
export function matrixAnnotations(run: MatrixRun, history: readonly MatrixRun[]): string {
  const broke = new Map(compare(run, history).broke.map(({ cell, beforeAt }) => [cell, beforeAt]));
  const bad = run.cells.filter((cell) => cell.outcome === 'failed' || cell.outcome === 'error');
  const errors = [
    ...bad.filter((cell) => broke.has(cell)),
    ...bad.filter((cell) => !broke.has(cell) && cell.outcome === 'failed'),
    ...bad.filter((cell) => !broke.has(cell) && cell.outcome === 'error'),
  ].map((cell) => {
    const since = broke.get(cell);
    const built = since === undefined ? '' : `\nIt was built in the run of ${since}.`;
    return { title: titleOf(cell), message: `${reasonOf(cell) || 'no reason was given'}${built}` };
  });
  const warnings = run.cells
    .filter((cell) => cell.outcome === 'unexpected-pass')
    .map((cell) => ({
      title: titleOf(cell),
      message: `A failure was expected: ${plain(cell.expected ?? '')}\nIt was built; remove the expectation from the matrix.`,
    }));
  return [...commands('error', errors), ...commands('warning', warnings)].map((line) => `${line}\n`).join('');
}

function titleOf(cell: MatrixCell): string {
  return `${moduleOf(cell)} on ${plain(cell.kernel)} (${plain(cell.distro)}): ${OUTCOMES[cell.outcome].word}`;
}

function commands(name: string, notes: { title: string; message: string }[]): string[] {
  const shown = notes.length > SHOWN ? notes.slice(0, SHOWN - 1) : notes;
  const rest = notes.length - shown.length;
  if (rest > 0) {
    shown.push({
      title: `${plural(rest, 'cell')} more`,
      message: notes
        .slice(SHOWN - 1)
        .map(({ title }) => title)
        .join('\n'),
    });
  }
  return shown.map(({ title, message }) => `::${name} title=${property(title)}::${data(message)}`);
}

/** The runner takes a command's end from the line's end, and turns these back. */
function data(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

function property(text: string): string {
  return data(text).replaceAll(':', '%3A').replaceAll(',', '%2C');
}
