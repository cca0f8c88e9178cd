import type { Config } from '../options/config.js';
import type { Given } from '../options/merge.js';
import type { CommandName } from '../options/option.js';
import { optionRows, type OptionsOf } from '../options/table.js';
import { Dkms2binError } from '../model/errors.js';
import { errorDocument, toJson } from '../report/json.js';
import { createUi, type Level, type Ui } from '../ui/index.js';
import type { CliContext } from './context.js';

/** What a command works with, beside what the user asked for. */
export interface CommandContext extends CliContext {
  ui: Ui;
  /** The result: one document with --json, else a text. The live lines end before it. */
  answer: (document: () => unknown, text: () => string) => void;
}

/** What the user asked for: words that are no options, options from all sources, and the config file itself. */
export interface Asked<C extends CommandName = CommandName> {
  words: readonly string[];
  options: OptionsOf<C>;
  config: Config;
}

export interface Argument {
  /** `<dir>`, `[run]` for one that may be left out, `<run...>` for several. */
  name: string;
  help: string;
  completes?: 'files' | 'runs';
  /** All that it can be. */
  choices?: readonly string[];
}

/** A command as data; the frame around all of them is `perform`. */
export interface Command<C extends CommandName = CommandName> {
  name: C;
  /** In the list of commands; absent for one that is not shown there. */
  summary?: string;
  description: string;
  /** Of `dkms2bin NAME`, when "<arguments> [options]" does not say it. */
  usage?: string;
  /** Taken when its group, or nothing, is named. */
  isDefault?: true;
  arguments?: readonly Argument[];
  /** Heading of the options that say what to do, when it is not "What to build:". */
  heading?: string;
  /** Paragraphs after the options. */
  notes?: string;
  examples?: readonly string[];
  /** What this command takes from the config file, where that is not the keys with its options' names. */
  file?: (config: Config) => Given;
  /** The document of --json for what ended the command before it had a result. */
  errorDocument?: (error: Dkms2binError) => unknown;
  /** Calls `once` now, and as often as is asked for; absent: once. */
  repeat?: (once: () => Promise<number>, asked: Asked<C>, context: CliContext) => Promise<number>;
  /** Resolves with the exit code when it is not 0. */
  run: (asked: Asked<C>, context: CommandContext) => Promise<number | void>;
}

/** A command whose options have the types that the table says. */
export const command = <C extends CommandName>(one: Command<C>): Command => one;

/**
 * Runs a command: config file, options, live lines, result. Resolves with the exit code; what is thrown is the caller's to
 * print.
 */
export async function perform(
  one: Command,
  { words, typed }: { words: readonly string[]; typed: Given },
  context: CliContext,
): Promise<number> {
  // Only a command that runs pays for loading zod.
  const { checkTyped, optionsOf } = await import('../options/merge.js');
  checkTyped(one.name, typed);
  let asked: Asked;
  try {
    const config = await configFor(one, typed['config'] as string | undefined, context);
    asked = { words, options: optionsOf(one.name, typed, one.file?.(config) ?? { ...config }), config };
  } catch (error) {
    if (typed['json'] === true) tellError(one, error, context);
    throw error;
  }
  const once = (): Promise<number> => performOnce(one, asked, context);
  return one.repeat ? one.repeat(once, asked, context) : once();
}

/** Read where the command has options that may stand in it, and where it is named. */
async function configFor(
  one: Command,
  explicit: string | undefined,
  { engine, cwd }: CliContext,
): Promise<Config> {
  const reads = explicit !== undefined || optionRows(one.name).some(({ file }) => file !== undefined);
  return reads ? engine.loadConfig(explicit, cwd) : {};
}

async function performOnce(one: Command, asked: Asked, context: CliContext): Promise<number> {
  const { json, quiet, verbose }: { json?: boolean; quiet?: boolean; verbose?: boolean } = asked.options;
  const ui = createUi(context.stderr, { level: levelOf(quiet, verbose) }, context.env);
  const stopping = (): void => ui.say('stopping… (Ctrl-C once more to leave at once)');
  context.signal.addEventListener('abort', stopping, { once: true });
  let answered = false;
  const answer: CommandContext['answer'] = (document, text) => {
    ui.close();
    context.stdout.write(json ? toJson(document()) : text());
    answered = true;
  };
  try {
    return (await one.run(asked, { ...context, ui, answer })) ?? 0;
  } catch (error) {
    if (json && !answered) tellError(one, error, context);
    throw error;
  } finally {
    context.signal.removeEventListener('abort', stopping);
    ui.close();
  }
}

function levelOf(quiet = false, verbose = false): Level {
  if (quiet) return 'quiet';
  return verbose ? 'verbose' : 'normal';
}

/** A program that reads standard output gets a document however the command ended; the text for people goes to stderr. */
function tellError(one: Command, error: unknown, { stdout, signal }: CliContext): void {
  if (!(error instanceof Dkms2binError)) return;
  const told = signal.aborted ? new Dkms2binError('interrupted', 'Interrupted') : error;
  stdout.write(toJson((one.errorDocument ?? errorDocument)(told)));
}
