// The forms that an option's value can have, as data: commands are made, and help is shown, without what reads them
// (schemas.ts). Each takes what a person types on the command line, always text, and what YAML makes of the same in the config
// file, and gives one value.

/** What a form takes and gives, for types alone: no form has it. */
interface Types<Out, In> {
  readonly types?: { out: Out; in: In };
}

/** What a refused number is called, and one that would do. */
export interface WholeWords {
  what?: string;
  example?: number;
}

type Plain =
  | ('text' | 'texts' | 'list' | 'onOff' | 'url' | 'version')
  | ('size' | 'diskSize' | 'age' | 'duration' | 'interval');

export type Form<Out = unknown, In = unknown> = Types<Out, In> &
  (
    | { readonly is: Plain }
    | { readonly is: 'whole'; readonly least: number; readonly most: number; readonly words: WholeWords }
    | { readonly is: 'oneOf'; readonly names: Readonly<Record<string, string>> }
  );

type Typed = string | number;
type Several = string | string[];

/** Any text but a blank one. */
export const text: Form<string, string> = { is: 'text' };
/** Of a DKMS module. */
export const version: Form<string, string> = { is: 'version' };
/** One text or several. */
export const texts: Form<string[], Several> = { is: 'texts' };
/** One text or several, each of which may be several with commas. */
export const list: Form<string[], Several> = { is: 'list' };
export const onOff: Form<boolean, boolean> = { is: 'onOff' };
/** Of http or https. */
export const url: Form<string, string> = { is: 'url' };
/** `512M`, `2G`, `1.5GiB`, `512` (MiB too) → MiB, whole. */
export const size: Form<number, Typed> = { is: 'size' };
/** `500M`, `10G`, `1.5TiB`, `0` → bytes. */
export const diskSize: Form<number, Typed> = { is: 'diskSize' };
/** `12h`, `30d`, `2w` → seconds. */
export const age: Form<number, Typed> = { is: 'age' };
/** `90` (seconds), `90s`, `45m`, `2h` → seconds. */
export const duration: Form<number, Typed> = { is: 'duration' };
/** `30m`, `6h` → seconds, from one minute to seven days: a mirror is not to be asked without end. */
export const interval: Form<number, Typed> = { is: 'interval' };

/** A whole number in a range, both ends included. */
export const whole = (least: number, most: number, words: WholeWords = {}): Form<number, Typed> => ({
  ...{ is: 'whole', least, most, words },
});

/** One of the names of `values`; several names for one value are aliases, the value itself is its first name. */
export const oneOf = <const T extends Readonly<Record<string, string>>>(
  names: T,
): Form<T[keyof T], keyof T & string> => ({ is: 'oneOf', names });

/** The values that a form lists, aliases left out. */
export const choicesOf = (form: Form): string[] =>
  form.is === 'oneOf' ? [...new Set(Object.values(form.names))] : [];
