import { createInterface } from 'node:readline';
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
