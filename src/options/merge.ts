import type { z } from 'zod';
import { Dkms2binError } from '../model/errors.js';
import type { CommandName, Option } from './option.js';
import { schemaOf } from './schemas.js';
import { fieldOf, optionRows, type OptionsOf } from './table.js';

/** Values as they were given, by option name: texts and switches of the command line, or what YAML made of the file. */
export type Given = Readonly<Record<string, unknown>>;

/**
 * What a command is given of its options: typed, else in the config file, else by default. A typed list replaces the file's. Throws
 * fault `usage` with the option's name.
 */
export function optionsOf<C extends CommandName>(command: C, typed: Given, file: Given): OptionsOf<C> {
  const rows = optionRows(command);
  // Of two that exclude each other the typed one wins over the file's.
  const excluded = rows
    .filter((row) => row.file === 'own')
    .flatMap(({ name, excludes = [] }) => [
      ...(typed[name] === undefined ? [] : excludes),
      ...(excludes.some((other) => typed[other] !== undefined) ? [name] : []),
    ]);
  const values = rows.map((row): [string, unknown] => {
    const value = row.file === undefined || excluded.includes(row.name) ? undefined : file[row.name];
    const given = typed[row.name] === undefined ? value : typedValue(row, typed[row.name]);
    if (given === undefined && row.required?.includes(command)) throw missing(row);
    return [fieldOf(row), given === undefined ? row.fallback : valueOf(row, given)];
  });
  return Object.fromEntries(values.filter(([, value]) => value !== undefined)) as OptionsOf<C>;
}

/** Checks what was typed before anything else is looked at. */
export function checkTyped(command: CommandName, typed: Given): void {
  for (const row of optionRows(command))
    if (typed[row.name] !== undefined) valueOf(row, typedValue(row, typed[row.name]));
}

/** An option that was typed without its value has the one that the table says. */
const typedValue = (row: Option, value: unknown): unknown =>
  value === true && row.value !== undefined ? row.preset : value;

function valueOf(row: Option, given: unknown): unknown {
  const parsed = schemaOf(row.schema).safeParse(given);
  if (parsed.success) return parsed.data;
  const [message, hint] = wordsOf(parsed.error.issues[0]);
  throw new Dkms2binError('usage', `--${row.name}: ${message}`, hint === undefined ? {} : { hint });
}

const missing = ({ name, value }: Option): Dkms2binError =>
  new Dkms2binError('usage', `--${name} is missing`, { hint: `Give it as --${name} ${value ?? ''}` });

/** What an issue says is wrong, and the next step. For a list the words are those of its first wrong member. */
export function wordsOf(issue: z.core.$ZodIssue | undefined): [message: string, hint: string | undefined] {
  const inner = issue?.code === 'invalid_union' ? deepest(issue) : issue;
  const [message = 'not a value', hint] = (inner?.message ?? '').split('\n');
  return [message, hint];
}

/** In a union of a text and a list of texts, what is wrong in the list. */
function deepest(issue: z.core.$ZodIssueInvalidUnion): z.core.$ZodIssue {
  return issue.errors.flat().find(({ path }) => path.length > 0) ?? issue;
}
