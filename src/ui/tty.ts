import { formatClock } from '../lib/units.js';
import { clean, lineOf, progressText } from './lines.js';
import { MatrixView } from './matrix-view.js';
import type { Output, Ui, UiOptions } from './ui.js';

const REDRAW_MS = 100;

interface Status {
  /** Empty for work that cells share. */
  cell: string;
  phase: string;
  since: number;
  detail: string;
}

/**
 * One live line per running cell, or a matrix's table, at the bottom of the terminal, redrawn at most ten times a second; lines that stay
 * (warnings, verdicts) scroll by above. A line is cut to the terminal's width, because a wrapped one could not be
 * taken back.
 */
export function ttyUi(output: Output, options: UiOptions): Ui {
  const now = options.now ?? Date.now;
  const started = now();
  const running = new Map<string, Status>();
  let matrix: MatrixView | null = null;
  const transfers = new Map<string, { text: string; at: number }>();
  let drawn = 0;
  let lastDraw = -Infinity;
  let timer: NodeJS.Timeout | null = null;
  let paused = false;
  let closed = false;
  let held = '';

  const fit = (line: string): string => {
    const width = Math.max(20, (output.columns ?? 80) - 1);
    const chars = [...line];
    return chars.length <= width ? line : `${chars.slice(0, width - 1).join('')}…`;
  };

  const erase = (): string => (drawn === 0 ? '' : `\x1b[${drawn}A\r\x1b[J`);

  const statusLine = ({ cell, phase, since, detail }: Status): string => {
    const clock = formatClock((now() - since) / 1000);
    return `${cell === '' ? '' : `${cell}  `}${phase} ${clock}${detail === '' ? '' : `  ${detail}`}`;
  };

  const block = (): string[] => {
    const statuses = [...running.values()];
    const room = Math.max(1, (output.rows ?? 24) - 2);
    const moving = [...transfers.values()].map(({ text }) => text);
    if (matrix) {
      const others = statuses.filter(({ cell }) => cell === '').map(statusLine);
      const size = { columns: output.columns ?? 80, rows: room, now: now() };
      return matrix.lines(size, running, [...others, ...moving]).map(fit);
    }
    const lines = [...statuses.map(statusLine), ...moving];
    return (
      lines.length > room ? [...lines.slice(0, room - 1), `and ${lines.length - room + 1} more`] : lines
    ).map(fit);
  };

  /** `above` is text that stays, whole lines. */
  const draw = (above = ''): void => {
    for (const [what, transfer] of transfers) if (now() - transfer.at > 5000) transfers.delete(what);
    const lines = block();
    const text = `${erase()}${above}${lines.map((line) => `${line}\n`).join('')}`;
    if (text !== '') output.write(text);
    drawn = lines.length;
    lastDraw = now();
  };

  const wipe = (): void => {
    if (drawn > 0) output.write(erase());
    drawn = 0;
  };

  const stop = (): void => {
    if (timer) clearInterval(timer);
    timer = null;
  };

  let dirty = false;
  const start = (): void => {
    timer ??= setInterval(() => {
      // Clocks move once a second even when nothing is told.
      if (dirty || (running.size + transfers.size + (matrix ? 1 : 0) > 0 && now() - lastDraw >= 1000)) {
        dirty = false;
        draw();
      }
    }, REDRAW_MS);
    timer.unref();
  };

  const stay = (text: string): void => {
    const line = `[${formatClock((now() - started) / 1000).padStart(5)}] ${text}\n`;
    if (paused) held += line;
    else draw(line);
  };

  start();
  return {
    emit(event) {
      if (closed) return;
      dirty = true;
      if (event.type === 'progress') {
        if (event.total !== undefined && event.done >= event.total) transfers.delete(event.what);
        else transfers.set(event.what, { text: progressText(event), at: now() });
        return;
      }
      if (event.type === 'matrix') matrix = new MatrixView(event);
      matrix?.add(event, now());
      const cell = 'cell' in event && event.cell !== undefined ? clean(event.cell) : '';
      if (event.type === 'phase') {
        const phase = clean(event.phase);
        // Layers of several kernels are made at the same time.
        const key = cell === '' ? `\n${phase}` : cell;
        if (event.state === 'start') running.set(key, { cell, phase, since: now(), detail: '' });
        // A phase that ended while an inner one took its place has nothing to take back.
        else if (running.get(key)?.phase === phase) running.delete(key);
        if (options.level !== 'verbose') return;
      }
      if (event.type === 'output') {
        const shared =
          cell === '' ? [...running.values()].filter((each) => each.cell === '').at(-1) : undefined;
        const status = running.get(cell) ?? shared;
        if (status) status.detail = clean(event.line);
      }
      if (event.type === 'cell') running.delete(cell);
      const line = lineOf(event, options.level);
      if (line !== null) stay(line);
    },
    pause() {
      if (paused) return;
      stop();
      wipe();
      paused = true;
    },
    resume() {
      if (!paused || closed) return;
      paused = false;
      const text = held;
      held = '';
      draw(text);
      start();
    },
    close() {
      if (closed) return;
      if (paused) this.resume();
      stop();
      wipe();
      closed = true;
    },
  };
}
