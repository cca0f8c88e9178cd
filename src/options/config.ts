import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isMap, isScalar, isSeq, LineCounter, parseDocument, type Document, type Node } from 'yaml';
import { z } from 'zod';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { globExpression } from '../lib/glob.js';
import * as form from './forms.js';
import { wordsOf } from './merge.js';
import type { Option } from './option.js';
import { schemaOf } from './schemas.js';
import { OPTIONS, type Row } from './table.js';

export const CONFIG_NAME = 'dkms2bin.yaml';

const Glob = z
  .string()
  .min(1)
  .refine((text) => {
    try {
      return globExpression(text) !== null;
    } catch {
      return false;
    }
  }, 'not a pattern');

const text = schemaOf(form.text);
const texts = schemaOf(form.texts);

/** The options that stand here, as in the table. */
function keysOf(where: NonNullable<Option['file']>): Record<never, z.ZodType> {
  const rows: Option[] = OPTIONS.filter((row: Option) => row.file === where);
  return Object.fromEntries(
    rows.map(({ name, schema, help }) => [name, schemaOf(schema).optional().describe(help)]),
  );
}

/** Their values as YAML has them. */
type InputOf<W> = {
  [R in Extract<Row, { file: W }> as R['name']]?:
    (R['schema'] extends form.Form<infer _, infer In> ? In : never) | undefined;
};

const Place = {
  module: Glob.optional().describe(
    "Pattern of modules: a source as it is named, a path's last part, or a module's name",
  ),
  kernel: Glob.optional().describe('Pattern of kernel releases'),
  distro: Glob.optional().describe('Pattern of catalogue ids'),
};
const somewhere = (place: { module?: unknown; kernel?: unknown; distro?: unknown }): boolean =>
  place.module !== undefined || place.kernel !== undefined || place.distro !== undefined;
const NOWHERE = 'names neither module nor kernel nor distro';

/** What `dkms2bin matrix` builds. What it leaves out is what the rest of the file says. */
export const Matrix = z.strictObject({
  modules: texts.optional().describe('DKMS packages, as in dkms (default: those)'),
  kernels: texts.optional().describe('Kernels, as in kernel (default: those)'),
  distros: texts.optional().describe('Catalogue ids; every kernel of kernels is looked for in each'),
  include: z
    .array(
      z.strictObject({
        module: text.describe('A DKMS package'),
        kernel: text.describe('Kernel releases: exact, a pattern, or latest'),
        distro: text.optional().describe('Catalogue id'),
      }),
    )
    .optional()
    .describe('Cells in addition to those of modules × kernels'),
  exclude: z
    .array(z.strictObject(Place).refine(somewhere, NOWHERE))
    .optional()
    .describe('Cells of modules × kernels that are left out'),
  'expect-failure': z
    .array(
      z.strictObject({ ...Place, reason: text.describe('Why, for the reports') }).refine(somewhere, NOWHERE),
    )
    .optional()
    .describe('Cells that are known to fail; one that is built after all fails the matrix'),
  ...keysOf('matrix'),
});
export type Matrix = z.input<typeof Matrix> & InputOf<'matrix'>;

/** Keys are the command line's long options; `verify: false` is `--no-verify`. */
const Config = z.strictObject({
  ...keysOf('own'),
  kernels: z
    .array(z.record(z.string(), z.unknown()))
    .optional()
    .describe(
      "Repositories of kernels beside the catalogue's, in the form of the overlays of images/kernels.yaml",
    ),
  matrix: Matrix.optional().describe('What dkms2bin matrix builds'),
});

/** A config file whose values have been checked, as they are written in it. An option on the command line wins. */
export type Config = InputOf<'own'> & {
  kernels?: Record<string, unknown>[] | undefined;
  matrix?: Matrix | undefined;
};

export interface LoadedConfig {
  /** Absolute, null when there is no config file. */
  path: string | null;
  config: Config;
}

/**
 * Reads the config file: `explicit` (of `--config`), which must exist, or `dkms2bin.yaml` in `cwd`, which may. Throws
 * fault `usage` naming file, line and key of every mistake.
 */
