import { CommanderError } from 'commander';
import { Dkms2binError, EXIT, EXIT_CODE, messageOf, withoutPasswords } from '../model/errors.js';
import { plain } from '../lib/text.js';
import { variable } from '../lib/variables.js';
import type { CliContext } from './context.js';
import { createProgram } from './program.js';

/** Runs one command line (without node and script) to its end and returns the exit code. Never throws. */
export async function runCli(argv: readonly string[], context: CliContext): Promise<number> {
  let exitCode = 0;
  try {
    await createProgram(context, (code) => (exitCode = code)).parseAsync([...argv], { from: 'user' });
    return exitCode;
  } catch (error) {
    // Commander has said what it had to say already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_CODE.usage;
    // Whatever failed after Ctrl-C: it reaches the children too, and they die with errors of their own.
    if (context.signal.aborted || (error instanceof Dkms2binError && error.fault === 'interrupted')) {
      context.stderr.write('dkms2bin: interrupted\n');
      return EXIT_CODE.interrupted;
    }
    const errors: unknown[] = error instanceof AggregateError ? error.errors : [error];
    for (const each of errors) context.stderr.write(errorText(each, context.env));
    const first = errors[0];
    return first instanceof Dkms2binError ? first.exitCode : EXIT.bug;
  }
}

/** An error as a person reads it: no stack, unless it is a bug and DKMS2BIN_TRACE=1. */
export function errorText(error: unknown, env: NodeJS.ProcessEnv): string {
  if (error instanceof Dkms2binError) {
    const hint = error.hint === undefined ? '' : `  hint: ${indent(error.hint, '        ')}\n`;
    return `dkms2bin: ${indent(error.message, '  ')}\n${hint}`;
  }
  const trace = variable('DKMS2BIN_TRACE', env) === '1';
  const detail = trace && error instanceof Error ? `${plain(withoutPasswords(error.stack ?? ''))}\n` : '';
  const advice = trace
    ? 'Please report it with the lines above'
    : 'Please report it with the output of the same command under DKMS2BIN_TRACE=1';
  return `dkms2bin: internal error: ${indent(messageOf(error), '  ')}\n${detail}  hint: This is a bug in dkms2bin. ${advice}\n`;
}

function indent(text: string, by: string): string {
  return plain(text).trim().split('\n').join(`\n${by}`);
}
