import type { Form } from './forms.js';

/** Commands by what is typed after `dkms2bin`. */
export type CommandName =
  | ('build' | 'bisect' | 'matrix' | 'refresh' | 'worker' | 'board')
  | ('init' | 'login' | 'runs' | 'rm' | 'kernels' | 'inspect' | 'prove' | 'keygen' | 'doctor')
  | 'images update'
  | ('images list' | 'images prune' | 'images verify' | 'images warm' | 'repo publish' | 'repo serve')
  | ('completion' | 'complete');

/** Those that build cells. */
export const BUILDERS = ['build', 'bisect', 'matrix', 'refresh'] as const satisfies CommandName[];

/** Headings under which help and reference show options, in this order. */
export const GROUPS = {
  what: 'What to build:',
  queue: 'More than one machine:',
  result: 'Result:',
  signing: 'Signing and repository:',
  machine: 'Virtual machine:',
  network: 'Network:',
  output: 'Output:',
} as const;

/** What help says of an option: a line, and its default in words. */
interface Help {
  readonly help: string;
  /** In words; absent when there is nothing to say, as for an option that must be given. */
  readonly default?: string;
}

export interface Option extends Help {
  /** Long name without dashes, which is the key in the config file, too. */
  readonly name: string;
  /** Its name in the values and in a request; default: the name in camel case. */
  readonly field?: string;
  readonly schema: Form;
  /** How help shows its value; absent for a switch. */
  readonly value?: `<${string}>` | `[${string}]`;
  readonly repeatable?: true;
  /** The value when nobody says anything. */
  readonly fallback?: unknown;
  /** The value of an option that is typed without one. */
  readonly preset?: string;
  readonly group: keyof typeof GROUPS;
  readonly commands: readonly CommandName[];
  /** Where it means something of its own. */
  readonly says?: { readonly [C in CommandName]?: Help };
  /** Commands that do not start without it. */
  readonly required?: readonly CommandName[];
  /** Options that it cannot be typed together with. */
  readonly excludes?: readonly string[];
  /**
   * How it stands in the config file: as a key of its own, under a key that another option of this name defines, or in the
   * section `matrix`. Absent: not at all.
   */
  readonly file?: 'own' | 'borrowed' | 'matrix';
  /** A part of what is asked of the engine, in `BuildRequest`. */
  readonly request?: true;
  /** Decides what comes out of a cell that is built from the same source for the same kernel. */
  readonly identity?: true;
  /** What completes its value, when that is no list of its own. */
  readonly completes?: 'files' | 'distros' | 'kernels' | 'modules';
}

/** Keeps the literal types of a row, from which the types of values are made. */
export const option = <const O extends Option>(row: O): O => row;
