import type { Event } from '../model/events.js';
import { formatClock } from '../lib/units.js';
import { Course } from './course.js';
import { LiveWork } from './live-work.js';
import { courseLines, lineOf } from './lines.js';
import { MatrixView } from './matrix-view.js';
import type { Output, Ui, UiOptions } from './ui.js';

const REDRAW_MS = 100;

/**
 * One live line per running cell, or a matrix's table, at the bottom of the terminal, redrawn at most ten times a second; lines that stay
 * (warnings, verdicts) scroll by above. A line is cut to the terminal's width, because a wrapped one could not be
 * taken back.
 */
export function ttyUi(output: Output, options: UiOptions): Ui {
  return new TtyUi(output, options);
}

class TtyUi implements Ui {
  readonly #now: () => number;
  readonly #started: number;
  readonly #work: LiveWork;
  #matrix: MatrixView | null = null;
  #course: Course | null = null;
  /** Live lines on the terminal, and its width when they were drawn. */
  #drawn: string[] = [];
  #columns = 0;
  #lastDraw = -Infinity;
  #dirty = false;
  #timer: NodeJS.Timeout | null = null;
  #paused = false;
  #closed = false;
  /** Lines that stay, until the terminal is ours again. */
  #held = '';

  constructor(
    private readonly output: Output,
    private readonly options: UiOptions,
  ) {
    this.#now = options.now ?? Date.now;
    this.#started = this.#now();
    this.#work = new LiveWork(this.#now);
    this.#start();
  }

  /** Callers take it along without its object. */
  readonly emit = (event: Event): void => {
    if (this.#closed) return;
    this.#dirty = true;
    if (event.type === 'matrix') this.#matrix = new MatrixView(event);
    if (event.type === 'course') return this.#begin(event);
    this.#matrix?.add(event, this.#now());
    this.#course?.add(event);
    this.#work.add(event);
    // The live lines show it.
    if (event.type === 'phase' && this.options.level !== 'verbose') return;
    const line = lineOf(event, this.options.level);
    if (line !== null) this.#stay(line);
  };

  say(text: string): void {
    if (!this.#closed) this.#stay(text);
  }

  #begin(event: Extract<Event, { type: 'course' }>): void {
    this.#course = event.ahead.length > 0 ? new Course(event, this.#now) : null;
    if (this.options.level !== 'quiet') for (const line of courseLines(event)) this.#stay(line);
  }

  pause(): void {
    if (this.#paused) return;
    this.#stop();
    this.#wipe();
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused || this.#closed) return;
    this.#paused = false;
    const text = this.#held;
    this.#held = '';
    this.#draw(text);
    this.#start();
  }

  close(): void {
    if (this.#closed) return;
    if (this.#paused) this.resume();
    this.#stop();
    this.#wipe();
    this.#closed = true;
  }

  #start(): void {
    this.#timer ??= setInterval(() => {
      // Clocks move once a second even when nothing is told.
      const moving = this.#matrix !== null || this.#course !== null || this.#work.busy;
      const resized = this.#drawn.length > 0 && this.#columns !== (this.output.columns ?? 80);
      if (this.#dirty || resized || (moving && this.#now() - this.#lastDraw >= 1000)) {
        this.#dirty = false;
        this.#draw();
      }
    }, REDRAW_MS);
    this.#timer.unref();
  }

  #stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
  }

  #stay(text: string): void {
    const clock = formatClock((this.#now() - this.#started) / 1000).padStart(5);
    const line = `[${clock}] ${text}\n`;
    if (this.#paused) this.#held += line;
    else this.#draw(line);
  }

  /** `above` is text that stays, whole lines. */
  #draw(above = ''): void {
    this.#work.forgetStale();
    const lines = this.#lines();
    const text = `${this.#erase()}${above}${lines.map((line) => `${line}\n`).join('')}`;
    if (text !== '') this.output.write(text);
    this.#drawn = lines;
    this.#columns = this.output.columns ?? 80;
    this.#lastDraw = this.#now();
  }

  #lines(): string[] {
    const rows = Math.max(1, (this.output.rows ?? 24) - 2);
    const columns = this.output.columns ?? 80;
    if (this.#matrix) {
      const size = { columns, rows, now: this.#now() };
      return this.#matrix
        .lines(size, this.#work.running, this.#work.sharedLines())
        .map((line) => this.#fit(line));
    }
    const lines = this.#work.lines();
    const bar = this.#course === null || this.#course.over ? [] : [this.#course.bar(columns)];
    const room = Math.max(1, rows - bar.length);
    const over = lines.length - room;
    const shown = over > 0 ? [...lines.slice(0, room - 1), `and ${over + 1} more`] : lines;
    return [...shown, ...bar].map((line) => this.#fit(line));
  }

  #fit(line: string): string {
    const width = Math.max(20, (this.output.columns ?? 80) - 1);
    const chars = [...line];
    return chars.length <= width ? line : `${chars.slice(0, width - 1).join('')}…`;
  }

  #erase(): string {
    if (this.#drawn.length === 0) return '';
    // A terminal that became narrower has wrapped them.
    const columns = this.output.columns ?? 80;
    const rows = this.#drawn.map((line) => Math.max(1, Math.ceil([...line].length / columns)));
    return `\x1b[${rows.reduce((sum, count) => sum + count, 0)}A\r\x1b[J`;
  }

  #wipe(): void {
    if (this.#drawn.length > 0) this.output.write(this.#erase());
    this.#drawn = [];
  }
}
