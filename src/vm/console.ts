import { open } from 'node:fs/promises';
import { StringDecoder } from 'node:string_decoder';
import { plain } from '../lib/text.js';

const LOOK_MS = 500;
/** Of one look; what a guest writes beyond it is looked at the next time. */
const MOST_BYTES = 256 * 1024;
const MAX_LINE = 1000;

/** Reads along with the console that QEMU writes to a file, until it is disposed. */
export class ConsoleWatch implements Disposable {
  #at = 0;
  #rest = '';
  #heard = Date.now();
  readonly #decoder = new StringDecoder('utf8');
  readonly #timer: NodeJS.Timeout;
  #looking = false;

  constructor(
    private readonly path: string,
    /** Gets each line, control bytes removed. */
    private readonly onLine: (line: string) => void = () => undefined,
    lookMs = LOOK_MS,
  ) {
    this.#timer = setInterval(() => void this.#look(), lookMs);
    this.#timer.unref();
  }

  /** Since the guest last wrote anything. */
  get silentMs(): number {
    return Date.now() - this.#heard;
  }

  /** Rejects once the guest has been silent for so long; never resolves. */
  silent(ms: number, error: () => Error): Promise<never> & Disposable {
    let timer: NodeJS.Timeout | undefined;
    const over = new Promise<never>((_, reject) => {
      timer = setInterval(
        () => {
          if (this.silentMs >= ms) reject(error());
        },
        Math.min(1000, ms),
      );
    });
    over.catch(() => undefined);
    return Object.assign(over, { [Symbol.dispose]: () => clearInterval(timer) });
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    try {
      const handle = await open(this.path, 'r');
      try {
        const { bytesRead, buffer } = await handle.read(Buffer.alloc(MOST_BYTES), 0, MOST_BYTES, this.#at);
        if (bytesRead === 0) return;
        this.#at += bytesRead;
        this.#heard = Date.now();
        this.#take(this.#decoder.write(buffer.subarray(0, bytesRead)));
      } finally {
        await handle.close();
      }
    } catch {
      // Not there yet, or no more.
    } finally {
      this.#looking = false;
    }
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split(/[\r\n]+/);
    this.#rest = (lines.pop() ?? '').slice(-MAX_LINE);
    for (const line of lines) {
      const clean = plain(line).trim().slice(0, MAX_LINE);
      if (clean !== '') this.onLine(clean);
    }
  }
}
