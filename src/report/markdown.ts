import type { MatrixCell, MatrixRun } from '../model/matrix.js';
import { plain } from '../lib/text.js';
import { formatClock } from '../lib/units.js';
import {
  counts,
  gridRows,
  grouped,
  saying,
  type Some,
  isBad,
  kernelsText,
  moduleOf,
  moment,
  namedRows,
  OUTCOMES,
  plural,
  reasonOf,
  type GridRow,
} from './grid.js';
import { changeGroups, compare, type Broken, type Change } from './history.js';
import { beforeText, brokenSince } from './grid-text.js';
import { oneLine } from './text.js';

/** GitHub refuses a longer comment. */
const LONGEST = 65_536;
const LOG_LINES = 30;
const LISTED = 20;

/** For a comment on a pull request: short, what went wrong open or folded, what is well only counted. */
export function matrixMarkdown(run: MatrixRun, history: readonly MatrixRun[]): string {
  const { previous, broke, fixed, broken } = compare(run, history);
  const rows = gridRows(run);
  const calm = rows.filter((row) => row.cells.every((cell) => !cell || isCalm(cell)));
  const told = rows.filter((row) => !calm.includes(row));
  const head = [
    `### ${headline(run)}`,
    `${sumLine(run)}`,
    list(`Broke since the last run${previous ? ` (${moment(previous.startedAt)})` : ''}`, changeLines(broke)),
    list('Fixed since the last run', changeLines(fixed)),
    list('First bad kernel', broken.map(brokenLine)),
  ];
  const tail = `<sub>dkms2bin ${text(run.tool)}, run ${text(run.run)}${run.complete ? '' : ', ended early'}</sub>`;
  const blocks = [
    ...(told.length > 0 ? [gridTable(told, run)] : []),
    ...(calm.length > 0
      ? [folded(`${plural(calm.length, 'module')} built on every kernel that applies`, gridTable(calm, run))]
      : []),
    ...grouped(
      run.cells.filter((cell) => isBad(cell.outcome)),
      saying,
    ).map(failure),
  ];
  return fit([...head.filter((block) => block !== '')], blocks, tail);
}

/** Drops what does not fit, and says so. */
function fit(head: string[], blocks: string[], tail: string): string {
  const note = (left: number): string =>
    `_${plural(left, 'part')} of this report did not fit into a comment._`;
  const parts = [...head];
  let used = [...head, tail, note(blocks.length)].join('\n\n').length + 3;
  let left = 0;
  for (const block of blocks) {
    if (used + block.length + 2 > LONGEST) left += 1;
    else {
      parts.push(block);
      used += block.length + 2;
    }
  }
  return `${[...parts, ...(left > 0 ? [note(left)] : []), tail].join('\n\n')}\n`;
}

function isCalm({ outcome }: MatrixCell): boolean {
  return outcome === 'built' || outcome === 'up-to-date' || outcome === 'skipped';
}

function headline(run: MatrixRun): string {
  const bad = run.cells.filter((cell) => isBad(cell.outcome)).length;
  if (bad > 0) return `❌ dkms2bin: ${bad} of ${plural(run.cells.length, 'cell')} did not build`;
  if (!run.complete) return '⚠️ dkms2bin: the matrix was ended early';
  const stale = run.cells.filter((cell) => cell.outcome === 'unexpected-pass').length;
  if (stale > 0) return `⚠️ dkms2bin: ${plural(stale, 'expected failure')} did not come`;
  return `✅ dkms2bin: ${plural(run.cells.length, 'cell')} as expected`;
}

function sumLine(run: MatrixRun): string {
  const parts = counts(run.cells).map(([outcome, count]) => `${count} ${OUTCOMES[outcome].word}`);
  const took = (Date.parse(run.endedAt) - Date.parse(run.startedAt)) / 1000;
  return `${parts.join(' · ') || 'nothing to do'} · ${plural(gridRows(run).length, 'module')} × ${plural(run.kernels.length, 'kernel')} in ${formatClock(took)}`;
}

