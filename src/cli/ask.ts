import { StringDecoder } from 'node:string_decoder';
import { lendKeyboard } from '../lib/keyboard.js';
import { Dkms2binError } from '../model/errors.js';
import type { CommandContext } from './frame.js';

type Asking = Pick<CommandContext, 'stdin' | 'stderr' | 'signal'>;

/** Asks on stderr; Enter and y mean yes, Ctrl-D and end of input mean no. Rejects with fault `interrupted` on Ctrl-C. */
export async function askYes(question: string, context: Asking): Promise<boolean> {
  const answer = await askLine(question, context, true);
  return answer !== null && /^\s*(y|yes)?\s*$/i.test(answer);
}

/**
 * Asks on stderr and shows nothing of what is typed; the live lines stand still meanwhile. Rejects with fault `interrupted` on
 * Ctrl-C and at the end of input.
 */
export async function askSecret(
  question: string,
  { ui, ...context }: Asking & Pick<CommandContext, 'ui'>,
): Promise<string> {
  ui.pause();
  try {
    const secret = await askLine(question, context, false);
    if (secret === null) throw new Dkms2binError('interrupted', 'Interrupted');
    return secret;
  } finally {
    ui.resume();
  }
}

const KEY = { interrupt: '\x03', end: '\x04', clear: '\x15' } as const;
const isEnter = (char: string): boolean => char === '\r' || char === '\n';
const isBackspace = (char: string): boolean => char === '\x7f' || char === '\b';

/** A line that is typed, without its end; null for Ctrl-D and at the end of input. Rejects as `askYes` does. */
async function askLine(
  question: string,
  { stdin, stderr, signal }: Asking,
  shown: boolean,
): Promise<string | null> {
  return lendKeyboard<string | null>(stdin, { signal }, (done, fail) => {
    const decoder = new StringDecoder('utf8');
    let line: string[] = [];
    const show = (text: string): void => void (shown && stderr.write(text));
    const leave = (answer: string | null): void => {
      stderr.write('\n');
      done(answer);
    };
    const stop = (reason: Error): void => {
      stderr.write('\n');
      fail(reason);
    };
    const edit = (char: string): void => {
      if (isBackspace(char) || char === KEY.clear) {
        line = char === KEY.clear ? [] : line.slice(0, -1);
        show(`\r\x1b[K${question}${line.join('')}`);
      } else if (char >= ' ') {
        line.push(char);
        show(char);
      }
    };
    stderr.write(question);
    return {
      typed: (bytes) => {
        const chars = [...decoder.write(bytes)];
        const at = chars.findIndex((char) => isEnter(char) || char === KEY.interrupt || char === KEY.end);
        chars.slice(0, at === -1 ? undefined : at).forEach(edit);
        if (at === -1) return;
        if (chars[at] === KEY.interrupt) stop(new Dkms2binError('interrupted', 'Interrupted'));
        else leave(chars[at] === KEY.end ? null : line.join(''));
        return Buffer.from(chars.slice(at + 1).join(''));
      },
      ended: () => leave(null),
      stopped: stop,
    };
  });
}
