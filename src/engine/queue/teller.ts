import type { Event } from '../../model/events.js';
import type { Told } from './protocol.js';

const FLUSH_MS = 500;
/** Of the output in one message. */
const LAST_LINES = 20;

/** Tells of a cell's stages at once, and of its output a few times a second the last lines. */
export class Teller implements Disposable {
  #lines: string[] = [];
  readonly #timer: NodeJS.Timeout;

  constructor(private readonly tell: (told: Told) => Promise<void>) {
    this.#timer = setInterval(() => this.#flush(), FLUSH_MS);
  }

  take(event: Event): void {
    if (event.type === 'output') this.#lines = [...this.#lines, event.line].slice(-LAST_LINES);
    if (event.type !== 'phase') return;
    const { type, state, phase, seconds } = event;
    this.#say({ type, state, phase, ...(seconds !== undefined && { seconds }) });
  }

  #flush(): void {
    if (this.#lines.length > 0) this.#say({ type: 'output', lines: this.#lines.splice(0) });
  }

  /** Nothing hangs on it: a message that is lost is not missed. */
  #say(told: Told): void {
    void this.tell(told).catch(() => undefined);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#flush();
  }
}