const ICON: Record<MatrixCell['outcome'], string> = {
  failed: '❌',
  error: '⚠️',
  'unexpected-pass': '❓',
  'not-run': '⏸️',
  'expected-failure': '☑️',
  skipped: '➖',
  'up-to-date': '✔️',
  built: '✅',
};

function gridTable(rows: readonly GridRow[], run: MatrixRun): string {
  const head = run.kernels.map((kernel) => `${text(kernel.release)}<br><sub>${text(kernel.distro)}</sub>`);
  const used = counts(rows.flatMap((row) => row.cells.filter((cell) => cell !== null)));
  return [
    `| module | ${head.join(' | ')} |`,
    `|---|${run.kernels.map(() => ':-:|').join('')}`,
    ...namedRows(rows).map(
      ({ name, cells }) =>
        `| ${text(name)} | ${cells.map((cell) => (cell ? ICON[cell.outcome] : '')).join(' | ')} |`,
    ),
    '',
    `<sub>${used.map(([outcome]) => `${ICON[outcome]} ${OUTCOMES[outcome].word}`).join(' · ')}</sub>`,
  ].join('\n');
}

function list(title: string, lines: string[]): string {
  if (lines.length === 0) return '';
  const shown = lines.slice(0, LISTED).map((line) => `- ${line}`);
  if (lines.length > LISTED) shown.push(`- … and ${lines.length - LISTED} more`);
  return [`**${title}**`, '', ...shown].join('\n');
}

const onKernels = (cells: Some<MatrixCell>): string =>
  `${code(moduleOf(cells[0]))} on ${text(kernelsText(cells))}`;

function changeLines(changes: readonly Change[]): string[] {
  return changeGroups(changes).map((group) => {
    const [{ cell, before, beforeAt }, ...rest] = group;
    const where = onKernels([cell, ...rest.map((change) => change.cell)]);
    const reason = isBad(cell.outcome) ? `<br>${code(firstLine(cell))}` : '';
    return `${where}, ${text(beforeText(cell, before))} ${beforeAt.slice(0, 10)}${reason}`;
  });
}

function brokenLine(story: Broken): string {
  const expected = story.cell.outcome === 'expected-failure' ? ', as expected' : '';
  return `${code(story.module)} on ${text(story.distro)}: ${text(brokenSince(story))}${expected}`;
}

const firstLine = (cell: MatrixCell): string => reasonOf(cell).split('\n')[0] || 'no reason was given';

function failure(cells: Some<MatrixCell>): string {
  const [cell] = cells;
  const log =
    cell.logTail === null ? '' : plain(cell.logTail).trim().split('\n').slice(-LOG_LINES).join('\n');
  const summary = `${OUTCOMES[cell.outcome].sign} ${onKernels(cells)}: ${code(firstLine(cell))}`;
  const title = cells.length === 1 ? 'The end of make.log:' : `The end of make.log on ${text(cell.kernel)}:`;
  const body = [fence(reasonOf(cell) || 'no reason was given'), ...(log ? [title, fence(log)] : [])];
  return folded(summary, body.join('\n\n'));
}

function folded(summary: string, body: string): string {
  return `<details><summary>${summary}</summary>\n\n${body}\n\n</details>`;
}

/** A code block that its own text cannot end. */
function fence(text: string): string {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const mark = '`'.repeat(longest + 1);
  return `${mark}text\n${text}\n${mark}`;
}

/** One line of plain text: character references mean nothing to Markdown, HTML, mentions or tables. */
function text(value: string): string {
  return oneLine(value)
    .replace(/[^\p{L}\p{N} ,./…;?=+%()‘’“”'"-]/gu, (char) => `&#${char.codePointAt(0)};`)
    .replace(/www\./gi, (www) => `${www.slice(0, 3)}&#46;`);
}

function code(value: string): string {
  const line = oneLine(value);
  return `<code>${text(line.length > 300 ? `${line.slice(0, 299)}…` : line)}</code>`;
}
