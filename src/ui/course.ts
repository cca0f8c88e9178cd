import type { CourseStep, Event } from '../model/events.js';
import { formatClock } from '../lib/units.js';

type CourseEvent = Extract<Event, { type: 'course' }>;

/** How far a step is. Times in milliseconds. */
interface Progress {
  step: CourseStep;
  begun: number | null;
  /** Lines that it has printed. */
  lines: number;
  /** Of its download, 0 to 1; null while nothing is known. */
  bytes: number | null;
  done: boolean;
}

/** Nothing is said to be nearly done before it is. */
const MOST = 0.99;

/** How far the whole of a run is, from what was expected of it and what its events tell. It never goes back. */
export class Course {
  readonly #steps: Progress[];
  readonly #width: number;
  readonly #began: number;
  #shown = 0;

  constructor(
    { ahead, seconds }: CourseEvent,
    private readonly now: () => number,
  ) {
    this.#steps = ahead.map((step) => ({ step, begun: null, lines: 0, bytes: null, done: false }));
    // Steps may go on side by side.
    this.#width = Math.max(1, this.#sum(() => 1) / Math.max(1, seconds));
    this.#began = now();
  }

  get over(): boolean {
    return this.#steps.every(({ done }) => done);
  }

  add(event: Event): void {
    switch (event.type) {
      case 'progress':
        return this.#transfer(event);
      case 'phase':
        return this.#phase(event);
      case 'output': {
        const { cell } = event;
        const at = cell === undefined ? this.#lastShared() : this.#find('cell', cell);
        if (at) at.lines += 1;
        return;
      }
      case 'cell':
        this.#end(this.#find('cell', event.cell));
    }
  }

  /** 0 to 1; 1 only when all is done. */
  fraction(): number {
    const all = this.#sum(() => 1);
    const made = all === 0 ? 1 : this.#sum((each) => this.#of(each)) / all;
    this.#shown = Math.max(this.#shown, this.over ? 1 : Math.min(MOST, made));
    return this.#shown;
  }

  /** Seconds that the rest will take, by what was expected and by how it went so far. */
  left(): number {
    const gone = (this.now() - this.#began) / 1000;
    const expected = this.#sum((each) => this.#of(each)) / this.#width;
    // What is known of the pace after a few seconds is worth little.
    const pace = expected < 10 ? 1 : Math.min(4, Math.max(0.5, gone / expected));
    return (this.#sum((each) => 1 - this.#of(each)) / this.#width) * pace;
  }

  /** `34%, about 2:10 left`. */
  text(): string {
    const left = this.left();
    const soon = left < 5 ? 'a few seconds left' : `about ${formatClock(left)} left`;
    const rest = this.#isLate() ? 'longer than expected' : soon;
    return `${Math.floor(this.fraction() * 100)}%, ${rest}`;
  }

  /** A bar and what it means, in a line. */
  bar(columns: number): string {
    const width = Math.max(8, Math.min(30, Math.floor(columns / 4)));
    const full = Math.floor(this.fraction() * width);
    return `${'█'.repeat(full)}${'░'.repeat(width - full)} ${this.text()}`;
  }

  /** A step takes so much longer that nothing can be said of how long. */
  #isLate(): boolean {
    return this.#steps.some(
      ({ step, begun, bytes, done }) =>
        !done && begun !== null && bytes === null && this.now() - begun > 1500 * Math.max(10, step.seconds),
    );
  }

  #sum(share: (each: Progress) => number): number {
    return this.#steps.reduce((sum, each) => sum + each.step.seconds * share(each), 0);
  }

  #of(each: Progress): number {
    if (each.done) return 1;
    if (each.bytes !== null) return each.bytes;
    if (each.begun === null) return 0;
    const { seconds, lines } = each.step;
    const byTime = approach((this.now() - each.begun) / 1000 / Math.max(1, seconds));
    if (lines === undefined || lines < 1) return byTime;
    // Lines come in bursts, time knows nothing of this run: together they are better than either.
    return (byTime + approach(each.lines / lines)) / 2;
  }

  #transfer({ what, done, total }: Extract<Event, { type: 'progress' }>): void {
    const at = this.#find('download', what);
    if (!at || total === undefined || total <= 0) return;
    at.begun ??= this.now();
    at.bytes = done / total;
    if (done >= total) this.#end(at);
  }

  #phase({ phase, state, cell }: Extract<Event, { type: 'phase' }>): void {
    const at = cell === undefined ? this.#find('stage', phase) : this.#find('cell', cell);
    if (!at) return;
    if (state === 'start') {
      at.begun ??= this.now();
      // What stands on an image has one: also where another one was made than was thought.
      if (!at.step.image) for (const each of this.#steps) if (each.step.image) each.done = true;
    } else if (cell === undefined) this.#end(at);
  }

  #end(at: Progress | undefined): void {
    if (at) at.done = true;
  }

  #find(kind: CourseStep['kind'], key: string): Progress | undefined {
    return this.#steps.find(({ step }) => step.kind === kind && step.key === key);
  }

  #lastShared(): Progress | undefined {
    return this.#steps
      .filter(({ step, begun, done }) => step.kind === 'stage' && begun !== null && !done)
      .toSorted((a, b) => (b.begun ?? 0) - (a.begun ?? 0))[0];
  }
}

/** What is expected to be there at 1 slows down before it and never arrives. */
function approach(share: number): number {
  return share < 0.8 ? share : 1 - 0.2 / (1 + (share - 0.8) / 0.2);
}