export async function loadConfig(options: {
  cwd: string;
  explicit?: string | undefined;
}): Promise<LoadedConfig> {
  const path =
    options.explicit === undefined ? join(options.cwd, CONFIG_NAME) : resolve(options.cwd, options.explicit);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (options.explicit === undefined && (error as NodeJS.ErrnoException).code === 'ENOENT') {
      return { path: null, config: {} };
    }
    const { code } = error as NodeJS.ErrnoException;
    const why = { ENOENT: 'no such file', EISDIR: 'it is a folder', EACCES: 'permission denied' }[code ?? ''];
    throw new Dkms2binError('usage', `Cannot read the config file ${path}: ${why ?? messageOf(error)}`, {
      hint: `--config takes the path of a YAML file, from the current folder on; without it ${CONFIG_NAME} is read, if there.`,
      cause: error,
    });
  }
  const config = parseConfig(text, options.explicit ?? CONFIG_NAME);
  if (config.kernels === undefined) return { path, config };
  if (!/\.ya?ml$/.test(path))
    throw new Dkms2binError('usage', `${path}: kernels stands only in a file whose name ends in .yaml`);
  return { path, config: { ...config, 'kernel-repo': [config['kernel-repo'] ?? [], path].flat() } };
}

/** `name` stands for the file in errors. */
export function parseConfig(text: string, name = CONFIG_NAME): Config {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const lineAt = (offset: number): number => lines.linePos(offset).line;
  if (document.errors.length > 0) {
    throw mistakes(document.errors.map((error) => [`${name}:${lineAt(error.pos[0])}: ${error.message}`]));
  }
  let value: unknown;
  try {
    value = (document.toJS({ maxAliasCount: 100 }) as unknown) ?? {};
  } catch (error) {
    throw mistakes([[`${name}: ${messageOf(error)}`]]);
  }
  const parsed = Config.safeParse(value);
  if (parsed.success) return value as Config;
  const at = (path: readonly PropertyKey[]): string => `${name}:${lineAt(offsetOf(document, path))}`;
  throw mistakes(parsed.error.issues.flatMap((issue) => mistakesOf(issue, at)));
}

/** A mistake with its place, and the next step where there is one of its own. */
type Mistake = [message: string, hint?: string | undefined];

function mistakesOf(issue: z.core.$ZodIssue, at: (path: readonly PropertyKey[]) => string): Mistake[] {
  const { path } = issue;
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(path);
    return issue.keys.map((key): Mistake => [
      `${at([...path, key])}: unknown key ${[...path, key].join('.')}${suggestion(key, known)}`,
    ]);
  }
  if (path.length === 0) return [[`${at([])}: the file must be a mapping of options`]];
  const [message, hint] = wordsOf(issue);
  // Which one of a list of texts it is, its words say.
  const key = path.length === 2 && typeof path[1] === 'number' ? path.slice(0, 1) : path;
  return [[`${at(path)}: ${key.join('.')}: ${message}`, hint]];
}

function knownKeys(path: readonly PropertyKey[]): string[] {
  if (path.length === 0) return Object.keys(Config.shape);
  return path.length === 1 && path[0] === 'matrix' ? Object.keys(Matrix.shape) : [];
}

/** Where the key of that path stands, or the nearest thing that contains it. */
function offsetOf(document: Document, path: readonly PropertyKey[]): number {
  let node: unknown = document.contents;
  let range = document.contents?.range;
  for (const key of path) {
    const pair = isMap(node) ? node.items.find((item) => isScalar(item.key) && item.key.value === key) : null;
    const inner = isSeq(node) ? (node.items[Number(key)] as Node | undefined) : (pair?.value as Node | null);
    range = (pair?.key as Node | undefined)?.range ?? inner?.range ?? range;
    node = inner;
  }
  return range?.[0] ?? 0;
}

function mistakes(list: Mistake[]): Dkms2binError {
  const hints = [...new Set(list.flatMap(([, hint]) => hint ?? []))];
  return new Dkms2binError('usage', list.map(([message]) => message).join('\n'), {
    hint:
      hints.length > 0
        ? hints.join('\n')
        : 'The keys are the long options of dkms2bin build; see schema/config.schema.json.',
  });
}

/** The key that was meant: the same word in another spelling (`outDir`, `no-verify`, `kernels`). */
function suggestion(key: string, keys: readonly string[]): string {
  const bare = (text: string): string => text.toLowerCase().replace(/[^a-z0-9]/g, '');
  const wanted = bare(key);
  if (wanted === 'noverify' && keys.includes('verify')) return '; did you mean verify: false?';
  const known = keys.find((k) => [bare(k), `${bare(k)}s`].includes(wanted) || bare(k) === `${wanted}s`);
  return known === undefined ? '' : `; did you mean ${known}?`;
}

/** JSON Schema of the config file, published as schema/config.schema.json. */
export function configJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(Config, { io: 'input' }), title: 'dkms2bin.yaml' };
}
