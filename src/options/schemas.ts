import { z } from 'zod';
import { withoutCredentials } from '../lib/credentials.js';
import { oneLine } from '../lib/text.js';
import type * as forms from './forms.js';
import type { Form, WholeWords } from './forms.js';

// What reads the forms of values (forms.ts). A message's first line says what is wrong, its second the next step; who asked puts
// the option's name or the file's line before it.

/** What a form says of a value that it refuses. */
interface Words {
  /** After "is not". */
  what: string;
  hint: string;
}

const refusal = (value: unknown, { what, hint }: Words): string => {
  const shown = typeof value === 'string' ? `"${value}"` : jsonOf(value);
  return `${oneLine(shown)} is not ${what}\n${hint}`;
};

/** What YAML makes of an alias to itself has no end. */
function jsonOf(value: unknown): string {
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return 'a value that contains itself';
  }
}

/** zod's `error` setting with these words. */
const saying = (words: Words) => ({
  error: (issue: { input?: unknown }): string => refusal(issue.input, words),
});

/** A form of numbers and texts: `read` makes the value of the text, or says why there is none. */
function form<T extends number>(
  input: z.ZodType<string | number, string | number>,
  read: (text: string) => T | Words,
): z.ZodType<T, string | number> {
  return input.transform((value, context): T => {
    const made = read(String(value).trim());
    if (typeof made !== 'object') return made;
    context.addIssue({ code: 'custom', message: refusal(value, made) });
    return z.NEVER;
  });
}

const TEXT: Words = {
  what: 'a text',
  hint: 'Give it a value, or leave it out; in the config file, in quotes',
};

/** Any text but a blank one. */
const text = z.string(saying(TEXT)).regex(/\S/, saying(TEXT));

const VERSION: Words = {
  what: 'a version',
  hint: 'It begins with a letter or digit and has letters, digits and . + ~ _ - only; in the config file, in quotes',
};
const version = z.string(saying(VERSION)).regex(/^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,127}$/, saying(VERSION));

const oneOrMore = z.union([text, z.array(text).min(1, saying(TEXT))], saying(TEXT));

/** One text or several. */
const texts = oneOrMore.transform((value) => [value].flat());

/** One text or several, each of which may be several with commas. */
const list = oneOrMore.transform((value, context) => {
  const all = [value].flat().flatMap((each) => each.split(',').map((part) => part.trim()));
  if (all.includes('')) context.addIssue({ code: 'custom', message: refusal('', TEXT) });
  return all;
});

const onOff = z.boolean(saying({ what: 'true or false', hint: 'Write true or false' }));

const URL_WORDS: Words = {
  what: 'an http:// or https:// URL',
  hint: 'URLs look like http://HOST/PATH or http://HOST:PORT',
};
/** Its user and password go no further. */
// What reads URLs passes over newlines and tabs in them, and files of package managers do not.
const url = z
  .string(saying(URL_WORDS))
  .regex(/^[\x21-\x7e]+$/, saying(URL_WORDS))
  .pipe(z.url({ protocol: /^https?$/, ...saying(URL_WORDS) }))
  .transform(withoutCredentials);

function whole(least: number, most: number, { what = 'a whole number', example }: WholeWords) {
  const words = {
    what: `${what} from ${least} to ${most}`,
    hint: `Example: ${example ?? Math.min(most, least + 1)}`,
  };
  const says = saying(words);
  const number = z.int(says).min(least, says).max(most, says);
  const input = z.union([number, z.string().regex(/^\s*\d+\s*$/, says)], says);
  return form(input, (typed) => {
    const value = Number(typed);
    return value < least || value > most ? words : value;
  });
}

const SIZE: Words = { what: 'a size', hint: 'Sizes look like 512M or 2G' };
const SIZE_FORM = /^\s*(\d+(?:\.\d+)?)\s*([MmGg])?(?:[Ii]?[Bb])?\s*$/;

