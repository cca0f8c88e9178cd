import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { Dkms2binError } from '../core/errors.js';
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

/** Asks for a secret without showing it; null when there is no terminal to ask on. Ctrl-C throws `interrupted`. */
export async function askSecret(
  question: string,
  context: Pick<CliContext, 'stdin' | 'stderr' | 'signal'>,
): Promise<string | null> {
  if (context.stdin.isTTY !== true || context.stderr.isTTY !== true) return null;
  context.stderr.write(question);
  // With its terminal mode readline does the echo itself, into nothing.
  const nothing = new Writable({ write: (_chunk, _encoding, done) => done() });
  const reader = createInterface({ input: context.stdin, output: nothing, terminal: true });
  try {
    return await new Promise<string | null>((resolve, reject) => {
      const stop = (): void => reject(new Dkms2binError('interrupted', 'Interrupted'));
      context.signal.addEventListener('abort', stop, { once: true });
      reader.once('SIGINT', stop);
      reader.once('close', () => {
        context.signal.removeEventListener('abort', stop);
        resolve(null);
      });
      reader.once('line', resolve);
    });
  } finally {
    reader.close();
    context.stderr.write('\n');
  }
}
