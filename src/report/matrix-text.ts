import type { MatrixCell, MatrixKernel, MatrixRun } from '../core/matrix.js';
import { counts, countsText, gridRows, isBad, moduleOf, OUTCOMES, reasonOf, type GridRow } from './grid.js';
import { compare, type Broken, type Change } from './history.js';
import { oneLine, table } from './text.js';

/** A wider table breaks on the terminals people have; then the cells are letters. */
const WIDTH = 110;

/** For the end of a run on a terminal: module × kernel, what broke, the first error of each failure, and the sum. */
export function matrixText(run: MatrixRun, history: readonly MatrixRun[]): string {
  const rows = gridRows(run);
  const { broke, fixed, broken } = compare(run, history);
  const words = wordTable(rows, run.kernels);
  const wide = words.split('\n').some((line) => line.length > WIDTH);
  const blocks = [
    wide ? letterTable(rows, run) : words,
    section('broke since the last run', broke.map(changeText)),
    section('fixed since the last run', fixed.map(changeText)),
    section('do not build on the newest kernel', broken.map(brokenText)),
    section(
      'failures',
      run.cells.filter(({ outcome }) => isBad(outcome)).map((cell) => `${cellName(cell)}: ${headline(cell)}`),
    ),
    section(
      'built although a failure was expected',
      run.cells.filter(({ outcome }) => outcome === 'unexpected-pass').map(cellName),
    ),
    `${countsText(run.cells)}${run.complete ? '' : ' (the run was ended early)'}\n`,
  ];
  return blocks.filter((block) => block !== '').join('\n');
}

function wordTable(rows: readonly GridRow[], kernels: readonly MatrixKernel[]): string {
  const distros = new Set(kernels.map((kernel) => kernel.distro));
  return table([
    ...(distros.size > 1 ? [['', ...kernels.map((kernel) => kernel.distro)]] : []),
    ['', ...kernels.map((kernel) => kernel.release)],
    ...rows.map((row) => [
      rowName(row),
      ...row.cells.map((cell) => (cell ? OUTCOMES[cell.outcome].word : '')),
    ]),
  ]);
}

function letterTable(rows: readonly GridRow[], run: MatrixRun): string {
  const { kernels } = run;
  const width = String(kernels.length).length;
  const column = (text: string): string => text.padStart(width);
  const key = kernels.map((kernel, i) => [column(String(i + 1)), kernel.distro, kernel.release]);
  const letters = counts(run.cells).map(
    ([outcome]) => `${OUTCOMES[outcome].letter} ${OUTCOMES[outcome].word}`,
  );
  return [
    table(key),
    '\n',
    table([
      ['', kernels.map((_, i) => column(String(i + 1))).join(' ')],
      ...rows.map((row) => [
        rowName(row),
        row.cells.map((cell) => column(cell ? OUTCOMES[cell.outcome].letter : ' ')).join(' '),
      ]),
    ]),
    `${letters.join(', ')}\n`,
  ].join('');
}

function rowName(row: GridRow): string {
  return row.source === row.module ? row.module : `${row.module} (${row.source})`;
}

const cellName = (cell: MatrixCell): string =>
  oneLine(`${moduleOf(cell)} on ${cell.kernel} (${cell.distro})`);

const headline = (cell: MatrixCell): string =>
  oneLine(reasonOf(cell).split('\n')[0] || 'no reason was given');

function section(title: string, lines: string[]): string {
  return lines.length === 0 ? '' : [`${title}:`, ...lines.map((line) => `  ${line}`), ''].join('\n');
}

function changeText({ cell, before, beforeAt }: Change): string {
  const version = cell.version === before.version ? '' : ` as ${before.version ?? 'another version'}`;
  return oneLine(
    `${cellName(cell)}: was ${OUTCOMES[before.outcome].word}${version} in the run of ${beforeAt}`,
  );
}

function brokenText(story: Broken): string {
  return oneLine(`${story.module} (${story.distro}): ${brokenSince(story)}`);
}

/** `first bad kernel 6.1.0-56-amd64, last good 6.1.0-54-amd64`. */
export function brokenSince({ firstBad, lastGood, unanswered }: Broken): string {
  if (lastGood === null) return `never built, down to ${firstBad}`;
  const between = unanswered === 0 ? '' : `, ${unanswered} without an answer between them`;
  return `first bad kernel ${firstBad}, last good ${lastGood}${between}`;
}
