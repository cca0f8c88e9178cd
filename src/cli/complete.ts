import type { Arch } from '../model/cell.js';
import { choicesOf } from '../options/forms.js';
import type { Option } from '../options/option.js';
import { helpOf, optionRows } from '../options/table.js';
import type { CliContext } from './context.js';
import type { Argument, Command } from './frame.js';

/** A word that fits, and what it means. */
type Candidate = [word: string, meaning: string];

/** What completes the last word: words, and whether names of files do, which the shell knows best. */
export interface Completion {
  words: Candidate[];
  files: boolean;
}

const NOTHING: Completion = { words: [], files: false };
type Sources = Pick<CliContext, 'engine' | 'signal'>;

/**
 * What can stand in place of the last of `words`, which are those after `dkms2bin` and may be empty. Lists of kernels come
 * from what the cache has of them, never from the network.
 */
export async function complete(
  words: readonly string[],
  commands: readonly Command[],
  sources: Sources,
): Promise<Completion> {
  const typed = joined(words);
  const current = typed.at(-1) ?? '';
  const { command, names, rest } = commandOf(typed.slice(0, -1), commands);
  const rows = optionRows(command.name);
  const [, inline, start] = /^(--[^=]+)=(.*)$/.exec(current) ?? [];
  const option = inline ?? rest.at(-1) ?? '';
  const row = rows.find(({ name, value }) => `--${name}` === option && value?.startsWith('<'));
  const all = row
    ? await valuesOf(row, rest, sources)
    : await othersOf({ command, names, rest, rows, current }, sources);
  const prefix = row && inline !== undefined && !split(words) ? `${inline}=` : '';
  const begun = row && start !== undefined ? start : current;
  return {
    files: all.files,
    words: all.words
      .filter(([word]) => word.startsWith(begun))
      .map(([word, meaning]) => [`${prefix}${word}`, meaning]),
  };
}

/** bash takes `--option=value` apart at the sign. */
const split = (words: readonly string[]): boolean => words.at(-1) === '=' || words.at(-2) === '=';

function joined(words: readonly string[]): string[] {
  const all: string[] = [];
  for (const [at, word] of words.entries()) {
    const last = all.at(-1);
    if (last?.startsWith('--') && (word === '=' || words[at - 1] === '=')) all[all.length - 1] = last + word;
    else all.push(word);
  }
  return all;
}

interface Place {
  command: Command;
  /** Of commands that can be typed here. */
  names: Candidate[];
  /** Words after the command's name. */
  rest: readonly string[];
}

/** The command that the words name, and which names could come next. */
function commandOf(before: readonly string[], commands: readonly Command[]): Place {
  const [first = '', second = ''] = before;
  const named = (name: string): Command | undefined => commands.find((each) => each.name === name);
  const build = named('build') as Command;
  if (first === '') return { command: build, names: topNames(commands), rest: before };
  const one = named(first);
  if (one) return { command: one, names: [], rest: before.slice(1) };
  const children = commands.filter(({ name }) => name.startsWith(`${first} `));
  const child = children.find(({ name }) => name === `${first} ${second}`);
  if (child) return { command: child, names: [], rest: before.slice(2) };
  const otherwise = children.find(({ isDefault }) => isDefault);
  if (!otherwise) return { command: build, names: [], rest: before };
  const names =
    before.length > 1
      ? []
      : children.map(({ name, summary = '' }): Candidate => [name.slice(first.length + 1), summary]);
  return { command: otherwise, names, rest: before.slice(1) };
}

function topNames(commands: readonly Command[]): Candidate[] {
  const shown = commands.filter(({ summary }) => summary !== undefined);
  const names = new Map(
    shown.map(({ name, summary = '' }): Candidate => {
      const [top = ''] = name.split(' ');
      return [top, top === name ? summary : ''];
    }),
  );
  return [...names, ['help', 'show the help of a command']];
}

/** Values of an option. */
async function valuesOf(row: Option, rest: readonly string[], sources: Sources): Promise<Completion> {
  const listed = choicesOf(row.schema);
  const words = listed.map((value): Candidate => [value, '']);
  if (row.completes === 'distros') words.push(...(await distros(sources)));
  if (row.completes === 'kernels') {
    if (row.repeatable) words.push(['latest', "the distro's current kernel"]);
    words.push(...(await kernels(rest, sources)));
  }
  return { words, files: row.completes === 'files' };
}

async function distros({ engine }: Sources): Promise<Candidate[]> {
  return (await engine.listDistros()).map((id) => [id, '']);
}

/** Of the distribution and architecture that were typed before, from the lists in the cache. */
async function kernels(rest: readonly string[], { engine, signal }: Sources): Promise<Candidate[]> {
  const given = (name: string): string | undefined => {
    const at = rest.lastIndexOf(`--${name}`);
    return at < 0 ? undefined : rest[at + 1];
  };
  const arch = given('arch');
  const aarch64 = arch === 'aarch64' || arch === 'arm64';
  const asked: { arch: Arch } = { arch: aarch64 ? 'aarch64' : 'x86_64' };
  const found = await engine.listKernels(given('distro'), {
    ...asked,
    ...{ offline: true, signal, emit: () => undefined },
  });
  return found.map(({ release, distro }) => [release, distro]);
}

/** What is no value of an option: options, names of commands, arguments. */
async function othersOf(
  { command, names, rest, rows, current }: Place & { rows: readonly Option[]; current: string },
  sources: Sources,
): Promise<Completion> {
  if (current.startsWith('-')) {
    const free = rows.filter(({ name, repeatable }) => repeatable || !rest.includes(`--${name}`));
    const words = free.map((row): Candidate => [
      `--${row.fallback === true ? 'no-' : ''}${row.name}`,
      helpOf(row, command.name),
    ]);
    return { words: [...words, ['--help', 'show this help']], files: false };
  }
  const own = await argumentsOf(command, rest, sources);
  return { words: [...names, ...own.words], files: own.files };
}

/** The argument that comes next; the last one again when there may be several. */
async function argumentsOf(
  { arguments: all = [], name }: Command,
  rest: readonly string[],
  { engine }: Sources,
): Promise<Completion> {
  const valued = new Set(
    optionRows(name).flatMap((row) => (row.value?.startsWith('<') ? `--${row.name}` : [])),
  );
  const given = rest.filter((word, at) => !word.startsWith('-') && !valued.has(rest[at - 1] ?? ''));
  const last = all.at(-1);
  const next: Argument | undefined = all[given.length] ?? (last?.name.includes('...') ? last : undefined);
  if (!next) return NOTHING;
  const words = (next.choices ?? []).map((word): Candidate => [word, '']);
  if (next.completes === 'runs')
    words.push(
      ...(await engine.listRuns()).map(({ id, cell, kernel }): Candidate => [id, `${cell} ${kernel}`]),
    );
  return { words: words.filter(([word]) => !given.includes(word)), files: next.completes === 'files' };
}
