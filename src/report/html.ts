import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { basename, isAbsolute, relative, sep } from 'node:path';
import type { MatrixCell, MatrixRun, Outcome } from '../model/matrix.js';
import { plain } from '../lib/text.js';
import {
  counts,
  gridRows,
  kernelKey,
  kernelsText,
  namedRows,
  OUTCOMES,
  reasonOf,
  rowKey,
  type GridRow,
} from './grid.js';
import { changeGroups, compare, pastOutcomes, type Broken, type Change } from './history.js';
import { beforeText, brokenSince, matrixText } from './grid-text.js';
import type { PageCell, PageData, PageFile, PageStory } from './page-data.js';
import { oneLine } from './text.js';

/** More history than this makes the page large and tells little. */
const PAST_RUNS = 20;

/** Bytes of all logs together, so that a page of thousands of failures still opens; each gives up its beginning. */
const LOGS = 8 * 2 ** 20;

/**
 * One page that needs nothing else: no network, and its policy lets none be used. `folder` is where the page is written
 * to; packages and logs are linked relative to it, and only named without it.
 */
export function matrixHtml(
  run: MatrixRun,
  history: readonly MatrixRun[],
  { folder }: { folder?: string } = {},
): string {
  const style = asset('style.css');
  const script = asset('client.js');
  const policy = [
    "default-src 'none'",
    `script-src '${digest(script)}'`,
    `style-src '${digest(style)}'`,
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
  ].join('; ');
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(`dkms2bin matrix ${run.run}`)}</title>
<style>${style}</style>
</head>
<body>
<noscript><pre>${escapeHtml(matrixText(run, history))}</pre></noscript>
<script type="application/json" id="data">${embed(pageData(run, history, folder))}</script>
<script type="module">${script}</script>
</body>
</html>
`;
}

const asset = (name: string): string => readFileSync(new URL(`./page/${name}`, import.meta.url), 'utf8');

const digest = (text: string): string => `sha256-${createHash('sha256').update(text).digest('base64')}`;

/** JSON that ends no script element and begins no comment in one. */
function embed(data: PageData): string {
  return JSON.stringify(data)
    .replaceAll('<', '\\u003c')
    .replaceAll('\u2028', '\\u2028')
    .replaceAll('\u2029', '\\u2029');
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

function pageData(run: MatrixRun, history: readonly MatrixRun[], folder: string | undefined): PageData {
  const rows = gridRows(run);
  const { broke, fixed, broken } = compare(run, history);
  const failing = run.cells.filter(showsLog).length;
  const logLength = Math.min(16 * 1024, Math.floor(LOGS / Math.max(1, failing)));
  const place = places(rows, run);
  return {
    run: run.run,
    tool: run.tool,
    startedAt: run.startedAt,
    endedAt: run.endedAt,
    complete: run.complete,
    accelerators: run.accelerators,
    words: OUTCOMES,
    counts: counts(run.cells),
    kernels: run.kernels,
    ...rowsOf(rows, run, history, (cell, past) => pageCell(cell, past, folder, logLength)),
    broke: changeStories(broke, place),
    fixed: changeStories(fixed, place),
    broken: broken.map((story) => brokenStory(story, place)),
  };
}

function rowsOf(
  rows: readonly GridRow[],
  run: MatrixRun,
  history: readonly MatrixRun[],
  toCell: (cell: MatrixCell, past: (Outcome | null)[]) => PageCell,
): Pick<PageData, 'rows' | 'pastRuns'> {
  let pastRuns: PageData['pastRuns'] = [];
  const pageRows = namedRows(rows).map((row) => {
    const past = pastOutcomes(row, run, history).slice(-PAST_RUNS);
    pastRuns = past.map((one) => ({ run: one.run.run, startedAt: one.run.startedAt }));
    const cells = row.cells.map(
      (cell, i) =>
        cell &&
        toCell(
          cell,
          past.map(({ outcomes }) => outcomes[i] ?? null),
        ),
    );
    return { name: row.name, module: oneLine(row.module), source: oneLine(row.source), cells };
  });
  return { rows: pageRows, pastRuns };
}

type Place = Pick<PageStory, 'row' | 'column'>;
type PlaceOf = (cell: MatrixCell, row?: Pick<GridRow, 'source' | 'module'>) => Place;

function places(rows: readonly GridRow[], run: MatrixRun): PlaceOf {
  const rowAt = new Map(rows.map((row, i) => [rowKey(row), i]));
  const columnAt = new Map(run.kernels.map((kernel, i) => [kernelKey(kernel), i]));
  return (cell, row = cell) => {
    const [r, c] = [rowAt.get(rowKey(row)), columnAt.get(kernelKey({ ...cell, release: cell.kernel }))];
    return r === undefined || c === undefined || !rows[r]?.cells[c]
      ? { row: null, column: null }
      : { row: r, column: c };
  };
}

function changeStories(changes: readonly Change[], place: PlaceOf): PageStory[] {
  return changeGroups(changes).map((group) => {
    const [{ cell, before, beforeAt }] = group;
    const kernels = kernelsText(group.map((change) => change.cell)).split(', ');
    const parts = [...kernels, `${beforeText(cell, before)} ${beforeAt.slice(0, 10)}`];
    return { module: oneLine(cell.module), parts: parts.map(oneLine), ...place(cell) };
  });
}

function brokenStory(story: Broken, place: PlaceOf): PageData['broken'][number] {
  const expected = story.cell.outcome === 'expected-failure' ? ['expected'] : [];
  return {
    module: oneLine(story.module),
    parts: [story.distro, ...brokenSince(story).split(', '), ...expected].map(oneLine),
    withNewest: story.firstBad === story.newest && story.lastGood !== null,
    ...place(story.cell, story),
  };
}

const showsLog = ({ outcome }: MatrixCell): boolean =>
  outcome === 'failed' || outcome === 'error' || outcome === 'expected-failure';

function pageCell(
  cell: MatrixCell,
  past: (Outcome | null)[],
  folder: string | undefined,
  logLength: number,
): PageCell {
  return {
    outcome: cell.outcome,
    version: cell.version && oneLine(cell.version),
    reason: reasonOf(cell),
    expected: cell.expected && plain(cell.expected),
    fault: cell.fault,
    package: fileOf(cell.package, folder),
    log: fileOf(cell.log, folder),
    logTail: showsLog(cell) && cell.logTail ? plain(cell.logTail.slice(-logLength)) : null,
    phases: Object.entries(cell.phases).map(([name, seconds]) => [oneLine(name), seconds]),
    reproducible: cell.reproducible ?? null,
    signedBy: cell.signedBy,
    worker: cell.worker && oneLine(cell.worker),
    seconds: cell.seconds,
    startedAt: cell.startedAt,
    kept: cell.kept,
    past,
  };
}

function fileOf(path: string | null, folder: string | undefined): PageFile | null {
  if (path === null) return null;
  const name = oneLine(basename(path));
  if (folder === undefined) return { name, href: null };
  const way = relative(folder, path);
  // On another drive there is no relative way.
  if (isAbsolute(way)) return { name, href: null };
  // The dot keeps a name such as `javascript:x` a name.
  return { name, href: `./${way.split(sep).map(encodeURIComponent).join('/')}` };
}
