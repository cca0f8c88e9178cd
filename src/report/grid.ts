import type { MatrixCell, MatrixKernel, MatrixRun, Outcome } from '../model/matrix.js';
import { plain } from '../lib/text.js';
import { oneLine } from './text.js';

/** What every report calls an outcome, from the worst to the best: its word and the sign that stands for it. */
export const OUTCOMES: Record<Outcome, { word: string; sign: string; letter: string }> = {
  failed: { word: 'failed', sign: '✗', letter: 'F' },
  error: { word: 'error', sign: '!', letter: 'E' },
  'unexpected-pass': { word: 'unexpected pass', sign: '?', letter: 'P' },
  'not-run': { word: 'not run', sign: '·', letter: '.' },
  'expected-failure': { word: 'expected failure', sign: '≈', letter: 'x' },
  skipped: { word: 'skipped', sign: '–', letter: '-' },
  'up-to-date': { word: 'up to date', sign: '=', letter: '=' },
  built: { word: 'built', sign: '✓', letter: '+' },
};

const WORST_FIRST = Object.keys(OUTCOMES) as Outcome[];

/** One module over all kernels of a run; `cells` has a place for each of `run.kernels`, null where nothing was asked. */
export interface GridRow {
  source: string;
  module: string;
  cells: (MatrixCell | null)[];
}

/**
 * The rows in the order of `run.sources`. A source that broke before its modules were known (no such package, mirror
 * down) has a cell of its own there; it stands for each module that the source showed on other kernels.
 */
export function gridRows(run: MatrixRun): GridRow[] {
  const at = new Map(run.kernels.map((kernel, i) => [kernelKey(kernel), i]));
  const bySource = new Map<string, Map<string, GridRow>>(run.sources.map((source) => [source, new Map()]));
  for (const cell of run.cells) {
    const modules = bySource.get(cell.source) ?? new Map<string, GridRow>();
    bySource.set(cell.source, modules);
    const row = modules.get(cell.module) ?? {
      source: cell.source,
      module: cell.module,
      cells: run.kernels.map(() => null),
    };
    modules.set(cell.module, row);
    const i = at.get(kernelKey({ ...cell, release: cell.kernel }));
    if (i !== undefined) row.cells[i] = cell;
  }
  return [...bySource.values()].flatMap((modules) => foldUnknown([...modules.values()]));
}

function foldUnknown(rows: GridRow[]): GridRow[] {
  const known = rows.filter((row) => row.cells.some(hasAnswer));
  if (known.length === 0) return rows;
  const apart = rows.filter(
    (row) => !known.includes(row) && row.cells.some((cell, i) => cell && known.some((k) => k.cells[i])),
  );
  for (const row of rows) {
    if (known.includes(row) || apart.includes(row)) continue;
    for (const { cells } of known) row.cells.forEach((cell, i) => (cells[i] ??= cell));
  }
  return [...known, ...apart];
}

function hasAnswer(cell: MatrixCell | null): boolean {
  return cell !== null && cell.outcome !== 'error' && cell.outcome !== 'not-run';
}

export function kernelKey(kernel: Pick<MatrixKernel, 'distro' | 'arch' | 'release'>): string {
  return [kernel.distro, kernel.arch, kernel.release].join('\0');
}

export function rowKey(row: Pick<GridRow, 'source' | 'module'>): string {
  return [row.source, row.module].join('\0');
}

/** How many cells have each outcome, worst first; outcomes of no cell are left out. */
export function counts(cells: readonly MatrixCell[]): [Outcome, number][] {
  return WORST_FIRST.map((outcome): [Outcome, number] => [
    outcome,
    cells.filter((cell) => cell.outcome === outcome).length,
  ]).filter(([, count]) => count > 0);
}

/** `18 cells: 2 failed, 16 built`. */
export function countsText(cells: readonly MatrixCell[]): string {
  const parts = counts(cells).map(([outcome, count]) => `${count} ${OUTCOMES[outcome].word}`);
  return `${plural(cells.length, 'cell')}: ${parts.join(', ') || 'nothing to do'}`;
}

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** Why a cell is as it is, for people, with its line breaks; empty when there is no reason. */
export function reasonOf(cell: MatrixCell): string {
  return plain(cell.reason ?? '').trim();
}

/** `acpi_call 1.2.2`. */
export function moduleOf(cell: Pick<MatrixCell, 'module' | 'version'>): string {
  return plain(cell.version ? `${cell.module} ${cell.version}` : cell.module).replace(
    /[\t\n\u2028\u2029]/g,
    ' ',
  );
}

/** Rows with their names: the module's, with its source where another source has a module of that name. */
export function namedRows(rows: readonly GridRow[]): (GridRow & { name: string })[] {
  const times = new Map<string, number>();
  for (const { module } of rows) times.set(module, (times.get(module) ?? 0) + 1);
  return rows.map((row) => {
    const { module, source } = row;
    return { ...row, name: oneLine(times.get(module) === 1 ? module : `${module} (${source})`) };
  });
}

export type Some<T> = [T, ...T[]];

export function grouped<T>(items: readonly T[], keyOf: (item: T) => string): Some<T>[] {
  const groups = new Map<string, Some<T>>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group) group.push(item);
    else groups.set(keyOf(item), [item]);
  }
  return [...groups.values()];
}

/** The same for cells of one module that say the same: one mistake often shows on many kernels. */
export function saying(cell: MatrixCell): string {
  return [rowKey(cell), cell.version, cell.outcome, reasonOf(cell).split('\n')[0]].join('\0');
}

/** `6.1.0-56-amd64, 6.1.0-54-amd64 and 3 more kernels`. */
export function kernelsText(cells: readonly MatrixCell[]): string {
  const shown = cells.length > 3 ? cells.slice(0, 2) : cells;
  const names = shown.map((cell) => oneLine(cell.kernel)).join(', ');
  return cells.length > shown.length ? `${names} and ${cells.length - shown.length} more kernels` : names;
}

/** `2026-03-09 03:10 UTC`. */
export function moment(iso: string): string {
  return `${iso.slice(0, 10)} ${iso.slice(11, 16)} UTC`;
}

/** Whether somebody has to look at the cell. */
export function isBad(outcome: Outcome): boolean {
  return outcome === 'failed' || outcome === 'error';
}
