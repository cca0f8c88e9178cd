import type { MatrixCell, MatrixKernel, MatrixRun, Outcome } from '../model/matrix.js';
import {
  counts,
  countsText,
  gridRows,
  grouped,
  saying,
  isBad,
  kernelsText,
  moduleOf,
  moment,
  namedRows,
  OUTCOMES,
  reasonOf,
  type GridRow,
} from './grid.js';
import { changeGroups, compare, type Broken, type Change } from './history.js';
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
    section('broke since the last run', changeLines(broke)),
    section('fixed since the last run', changeLines(fixed)),
    section('do not build on the newest kernel', broken.map(brokenText)),
    section('failures', cellLines(run, isBad)),
    section(
      'built although a failure was expected',
      cellLines(run, (outcome) => outcome === 'unexpected-pass'),
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
    ...namedRows(rows).map(({ name, cells }) => [
      name,
      ...cells.map((cell) => (cell ? OUTCOMES[cell.outcome].word : '')),
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
      ...namedRows(rows).map(({ name, cells }) => [
        name,
        cells.map((cell) => column(cell ? OUTCOMES[cell.outcome].letter : ' ')).join(' '),
      ]),
    ]),
    `${letters.join(', ')}\n`,
  ].join('');
}

function cellLines(run: MatrixRun, wanted: (outcome: Outcome) => boolean): string[] {
  const cells = run.cells.filter(({ outcome }) => wanted(outcome));
  return grouped(cells, saying).map((cells) => {
    const reason = reasonOf(cells[0]).split('\n')[0];
    return oneLine(`${moduleOf(cells[0])} on ${kernelsText(cells)}${reason ? `: ${reason}` : ''}`);
  });
}

function section(title: string, lines: string[]): string {
  return lines.length === 0 ? '' : [`${title}:`, ...lines.map((line) => `  ${line}`), ''].join('\n');
}

function changeLines(changes: readonly Change[]): string[] {
  return changeGroups(changes).map((group) => {
    const [{ cell, before, beforeAt }] = group;
    const where = kernelsText(group.map((change) => change.cell));
    return oneLine(`${moduleOf(cell)} on ${where}: ${beforeText(cell, before)} ${moment(beforeAt)}`);
  });
}

/** `built on`, `built as version 1.2 on`. */
export function beforeText(cell: MatrixCell, before: MatrixCell): string {
  const version = cell.version === before.version ? '' : ` as version ${before.version ?? 'unknown'}`;
  return `${OUTCOMES[before.outcome].word}${version} on`;
}

function brokenText(story: Broken): string {
  return oneLine(`${story.module} (${story.distro}): ${brokenSince(story)}`);
}

/** `first bad kernel 6.1.0-56-amd64, last good 6.1.0-54-amd64`; the parts are apart by `, `. */
export function brokenSince({ firstBad, lastGood, unanswered }: Broken): string {
  if (lastGood === null) return `builds on no kernel down to ${firstBad}`;
  const between = unanswered === 0 ? '' : `, ${unanswered} without an answer between them`;
  return `first bad kernel ${firstBad}, last good ${lastGood}${between}`;
}
