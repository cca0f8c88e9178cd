import { Command as Commander, Option as CommanderOption } from 'commander';
import { Dkms2binError, EXIT_CODES, EXIT_ORDER } from '../model/errors.js';
import { packageVersion } from '../lib/paths.js';
import { closest, oneLine, plain } from '../lib/text.js';
import { VARIABLES } from '../lib/variables.js';
import type { CommandName, Option } from '../options/option.js';
import { GROUPS } from '../options/option.js';
import { camel, helpOf, optionRows } from '../options/table.js';
import { ABOUT, COMMANDS, PARENTS } from './commands/index.js';
import type { CliContext } from './context.js';
import { perform, type Command } from './frame.js';

/** Below this many options they stand in one list, without headings. */
const HEADINGS_FROM = 8;

/** The commander program. It throws instead of exiting; `ended` hears the exit code of a command that comes to its end. */
export function createProgram(context: CliContext, ended: (code: number) => void): Commander {
  const program = new Commander('dkms2bin')
    .description(ABOUT)
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show this help')
    .helpCommand('help [command]', 'show the help of a command')
    .usage(
      '[build] --dkms <source>... [--kernel <release>...] [options]\n       dkms2bin <command> [options]',
    )
    .enablePositionalOptions()
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureOutput({
      writeOut: (text) => void context.stdout.write(text),
      writeErr: (text) => void context.stderr.write(text),
      getOutHelpWidth: () => Math.min(context.stdout.columns ?? 100, 110),
      getErrHelpWidth: () => Math.min(context.stderr.columns ?? 100, 110),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      outputError: (text, write) => write(usageError(text)),
    });
  const parents = new Map<string, Commander>();
  for (const one of COMMANDS) {
    const [parent, child] = one.name.split(' ') as [string, string | undefined];
    const under = child === undefined ? program : parentOf(parent, program, parents);
    const made = addCommand(under, one, child ?? parent);
    made.action(async () => {
      const [stray] = made.args;
      if (one.name === 'build' && stray !== undefined) throw strayWord(stray, program);
      ended(await perform(one, { words: made.args, typed: typedBy(made, one.name) }, context));
    });
  }
  // Somebody who types --help wants build's options, not the advice to type another command.
  program.addHelpText('after', () => {
    const build = program.commands.find((each) => each.name() === 'build');
    const text = build?.helpInformation() ?? '';
    return `\nOptions of build\n\n${text.slice(text.indexOf(GROUPS.what), text.lastIndexOf('\nOptions:')).trimEnd()}\n${epilogue()}`;
  });
  return program;
}

function parentOf(name: string, program: Commander, parents: Map<string, Commander>): Commander {
  const known = parents.get(name);
  if (known) return known;
  const { summary = '', description = '', usage } = PARENTS[name] ?? {};
  const made = program.command(name).summary(summary).description(description);
  if (usage !== undefined) made.usage(usage);
  parents.set(name, made);
  return made;
}

function addCommand(parent: Commander, one: Command, name: string): Commander {
  const made = parent
    .command(name, { isDefault: one.isDefault === true, hidden: one.summary === undefined })
    .description(one.description)
    // Build says more to a stray word than "too many arguments": it may be a misspelt command.
    .allowExcessArguments(one.name === 'build');
  if (one.summary !== undefined) made.summary(one.summary);
  if (one.usage !== undefined) made.usage(one.usage);
  for (const argument of one.arguments ?? []) {
    const about = made.createArgument(argument.name, argument.help);
    made.addArgument(argument.choices ? about.choices([...argument.choices]) : about);
  }
  addOptions(made, one);
  const { notes, examples = [] } = one;
  if (notes !== undefined) made.addHelpText('after', `\n${notes}\n`);
  if (examples.length > 0)
    made.addHelpText(
      'after',
      `\nExample${examples.length > 1 ? 's' : ''}:\n${examples.map((each) => `  ${each}\n`).join('')}`,
    );
  return made;
}

/** Under headings, in their order, when there are many. */
function addOptions(made: Commander, { name, heading = GROUPS.what }: Command): void {
  const rows = optionRows(name);
  for (const group of Object.keys(GROUPS) as (keyof typeof GROUPS)[])
    for (const row of rows.filter((each) => each.group === group)) {
      const shown = commanderOption(row, name);
      if (rows.length >= HEADINGS_FROM) shown.helpGroup(group === 'what' ? heading : GROUPS[group]);
      made.addOption(shown);
    }
}

/** What commander has to know of an option; values are checked by the table's forms when all are there. */
function commanderOption(row: Option, command: CommandName): CommanderOption {
  const { name, value, repeatable, preset, excludes = [] } = row;
  const flag = row.fallback === true ? `--no-${name}` : `--${name}`;
  const made = new CommanderOption(value === undefined ? flag : `${flag} ${value}`, helpOf(row, command));
  if (preset !== undefined) made.preset(preset);
  if (repeatable) made.argParser((text: string, before: string[] | undefined) => [...(before ?? []), text]);
  return made.conflicts(excludes.map(camel));
}

/** The options that were typed, by the table's names. */
function typedBy(made: Commander, command: CommandName): Record<string, unknown> {
  const typed = optionRows(command)
    .filter(({ name }) => made.getOptionValueSource(camel(name)) === 'cli')
    .map(({ name }): [string, unknown] => [name, made.getOptionValue(camel(name))]);
  return Object.fromEntries(typed);
}

function epilogue(): string {
  const width = Math.max(...Object.keys(VARIABLES).map((name) => name.length));
  return [
    '\nExit codes:',
    ...EXIT_CODES.map(({ code, meaning }) => hanging(String(code), 3, meaning)),
    `  If several apply: the first of ${EXIT_ORDER.join(', ')}.`,
    '\nEnvironment:',
    ...Object.entries(VARIABLES).map(([name, meaning]) => hanging(name, width, meaning.replaceAll('`', ''))),
    '',
  ].join('\n');
}

/** A term and its meaning beside it, in lines of at most 110 characters. */
function hanging(term: string, width: number, meaning: string): string {
  const lines = [''];
  for (const word of meaning.split(' ')) {
    const last = lines.at(-1) ?? '';
    if (last !== '' && width + 5 + last.length + word.length > 110) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return `  ${term.padEnd(width)}  ${lines.join(`\n${' '.repeat(width + 4)}`)}`;
}

function usageError(text: string): string {
  const [first = '', ...more] = plain(text)
    .replace(/^error: /, '')
    .trim()
    .split('\n');
  const hint = more.join(' ').replace(/^\((.*)\)$/, '$1');
  return `dkms2bin: ${first}\n  hint: ${hint === '' ? 'See dkms2bin --help' : hint}\n`;
}

function strayWord(word: string, program: Commander): Dkms2binError {
  const close = closest(
    word,
    program.commands.map((c) => c.name()),
  );
  return new Dkms2binError('usage', `"${oneLine(word)}" is not a command`, {
    hint: close
      ? `Did you mean "dkms2bin ${close}"?`
      : `Modules are given with --dkms: dkms2bin --dkms ${oneLine(word)}. Commands: dkms2bin --help`,
  });
}
