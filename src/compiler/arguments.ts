import { posix } from 'node:path';

/** What the guest's compiler was asked for, as far as its files go; absolute paths of the guest's. */
export interface Compilation {
  source: string;
  object: string;
  /** Where it writes what it read. */
  deps: string;
  /** Folders that it looks for headers in, in their order. */
  folders: string[];
  /** Those of them whose headers `deps` does not tell. */
  silent: string[];
}

/** Why a compilation stays in the guest. */
export class Refusal extends Error {}

/** Options whose value is the next argument, and what of the compilation it is. */
const WITH_VALUE: Record<string, 'folder' | 'silent' | 'object' | 'deps' | 'ignored'> = {
  '-I': 'folder',
  '-iquote': 'folder',
  '-isystem': 'silent',
  '-idirafter': 'silent',
  // What it reads by these, `deps` tells.
  '-include': 'ignored',
  '-imacros': 'ignored',
  '-o': 'object',
  '-MF': 'deps',
  '-MT': 'ignored',
  '-MQ': 'ignored',
  '-D': 'ignored',
  '-U': 'ignored',
  '--param': 'ignored',
};
/** The longer ones first. */
const JOINED = [
  ...['-idirafter', '-include', '-isystem', '-imacros', '-iquote', '-MF', '-I', '-o', '-D', '-U'],
] as const;

/** Options that read or write no file. What is not one of these is the guest's own affair. */
const HARMLESS = [
  /^-(?:c|nostdinc|nostdlib|pipe|w|pg|ansi|pedantic|pedantic-errors|MD|MMD|MP|undef|pthread|P)$/,
  /^-std=[a-z0-9:+]+$/,
  /^-O[0-9sgz]?$|^-Ofast$/,
  /^-g(?:[0-3]|db[0-3]?|dwarf(?:-[2-6])?|no-[a-z0-9-]+|as-loc[a-z0-9-]*|column-info|variable-location-views|strict-dwarf|statement-frontiers)?$/,
  // -Wa, -Wp, and -Wl, hand something on.
  /^-W(?![alp],)[A-Za-z0-9+_-]*(?:=[A-Za-z0-9+_.-]*)?$/,
  /^-m[A-Za-z0-9_.+-]+(?:=[A-Za-z0-9_.,+:-]*)?$/,
  /^--param=[a-z0-9-]+=\d+$/,
  // A map of prefixes is text.
  /^-f(?:macro|file|debug)-prefix-map=[^=]*=[^=]*$/,
  /^-f(?!plugin|dump|profile|auto-profile|test-coverage|branch-probabilities|stack-usage|callgraph-info|opt-info|save-optimization-record|lto|wpa|ltrans|ltrans|use-ld|compare-debug|report-bug|sched-verbose|pch|module|directives-only|preprocessed|working-directory|diagnostics-(?!color=never$|show-|no-)|randomize-layout-seed-file|sanitize-(?:ignorelist|blacklist|system-blacklist)|xray|crash-diagnostics|build-session)[A-Za-z0-9-]+(?:=[A-Za-z0-9_.,+:-]*)?$/,
  /^-Wa,(?:-m[a-z0-9-]+=[a-z0-9-]+|-gdwarf-\d|-g|--64|--32|--noexecstack|--fatal-warnings|-mrelax-relocations=no)$/,
];
const DEPS = /^-Wp,-MM?D,([^,]+)$/;
const MAX_ARGUMENTS = 4096;

type Meaning = (typeof WITH_VALUE)[string];

/** The files and folders among the arguments, as they stand. Throws a Refusal for an option that is not known to be harmless. */
function sortArguments(args: readonly string[]): Record<Meaning | 'source', string[]> {
  const found: Record<Meaning | 'source', string[]> = {
    ...{ source: [], folder: [], silent: [], object: [], deps: [], ignored: [] },
  };
  for (let at = 0; at < args.length; at++) {
    const argument = args[at] ?? '';
    const separate = Object.hasOwn(WITH_VALUE, argument) ? WITH_VALUE[argument] : undefined;
    if (separate !== undefined) {
      const value = args[++at];
      if (value === undefined || value === '') throw new Refusal(`${argument} without a value`);
      found[separate].push(value);
    } else if (argument.startsWith('-')) sortOption(argument, found);
    else found.source.push(argument);
  }
  return found;
}

function sortOption(argument: string, found: Record<Meaning, string[]>): void {
  const deps = DEPS.exec(argument)?.[1];
  const joined = JOINED.find((each) => argument.startsWith(each));
  if (deps !== undefined) found.deps.push(deps);
  else if (joined !== undefined) found[WITH_VALUE[joined] ?? 'ignored'].push(argument.slice(joined.length));
  else if (!HARMLESS.some((form) => form.test(argument))) throw new Refusal(`the option ${argument}`);
}

/** Reads a compiler's arguments. Throws a Refusal for all but a plain compilation of one C or assembler file to one object. */
export function readArguments(folder: string, args: readonly string[]): Compilation {
  if (args.length > MAX_ARGUMENTS) throw new Refusal('too many arguments');
  const found = sortArguments(args);
  if (!args.includes('-c')) throw new Refusal('it is no plain compilation');
  if (!args.includes('-nostdinc')) throw new Refusal('it may read headers of the system');
  const source = only(found.source, 'source');
  const object = only(found.object, 'object');
  const deps = only(found.deps, 'dependency file');
  const isUsual = /\.[cS]$/.test(source) && object.endsWith('.o') && deps.endsWith('.d');
  if (!isUsual) throw new Refusal('names of another kind');
  const absolute = (path: string): string => absolutePath(folder, path);
  return {
    source: absolute(source),
    object: posix.normalize(absolute(object)),
    deps: posix.normalize(absolute(deps)),
    folders: [...found.folder, ...found.silent].map(absolute),
    silent: found.silent.map(absolute),
  };
}

function absolutePath(folder: string, path: string): string {
  // @file, =prefix and the like are no paths.
  if (/^[@=$-]/.test(path) || path.includes('\0')) throw new Refusal(`the path ${path}`);
  return path.startsWith('/') ? path : `${folder}/${path}`;
}

function only(values: readonly string[], what: string): string {
  const [value, ...others] = values;
  if (value === undefined || others.length > 0) throw new Refusal(`not one ${what}`);
  return value;
}

/** The files that a makefile's dependency file names, the target left out. Throws a Refusal for what is none. */
export function readDependencies(text: string): string[] {
  const line = text.replaceAll('\\\n', ' ');
  const colon = /:(?=\s)/.exec(line);
  if (!colon) throw new Refusal('no dependency file');
  return line
    .slice(colon.index + 1)
    .split('\n', 1)
    .flatMap((all) => all.match(/(?:\\[ #\\]|\$\$|[^\s])+/g) ?? [])
    .map((name) => name.replace(/\\([ #\\])/g, '$1').replaceAll('$$', '$'));
}
