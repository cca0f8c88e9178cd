import type { Event, MatrixEventCell } from '../model/events.js';
import { formatClock } from '../lib/units.js';
import { clean } from './lines.js';

/** What a cell does at the moment. `since` in milliseconds. */
interface Running {
  phase: string;
  since: number;
}

const MARKS: Readonly<Record<string, string>> = {
  built: '✓',
  'up-to-date': '=',
  skipped: '-',
  'expected-failure': 'x',
  'unexpected-pass': '?',
  failed: '✗',
  error: '!',
};
/** The worst of a cell's modules is what the cell shows. */
const WORST = ['error', 'failed', 'unexpected-pass', 'expected-failure', 'built', 'up-to-date', 'skipped'];
const TAIL_LINES = 3;

/** Where a matrix stands, from its events, and how that looks on a screen of some size. */
export class MatrixView {
  readonly #cells: readonly MatrixEventCell[];
  readonly #outcomes = new Map<string, string[]>();
  readonly #begun = new Map<string, number>();
  readonly #tails = new Map<string, string[]>();
  #atOnce = 1;

  constructor(event: Extract<Event, { type: 'matrix' }>) {
    this.#cells = event.cells.map((each) => ({
      ...each,
      ...{ cell: clean(each.cell), source: clean(each.source), kernel: clean(each.kernel) },
    }));
    for (const { cell, outcomes } of this.#cells) if (outcomes.length > 0) this.#outcomes.set(cell, outcomes);
  }

  get total(): number {
    return this.#cells.length;
  }

  get done(): number {
    return this.#outcomes.size;
  }

  add(event: Event, now: number): void {
    const cell = 'cell' in event && event.cell !== undefined ? clean(event.cell) : null;
    if (cell === null) return;
    if (event.type === 'turn') {
      this.#begun.set(cell, now);
      this.#atOnce = Math.max(this.#atOnce, this.#begun.size);
    }
    if (event.type === 'output') {
      const lines = [...(this.#tails.get(cell) ?? []), clean(event.line)];
      this.#tails.set(cell, lines.slice(-TAIL_LINES));
    }
    if (event.type === 'cell') {
      this.#begun.delete(cell);
      this.#tails.delete(cell);
      this.#outcomes.set(cell, [...(this.#outcomes.get(cell) ?? []), event.verdict]);
    }
  }

  /** At most `rows` lines, each to be cut to `columns`. `running` by the names of cells; `others` are lines of other work. */
  lines(
    { columns, rows, now }: { columns: number; rows: number; now: number },
    running: ReadonlyMap<string, Running>,
    others: readonly string[],
  ): string[] {
    const bar = this.#bar(columns, now, others.length > 0);
    const wide = this.#wide(columns, running, now);
    const working = [...this.#begun.keys()].map((cell) => {
      const { phase, since } = running.get(cell) ?? { phase: 'waiting', since: now };
      return `${cell}  ${phase} ${formatClock((now - since) / 1000)}`;
    });
    // Most worth first: where it stands, what runs, what it says; then the table, if there is room.
    const below = [...others, ...this.#tail()];
    if (wide && wide.length + below.length + 1 <= rows) return [...wide, ...below, bar];
    const compact = this.#compact(columns);
    const list = [...working, ...below];
    if (compact.length + list.length + 1 <= rows) return [...compact, ...list, bar];
    const room = Math.max(0, rows - 1);
    if (list.length <= room) return [...list, bar];
    const fitting = list.slice(0, Math.max(0, room - 1));
    return [...fitting, ...(room > 0 ? [`and ${list.length - fitting.length} more`] : []), bar];
  }

  /** The last lines of the cell that runs longest. */
  #tail(): string[] {
    const [cell] = this.#begun.keys();
    return (cell === undefined ? [] : (this.#tails.get(cell) ?? [])).map((line) => `  │ ${line}`);
  }

  #outcome(cell: string): string | undefined {
    const outcomes = this.#outcomes.get(cell);
    return outcomes && WORST.find((each) => outcomes.includes(each));
  }

  #grid(): { kernels: string[]; rows: [source: string, cells: (MatrixEventCell | undefined)[]][] } {
    const kernels = [...new Set(this.#cells.map(({ kernel }) => kernel))];
    const sources = [...new Set(this.#cells.map(({ source }) => source))];
    const at = new Map(this.#cells.map((each) => [`${each.source}\n${each.kernel}`, each]));
    const rows = sources.map((source): [string, (MatrixEventCell | undefined)[]] => [
      source,
      kernels.map((kernel) => at.get(`${source}\n${kernel}`)),
    ]);
    return { kernels, rows };
  }

  /** A column for each kernel, with outcomes and phases in words; null when the screen is too narrow. */
  #wide(columns: number, running: ReadonlyMap<string, Running>, now: number): string[] | null {
    const { kernels, rows } = this.#grid();
    const state = (each: MatrixEventCell | undefined): string => {
      if (!each) return '';
      const outcome = this.#outcome(each.cell);
      if (outcome !== undefined) return `${MARKS[outcome] ?? ' '} ${outcome}`;
      const begun = this.#begun.get(each.cell);
      if (begun === undefined) return '·';
      return `▸ ${running.get(each.cell)?.phase ?? ''} ${formatClock((now - begun) / 1000)}`;
    };
    const first = Math.max(...rows.map(([source]) => source.length));
    // The longest word that a cell may show.
    const widths = kernels.map((kernel) => Math.max(kernel.length, 18));
    if (first + widths.reduce((sum, width) => sum + width + 2, 0) >= columns) return null;
    const line = (head: string, cells: readonly string[]): string =>
      [head.padEnd(first), ...cells.map((text, i) => text.padEnd(widths[i] ?? 0))].join('  ').trimEnd();
    return [line('', kernels), ...rows.map(([source, cells]) => line(source, cells.map(state)))];
  }

  /** A sign for each cell. */
  #compact(columns: number): string[] {
    const { rows } = this.#grid();
    const first = Math.min(Math.max(...rows.map(([source]) => source.length)), Math.floor(columns / 2));
    const sign = (each: MatrixEventCell | undefined): string => {
      if (!each) return ' ';
      const outcome = this.#outcome(each.cell);
      if (outcome !== undefined) return MARKS[outcome] ?? ' ';
      return this.#begun.has(each.cell) ? '▸' : '·';
    };
    return rows.map(
      ([source, cells]) => `${source.slice(0, first).padEnd(first)}  ${cells.map(sign).join('')}`,
    );
  }

  #bar(columns: number, now: number, busy: boolean): string {
    const { done, total } = this;
    const width = Math.max(8, Math.min(30, Math.floor(columns / 4)));
    const full = Math.floor((done / Math.max(1, total)) * width);
    const counts = WORST.map((outcome) => {
      const count = [...this.#outcomes.keys()].filter((cell) => this.#outcome(cell) === outcome).length;
      return count === 0 ? '' : `  ${MARKS[outcome] ?? ''} ${count} ${outcome}`;
    });
    return `${'█'.repeat(full)}${'░'.repeat(width - full)} ${done}/${total}${this.#left(now, busy)}${counts.join('')}`;
  }

  /** How long the rest takes by what it took before; nothing when that is not known. */
  #left(now: number, busy: boolean): string {
    const open = this.#cells.filter(({ cell }) => !this.#outcomes.has(cell));
    if (open.length === 0 || this.#begun.size === 0) return '';
    const unknown = open.filter(({ seconds }) => seconds === null).length;
    if (unknown > 0) return `  time left unknown: ${unknown} never built before`;
    const left = open.map(({ cell, seconds }) => {
      const begun = this.#begun.get(cell);
      return Math.max(0, (seconds ?? 0) - (begun === undefined ? 0 : (now - begun) / 1000));
    });
    const longest = Math.max(...left);
    const seconds = Math.max(longest, left.reduce((sum, each) => sum + each, 0) / this.#atOnce);
    return `  about ${formatClock(seconds)} left${busy ? ', plus what is still being prepared' : ''}`;
  }
}
