import { Dkms2binError } from '../model/errors.js';

/** Standard input; a stream that is no terminal works, too. */
export type Keyboard = NodeJS.ReadableStream & {
  isTTY?: boolean;
  readableEnded?: boolean;
  setRawMode?: (raw: boolean) => unknown;
};

/** One side of a dialogue: what it makes of the keys. */
interface Listener {
  /** What is typed as bytes, Ctrl-C and Ctrl-D among them. What the dialogue does not take is left to the next one. */
  typed: (bytes: Buffer) => Buffer | void;
  /** The input is at its end; never on a terminal, where Ctrl-D is a key. */
  ended: () => void;
  /** The signal aborted, or the terminal was closed: the dialogue has to end now. */
  stopped: (reason: Error) => void;
}

interface Lending {
  signal: AbortSignal;
  /** Whether output, too, goes to the terminal byte by byte: for a program on another machine that draws a screen. */
  draws?: boolean;
}

/** The end of the newest dialogue on each keyboard. */
const turns = new WeakMap<Keyboard, Promise<unknown>>();

/**
 * Lends the keyboard to a dialogue until it calls `done` or `fail`. This is the one place that reads standard input and
 * switches its terminal to raw mode: dialogues have it one after the other, and whichever way one ends, the terminal is
 * as it was before. Rejects with the signal's reason, without a beginning, when that is aborted.
 */
export function lendKeyboard<T>(
  keyboard: Keyboard,
  lending: Lending,
  begin: (done: (value: T) => void, fail: (error: Error) => void) => Listener,
): Promise<T> {
  const before = turns.get(keyboard) ?? Promise.resolve();
  const mine = before.then(() => hold(keyboard, lending, begin));
  turns.set(
    keyboard,
    mine.catch(() => undefined),
  );
  return mine;
}

async function hold<T>(
  keyboard: Keyboard,
  { signal, draws = false }: Lending,
  begin: (done: (value: T) => void, fail: (error: Error) => void) => Listener,
): Promise<T> {
  signal.throwIfAborted();
  const raw = keyboard.isTTY === true && keyboard.setRawMode !== undefined;
  let listener: Listener | null = null;
  const left: Buffer[] = [];
  const typed = (chunk: Buffer | string): void => {
    const bytes = Buffer.from(chunk as Buffer);
    const rest = listener ? listener.typed(bytes) : bytes;
    if (rest && rest.length > 0) left.push(rest);
  };
  // Reading from a terminal that was closed is an error, as is setting its mode.
  const ended = (): void => {
    if (raw) listener?.stopped(new Dkms2binError('interrupted', 'The terminal was closed'));
    else listener?.ended();
  };
  const stopped = (): void => listener?.stopped(signal.reason as Error);
  keyboard.on('end', ended).on('error', ended);
  signal.addEventListener('abort', stopped);
  try {
    // From cooked mode an end of input (Ctrl-D) would be for ever: no dialogue after it could be answered.
    if (raw) keyboard.setRawMode?.(true);
    // Raw mode of Node.js still turns line feeds into new lines.
    if (raw && draws) await keepLineFeeds();
    return await new Promise<T>((resolve, reject) => {
      const over = <A>(settle: (outcome: A) => void) => {
        return (outcome: A): void => {
          listener = null;
          settle(outcome);
        };
      };
      listener = begin(over(resolve), over(reject));
      if (signal.aborted) stopped();
      else if (keyboard.readableEnded === true) ended();
      // A stream that was paused does not flow again by a listener alone.
      keyboard.on('data', typed).resume();
    });
  } finally {
    keyboard.off('data', typed).pause();
    if (left.length > 0 && keyboard.readableEnded !== true) keyboard.unshift(Buffer.concat(left));
    if (raw) keyboard.setRawMode?.(false);
    keyboard.off('end', ended).off('error', ended);
    signal.removeEventListener('abort', stopped);
  }
}

async function keepLineFeeds(): Promise<void> {
  // Loaded here: help and completion start no process.
  const { run } = await import('./exec.js');
  await run('stty', ['-F', '/dev/tty', '-opost']).catch(() => undefined);
}
