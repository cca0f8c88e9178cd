import { spawn, type IPty } from 'node-pty';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MAIN } from '../tool.js';

const here = (name: string): string => fileURLToPath(new URL(`processes/${name}`, import.meta.url));

/** A folder whose `ssh` is a shell on the terminal it is given: for PATH. */
export const GUEST = here('guest');

/** The settings of the terminal before and after, and the exit code of what ran on it. */
const FRAME =
  'stty -g >"$FRAME/before"; trap : INT; "$@"; code=$?; trap "" INT; stty -g >"$FRAME/after"; exit $code';

interface Options {
  env?: Record<string, string>;
  /** The engine of processes/engine.mjs in the place of the real one. */
  standIn?: boolean;
  /** No shell around the command: it leads the terminal's session itself, as when a terminal runs nothing else. */
  bare?: boolean;
}

/** The command on a pseudo-terminal of its own, driven from outside as by a person. */
export class Terminal implements AsyncDisposable {
  /** All that was written, with its control sequences. */
  text = '';
  readonly columns = 100;
  #seen = 0;
  readonly #pty: IPty;
  readonly #exit: Promise<number>;
  #over = false;

  private constructor(
    readonly dir: string,
    args: readonly string[],
    { env, standIn, bare }: Options,
  ) {
    if (!existsSync(MAIN)) throw new Error('dist/main.js is missing: npm run build');
    const command = [process.execPath, ...(standIn ? ['--import', here('stand-in.mjs')] : []), MAIN, ...args];
    const [file = '', ...words] = bare ? command : ['sh', '-c', FRAME, 'sh', ...command];
    // Live lines, not those for a log.
    const { CI: _, ...ours } = process.env;
    this.#pty = spawn(file, words, {
      ...{ name: 'xterm-256color', cols: this.columns, rows: 30, cwd: dir },
      env: { ...ours, FRAME: dir, DKMS2BIN_TEST_DIST: dirname(MAIN), ...env },
    });
    this.#pty.onData((data) => (this.text += data));
    this.#exit = new Promise((resolve) =>
      this.#pty.onExit(({ exitCode }) => {
        this.#over = true;
        resolve(exitCode);
      }),
    );
  }

  static async open(args: readonly string[], options: Options = {}): Promise<Terminal> {
    return new Terminal(await mkdtemp(join(tmpdir(), 'dk2b-pty-')), args, options);
  }

  type(text: string | Buffer): void {
    this.#pty.write(text);
  }

  /** As the terminal's window gets another size. */
  resize(columns: number, rows: number): void {
    this.#pty.resize(columns, rows);
  }

  /** As the terminal's window is closed. */
  hangUp(): void {
    (this.#pty as IPty & { destroy: () => void }).destroy();
  }

  kill(signal: string): void {
    this.#pty.kill(signal);
  }

  /** What a person sees now, as far as the sequences go that live lines use; for a terminal that kept its size. */
  get screen(): string[] {
    const lines = [''];
    let [row, column] = [0, 0];
    const put = (char: string): void => {
      if (column === this.columns) [row, column] = [row + 1, 0];
      const line = (lines[row] ?? '').padEnd(column);
      lines[row] = line.slice(0, column) + char + line.slice(column + 1);
      column += 1;
    };
    for (const [part] of this.text.matchAll(/\x1b\[\d*[A-Z]|[^]/gu)) {
      if (part === '\r') column = 0;
      else if (part === '\n') row += 1;
      else if (part === '\x1b[J') lines.splice(row, Infinity, (lines[row] ?? '').slice(0, column));
      else if (part === '\x1b[K') lines[row] = (lines[row] ?? '').slice(0, column);
      else if (part.endsWith('A') && part.length > 1) row = Math.max(0, row - Number(part.slice(2, -1)));
      else if (part >= ' ') put(part);
    }
    return Array.from(lines, (line) => line ?? '');
  }

  /** Until `pattern` stands in what came since the last wait. */
  async wait(pattern: RegExp, seconds = 20): Promise<RegExpExecArray> {
    const end = Date.now() + seconds * 1000;
    for (;;) {
      const found = pattern.exec(this.text.slice(this.#seen));
      if (found) {
        this.#seen += found.index + found[0].length;
        return found;
      }
      if (this.#over || Date.now() > end)
        throw new Error(`no ${String(pattern)} on the terminal:\n${this.screen.join('\n')}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** The exit code; fails when the command does not end. */
  async ended(seconds = 20): Promise<number> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`it does not end:\n${this.screen.join('\n')}`)),
        seconds * 1000,
      );
    });
    return Promise.race([this.#exit, late]).finally(() => clearTimeout(timer));
  }

  /** Whether the terminal's settings are again what they were; once the command has ended, without `bare`. */
  async restored(): Promise<boolean> {
    const settings = await Promise.all(
      ['before', 'after'].map((name) => readFile(join(this.dir, name), 'utf8')),
    );
    return settings[0] !== '' && settings[0] === settings[1];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#over) this.#pty.kill('SIGKILL');
    await this.#exit;
    await rm(this.dir, { recursive: true, force: true });
  }
}
