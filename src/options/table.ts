import type { Form } from './forms.js';
import type { CommandName, Option } from './option.js';
import { MACHINE } from './rows/machine.js';
import { RESULT } from './rows/result.js';
import { WHAT } from './rows/what.js';

/**
 * Every option, once: the command line, the config file and its schema, the reference, the man page, completion and the types
 * of values and requests are made of these rows. A name has several rows where commands understand different values.
 */
export const OPTIONS = [...WHAT, ...RESULT, ...MACHINE] as const;

export type Row = (typeof OPTIONS)[number];

type Camel<S extends string> = S extends `${infer A}-${infer B}` ? `${A}${Capitalize<Camel<B>>}` : S;
export type FieldOf<R> = R extends { field: infer F extends string }
  ? F
  : R extends { name: infer N extends string }
    ? Camel<N>
    : never;

type ValueOf<R> = R extends { schema: Form<infer Out, infer _> } ? Out : never;
/** Rows that always have a value: it is typed, in the config file, or the option's fallback. */
type Certain<R> = R extends { fallback: unknown } ? R : never;

/** Values by field, of these rows. */
export type ValuesOf<R> = { [O in Certain<R> as FieldOf<O>]: ValueOf<O> } & {
  [O in Exclude<R, Certain<R>> as FieldOf<O>]?: ValueOf<O>;
};

type RowOf<C extends CommandName> =
  Extract<Row, { commands: readonly unknown[] }> extends infer R
    ? R extends { commands: readonly (infer N)[] }
      ? C extends N
        ? R
        : never
      : never
    : never;

type RequiredIn<R, C> = R extends { required: readonly (infer N)[] } ? (C extends N ? R : never) : never;

/** What a command is given of its options. */
export type OptionsOf<C extends CommandName> = ValuesOf<Exclude<RowOf<C>, RequiredIn<RowOf<C>, C>>> & {
  [O in RequiredIn<RowOf<C>, C> as FieldOf<O>]: ValueOf<O>;
};

export const camel = (name: string): string =>
  name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());

export const fieldOf = ({ name, field }: Option): string => field ?? camel(name);

/** The options that a command has, in the table's order. */
export function optionRows(command: CommandName): readonly Option[] {
  return OPTIONS.filter((row: Option) => row.commands.includes(command));
}

/** An option in a sentence: what it does, whether it may be given again, whether it must be, what it is by default. */
export function helpOf(row: Option, command: CommandName): string {
  const { help, default: otherwise } = row.says?.[command] ?? row;
  const does = row.fallback === true ? `do not ${help}` : help;
  const again = row.repeatable ? '; repeatable' : '';
  if (row.required?.includes(command)) return `${does}${again} (required)`;
  return `${does}${again}${otherwise === undefined ? '' : ` (default: ${otherwise})`}`;
}
