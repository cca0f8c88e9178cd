import type { Event } from '../model/events.js';
import { formatClock } from '../lib/units.js';
import { clean, progressText } from './lines.js';

/** A stage that runs. `since` in milliseconds. */
interface Status {
  /** Empty for work that cells share. */
  cell: string;
  phase: string;
  since: number;
  detail: string;
}

/** A transfer that nothing is heard of for so long is taken from the screen. */
const STALE_MS = 5000;

/** What is going on, by its events: stages that run, by cell, and transfers. */
export class LiveWork {
  /** By the names of cells; work that cells share has names of its own. */
  readonly running = new Map<string, Status>();
  readonly #transfers = new Map<string, { text: string; at: number }>();

  constructor(private readonly now: () => number) {}

  get busy(): boolean {
    return this.running.size + this.#transfers.size > 0;
  }

  add(event: Event): void {
    switch (event.type) {
      case 'progress':
        return this.#progress(event);
      case 'phase':
        return this.#phase(event);
      case 'output': {
        const status =
          this.running.get(cellOf(event)) ?? (event.cell === undefined ? this.#lastShared() : undefined);
        if (status) status.detail = clean(event.line);
        return;
      }
      case 'cell':
        this.running.delete(cellOf(event));
    }
  }

  /** All that goes on, a line each. */
  lines(): string[] {
    return [...[...this.running.values()].map((each) => this.#line(each)), ...this.#transferLines()];
  }

  /** The same without what single cells do. */
  sharedLines(): string[] {
    const shared = [...this.running.values()].filter(({ cell }) => cell === '');
    return [...shared.map((each) => this.#line(each)), ...this.#transferLines()];
  }

  forgetStale(): void {
    for (const [what, { at }] of this.#transfers)
      if (this.now() - at > STALE_MS) this.#transfers.delete(what);
  }

  #progress(event: Extract<Event, { type: 'progress' }>): void {
    const { what, done, total } = event;
    if (total !== undefined && done >= total) this.#transfers.delete(what);
    else this.#transfers.set(what, { text: progressText(event), at: this.now() });
  }

  #phase(event: Extract<Event, { type: 'phase' }>): void {
    const cell = cellOf(event);
    const phase = clean(event.phase);
    // Layers of several kernels are made at the same time.
    const key = cell === '' ? `\n${phase}` : cell;
    if (event.state === 'start') this.running.set(key, { cell, phase, since: this.now(), detail: '' });
    // A phase that ended while an inner one took its place has nothing to take back.
    else if (this.running.get(key)?.phase === phase) this.running.delete(key);
  }

  #lastShared(): Status | undefined {
    return [...this.running.values()].findLast(({ cell }) => cell === '');
  }

  #line({ cell, phase, since, detail }: Status): string {
    const clock = formatClock((this.now() - since) / 1000);
    return `${cell === '' ? '' : `${cell}  `}${phase} ${clock}${detail === '' ? '' : `  ${detail}`}`;
  }

  #transferLines(): string[] {
    return [...this.#transfers.values()].map(({ text }) => text);
  }
}

const cellOf = ({ cell }: { cell?: string }): string => (cell === undefined ? '' : clean(cell));
