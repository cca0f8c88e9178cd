import { createInterface } from 'node:readline';
import { StringDecoder } from 'node:string_decoder';
import { Dkms2binError } from '../model/errors.js';
import type { CliContext } from './context.js';

/** Asks on stderr; Enter and y mean yes, end of input and an interrupt mean no. */
export async function askYes(
  question: string,
  context: Pick<CliContext, 'stdin' | 'stderr' | 'signal'>,
): Promise<boolean> {
  // terminal: false leaves the terminal in its normal mode, so that Ctrl-C stays a signal and is handled once.
  const reader = createInterface({ input: context.stdin, output: context.stderr, terminal: false });
  try {
    return await new Promise<boolean>((resolve) => {
      const no = (): void => resolve(false);
      context.signal.addEventListener('abort', no, { once: true });
      reader.once('close', () => {
        context.signal.removeEventListener('abort', no);
        resolve(false);
      });
      reader.question(question, (answer) => resolve(/^\s*(y|yes)?\s*$/i.test(answer)));
    });
  } finally {
    reader.close();
  }
}

/** Asks on stderr and shows nothing of what is typed. Throws fault `interrupted` on Ctrl-C and at the end of input. */
export async function askSecret(
  question: string,
  { stdin, stderr, signal }: Pick<CliContext, 'stdin' | 'stderr' | 'signal'>,
): Promise<string> {
  const terminal = stdin as CliContext['stdin'] & { setRawMode?: (raw: boolean) => unknown };
  stderr.write(question);
  // Raw, so that the terminal does not echo; Ctrl-C then is a character and no signal.
  terminal.setRawMode?.(true);
  const decoder = new StringDecoder('utf8');
  let typed = '';
  let release = (): void => undefined;
  try {
    return await new Promise<string>((resolve, reject) => {
      const stop = (): void => reject(new Dkms2binError('interrupted', 'Interrupted'));
      const read = (chunk: Buffer | string): void => {
        for (const char of typeof chunk === 'string' ? chunk : decoder.write(chunk)) {
          if (char === '\r' || char === '\n') return resolve(typed);
          if (char === '\x03' || char === '\x04') return stop();
          if (char === '\x7f' || char === '\b') typed = [...typed].slice(0, -1).join('');
          else if (char === '\x15') typed = '';
          else typed += char;
        }
      };
      signal.addEventListener('abort', stop, { once: true });
      // A stream that an earlier question paused does not flow again by a listener alone.
      stdin.on('data', read).on('end', stop).resume();
      release = () => {
        signal.removeEventListener('abort', stop);
        stdin.off('data', read).off('end', stop);
      };
    });
  } finally {
    release();
    stdin.pause();
    terminal.setRawMode?.(false);
    stderr.write('\n');
  }
}
