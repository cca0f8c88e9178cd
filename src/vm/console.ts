import { StringDecoder } from 'node:string_decoder';
import { plain } from '../lib/text.js';

const MAX_LINE = 1000;
/** systemd counts the seconds of a job that hangs; one that it will never end is no sign of life. */
const ENDLESS = /\/ no limit\)/;

/** Hears what a guest writes on its console, until it is disposed. */
export class ConsoleWatch implements Disposable {
  #rest = '';
  #heard = Date.now();
  readonly #decoder = new StringDecoder('utf8');
  readonly #unsubscribe: () => void;

  constructor(
    subscribe: (onBytes: (bytes: Buffer) => void) => () => void,
    /** Gets each line, control bytes removed. */
    private readonly onLine: (line: string) => void = () => undefined,
  ) {
    this.#unsubscribe = subscribe((bytes) => this.#take(bytes));
  }

  /** Rejects once the guest has written nothing for so long; never resolves. */
  silent(ms: number, error: () => Error): Promise<never> & Disposable {
    let timer: NodeJS.Timeout | undefined;
    const over = new Promise<never>((_, reject) => {
      const look = (): void => {
        if (Date.now() - this.#heard >= ms) reject(error());
      };
      timer = setInterval(look, Math.min(1000, ms));
    });
    over.catch(() => undefined);
    return Object.assign(over, { [Symbol.dispose]: () => clearInterval(timer) });
  }

  [Symbol.dispose](): void {
    this.#unsubscribe();
  }

  #take(bytes: Buffer): void {
    const lines = (this.#rest + this.#decoder.write(bytes)).split(/[\r\n]+/);
    this.#rest = (lines.pop() ?? '').slice(-MAX_LINE);
    for (const line of lines) {
      const clean = plain(line).trim().slice(0, MAX_LINE);
      if (clean === '') continue;
      if (!ENDLESS.test(clean)) this.#heard = Date.now();
      this.onLine(clean);
    }
  }
}
