import { readSync, writeSync, closeSync, constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { run } from '../lib/exec.js';
import { plain } from '../lib/text.js';

/** A kernel's whole start takes 50 KiB; a guest may print for ever. */
const LIMIT = 16 * 1024 * 1024;
const TAIL = 64 * 1024;

/** @internal */
export const CUT_MARK = `\n[dkms2bin: the console's log is cut here, after ${LIMIT / 2 ** 20} MiB]\n`;

/**
 * What a guest prints on its console: QEMU writes to the pipe `pipe`, which lies among its sockets, and this keeps the first 16 MiB
 * in the file `log`, with a mark where it is cut, and the last lines in memory.
 */
export class ConsoleLog implements Disposable {
  #left: number;
  readonly #listeners = new Set<(bytes: Buffer) => void>();
  #tail = Buffer.alloc(0);

  private constructor(
    private readonly file: number,
    private readonly fd: number,
    private readonly reader: Socket,
    limit: number,
  ) {
    this.#left = limit;
    reader.on('data', (bytes: Buffer) => this.#take(bytes));
    reader.on('error', () => undefined);
  }

  static async open(pipe: string, log: string, limit = LIMIT): Promise<ConsoleLog> {
    await run('mkfifo', ['-m', '600', pipe]);
    // For writing, too: else it would end each time that QEMU does not hold it.
    const fd = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
    const file = openSync(log, 'a', 0o600);
    return new ConsoleLog(file, fd, new Socket({ fd, readable: true, writable: false }), limit);
  }

  /** Calls `onBytes` with what comes from now on, until the returned function is called. */
  subscribe(onBytes: (bytes: Buffer) => void): () => void {
    this.#listeners.add(onBytes);
    return () => void this.#listeners.delete(onBytes);
  }

  /** Last lines, safe to print. */
  tail(lines: number): string {
    this.#drain();
    return plain(this.#tail.toString('utf8').replaceAll('\r', ''))
      .split('\n')
      .filter((line) => line.trim() !== '')
      .slice(-lines)
      .join('\n');
  }

  /** What lies in the pipe and was not told of yet. */
  #drain(): void {
    const buffer = Buffer.alloc(64 * 1024);
    try {
      for (let got = 1; got > 0;) {
        got = readSync(this.fd, buffer);
        this.#take(buffer.subarray(0, got));
      }
    } catch {
      // Nothing is left.
    }
  }

  #take(bytes: Buffer): void {
    this.#tail = Buffer.concat([this.#tail, bytes]).subarray(-TAIL);
    if (bytes.length > 0) for (const listener of this.#listeners) listener(bytes);
    if (this.#left <= 0) return;
    const kept = bytes.subarray(0, this.#left);
    this.#left -= kept.length;
    try {
      writeSync(this.file, kept);
      if (this.#left === 0) writeSync(this.file, CUT_MARK);
    } catch {
      // The disk is full, which QEMU notices and says.
      this.#left = 0;
    }
  }

  [Symbol.dispose](): void {
    this.#drain();
    this.reader.destroy();
    closeSync(this.file);
  }
}