/** `512M`, `2G`, `1.5GiB`, `512` (MiB too) → MiB, whole. */
const size = form(
  z.union([z.number().positive(saying(SIZE)), z.string().regex(SIZE_FORM, saying(SIZE))], saying(SIZE)),
  (typed) => {
    const [, number, unit] = SIZE_FORM.exec(typed) ?? [];
    if (number === undefined) return SIZE;
    const mib = Number(number) * (unit?.toUpperCase() === 'G' ? 1024 : 1);
    if (mib >= 256 && mib <= 1024 * 1024) return Math.floor(mib);
    return { what: 'between 256M and 1024G', hint: 'A VM needs at least 256M; 1G or more is sensible' };
  },
);

const DISK_SIZE: Words = { what: 'a size with its unit', hint: 'Sizes look like 500M, 10G or 1T' };

/** `500M`, `10G`, `1.5TiB`, `0` → bytes. */
const diskSize = form(z.union([z.string(), z.number()], saying(DISK_SIZE)), (typed) => {
  const [all, number, unit = ''] = /^(\d+(?:\.\d+)?)(?:([MGT])(?:i?B)?)?$/i.exec(typed) ?? [];
  if (all === undefined || (unit === '' && Number(number) !== 0)) return DISK_SIZE;
  return Math.floor(Number(number) * ({ M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }[unit.toUpperCase()] ?? 1));
});

const AGE: Words = { what: 'an age with its unit', hint: 'Ages look like 12h, 30d or 2w' };

/** `12h`, `30d`, `2w` → seconds. */
const age = form(z.string(saying(AGE)), (typed) => {
  const [, number, unit = ''] = /^(\d+(?:\.\d+)?)([hdw])$/i.exec(typed) ?? [];
  return number === undefined
    ? AGE
    : Number(number) * ({ h: 3600, d: 86400, w: 7 * 86400 }[unit.toLowerCase()] ?? 1);
});

const DURATION: Words = { what: 'a time of 1 second to 7 days', hint: 'Times look like 90s, 45m or 2h' };
const DURATION_FORM = /^\s*(\d+(?:\.\d+)?)\s*([SsMmHh])?\s*$/;
const durationInput = z.union(
  [z.number().positive(saying(DURATION)), z.string().regex(DURATION_FORM, saying(DURATION))],
  saying(DURATION),
);

function seconds(typed: string): number | Words {
  const [, number, unit = 's'] = DURATION_FORM.exec(typed) ?? [];
  const value = Math.round(Number(number) * ({ s: 1, m: 60, h: 3600 }[unit.toLowerCase()] ?? 1));
  return value >= 1 && value <= 7 * 86400 ? value : DURATION;
}

/** `90` (seconds), `90s`, `45m`, `2h` → seconds. */
const duration = form(durationInput, seconds);

/** `30m`, `6h` → seconds, from one minute to seven days: a mirror is not to be asked without end. */
const interval = form(durationInput, (typed) => {
  const value = seconds(typed);
  if (typeof value === 'object' || value >= 60) return value;
  return { what: 'a time of one minute or more', hint: 'Example: 6h' };
});

/** One of the names of `values`. */
function oneOf(values: Readonly<Record<string, string>>) {
  const names = [...new Set(Object.values(values))];
  const words = { what: 'one of its values', hint: `Use one of: ${names.join(', ')}` };
  return z.enum(Object.keys(values), saying(words)).transform((name) => values[name]);
}

type Plain = Exclude<Form['is'], 'whole' | 'oneOf'>;
type SchemaOf<F> = F extends Form<infer Out, infer In> ? z.ZodType<Out, In> : never;

const PLAIN: { [K in Plain]: SchemaOf<(typeof forms)[K]> } = {
  text,
  texts,
  list,
  onOff,
  url,
  version,
  size,
  diskSize,
  age,
  duration,
  interval,
};

function make(form: Form): z.ZodType {
  switch (form.is) {
    case 'whole':
      return whole(form.least, form.most, form.words);
    case 'oneOf':
      return oneOf(form.names);
    default:
      return PLAIN[form.is];
  }
}

const made = new Map<Form, z.ZodType>();

/** Reads values of a form. */
export function schemaOf<Out, In>(form: Form<Out, In>): z.ZodType<Out, In> {
  const schema = made.get(form) ?? make(form);
  made.set(form, schema);
  return schema as z.ZodType<Out, In>;
}
