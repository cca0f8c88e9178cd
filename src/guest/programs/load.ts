import { z } from 'zod';
import { Dkms2binError, GuestDeath } from '../../model/errors.js';
import { nonsense, type Guest, type GuestOutput, type Report, type ScriptRun } from '../guest.js';
import type { ProgramName, Variables } from '../program.js';
import { readEnd, valuesOf, whyOf, type EndName } from '../protocol.js';

/**
 * How a module met the kernel: `refused` when its own init function returned an error, `bad` when the kernel does not take it, dies
 * of it or cannot let it go, `missing` when nothing was reported of it.
 */
export interface Load {
  name: string;
  how: 'loaded' | 'refused' | 'bad' | 'missing';
  why: string;
  /** The kernel's own warnings meanwhile, and new taint. */
  warnings: string[];
}

/** What a program that loads modules has told. */
export interface Loads {
  /** Of the modules that were reported. */
  loads: ReadonlyMap<string, Load>;
  /** The module of which the kernel died; what would have come after it was not tried. Null: the kernel lives. */
  broke: string | null;
}

/** Seconds that an init or exit function may take. */
const HANG_SECONDS = { kvm: 30, tcg: 90 };
/** The programs say every 5 s that something goes on. */
export const SILENCE_MS = 60_000;

const HOW = z.enum(['loaded', 'refused', 'bad', 'broke']);
const KEY = z.enum(['doing', 'load', 'warn', 'stays']);

/** Reads lib/load.py's rows as they come. Throws `transient` for one that is out of its place. */
class LoadReader implements Loads {
  readonly loads = new Map<string, Load>();
  readonly #warnings = new Map<string, string[]>();
  broke: string | null = null;
  /** What the guest is at, and with which module. */
  doing: { what: 'load' | 'unload'; name: string } | null = null;

  /** Throws `transient` for a row that makes no sense. */
  read({ key, value }: Report, known: (name: string) => boolean): void {
    const about = KEY.safeParse(key);
    if (about.success && !this.#row(about.data, value.split(' '), known)) throw nonsense({ key, value });
  }

  #row(key: z.infer<typeof KEY>, [first = '', ...rest]: string[], known: (name: string) => boolean): boolean {
    const isTry = key === 'doing';
    const name = isTry ? (rest.shift() ?? '') : first;
    if (!known(name) || this.loads.has(name)) return false;
    if (isTry) return rest.length === 0 && this.#try(first, name);
    if (key === 'load') return this.#result(name, rest);
    if (this.doing?.name !== name) return false;
    if (key === 'warn') this.#warningsOf(name).push(rest.join(' '));
    return true;
  }

  #try(what: string, name: string): boolean {
    if (what !== 'load' && !(what === 'unload' && this.doing?.name === name)) return false;
    this.doing = { what, name };
    return true;
  }

  #result(name: string, [said, ...why]: string[]): boolean {
    const how = HOW.safeParse(said);
    // What was never tried can be nothing but bad.
    if (!how.success || this.broke !== null || (how.data !== 'bad' && this.doing?.name !== name))
      return false;
    if (how.data === 'broke') this.broke = name;
    this.#add(name, how.data === 'broke' ? 'bad' : how.data, why.join(' '));
    this.doing = null;
    return true;
  }

  #add(name: string, how: Load['how'], why: string): void {
    this.loads.set(name, { name, how, why, warnings: this.#warningsOf(name) });
  }

  #warningsOf(name: string): string[] {
    const found = this.#warnings.get(name) ?? [];
    this.#warnings.set(name, found);
    return found;
  }

  /** The machine is no more: of the module that it was at. False when it was at none. */
  died(death: GuestDeath): boolean {
    if (!this.doing) return false;
    const { what, name } = this.doing;
    const phase = what === 'load' ? 'while it was being loaded' : 'while it was being unloaded';
    const end = death.how === 'silent' ? 'the machine hung' : 'the kernel died';
    this.broke = name;
    this.#add(name, 'bad', `${end} ${phase}${death.words === '' ? '' : `: ${death.words}`}`);
    return true;
  }
}

/** How a module fared; `missing` when nothing was reported of it. */
export const howItLoads = ({ loads }: Pick<Loads, 'loads'>, name: string): Load =>
  loads.get(name) ?? { name, how: 'missing', why: '', warnings: [] };

export interface LoadRun extends ScriptRun {
  accel: 'kvm' | 'tcg';
  input?: Buffer;
  /** What the console says of the kernel's end; '' for nothing. */
  lastWords: () => string;
}

/**
 * Runs a program that loads modules. Resolves also for a machine that dies or hangs in a module, with `output` null; throws its
 * GuestDeath otherwise, and `transient` for rows that make no sense. `known` tells which modules may be reported, by the rows so far.
 */
export async function runLoads(
  guest: Guest,
  {
    name,
    vars,
    known,
  }: { name: ProgramName; vars: Variables; known: (name: string, reports: readonly Report[]) => boolean },
  { accel, lastWords, ...run }: LoadRun,
): Promise<Loads & { output: GuestOutput | null; reports: readonly Report[] }> {
  const reports: Report[] = [];
  const reader = new LoadReader();
  let nonsense: Error | undefined;
  const onReport = (report: Report): void => {
    reports.push(report);
    try {
      reader.read(report, (module) => known(module, reports));
    } catch (error) {
      nonsense ??= error instanceof Error ? error : new Error(String(error));
    }
  };
  const told = (output: GuestOutput | null) => ({
    loads: reader.loads,
    broke: reader.broke,
    output,
    reports,
  });
  try {
    const output = await guest.script(
      name,
      { ...vars, HANG: HANG_SECONDS[accel] },
      { silenceMs: SILENCE_MS, ...run, onReport },
    );
    if (nonsense !== undefined) throw nonsense;
    return told(output);
  } catch (error) {
    if (nonsense !== undefined) throw nonsense;
    if (!(error instanceof GuestDeath)) throw error;
    const death =
      error.words === '' ? new GuestDeath(error.how, error.message, lastWords(), { cause: error }) : error;
    if (!reader.died(death)) throw death;
    return told(null);
  }
}

/**
 * `readEnd` for a program that loads modules. Its `BAD` counts only with a report of a module: Python ends with the same code
 * when it breaks, which is `transient`.
 */
export function readLoadEnd<Expected extends EndName>(
  output: GuestOutput,
  expected: readonly Expected[],
  describe: (why: string, end: EndName | null) => { message: string; hint?: string },
): Expected {
  const end = readEnd(output, expected, describe);
  if (end === 'BAD' && valuesOf(output, 'load').length === 0) {
    throw new Dkms2binError('transient', describe(whyOf(output), null).message);
  }
  return end;
}
