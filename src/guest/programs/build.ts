import { z } from 'zod';
import { checkModuleName, checkModuleVersion } from '../../distro/package-names.js';
import { Dkms2binError } from '../../model/errors.js';
import { nonsense, type Guest, type GuestOutput, type ScriptRun } from '../guest.js';
import { readEnd } from '../protocol.js';
import { sourceVariables, type PushedSource } from './pushed-source.js';

/** How the build of one module ended. */
export interface ModuleReport {
  name: string;
  version: string;
  verdict: 'built' | 'skipped' | 'failed' | 'error';
  /** The source of something that it needs is not there, which no retry mends. */
  lacks?: true;
  reason: string;
  /** The first error line of its make.log. */
  firstError?: string;
  /** Which of its files dkms would not install, and why. */
  leftOut?: string;
  /** Wall time of `dkms build`. */
  seconds?: number;
  /** Built only because another module needs it. */
  dependency: boolean;
}

export interface BuildOrder {
  source: PushedSource;
  release: string;
  /** For make. */
  jobs: number;
  /** Seconds since 1970 that all timestamps get. */
  epoch: number;
  /** The machine may be logged in to later. */
  keep: boolean;
  debugSymbols: boolean;
  /** The host answers the guest's compiler. */
  compileOnHost: boolean;
}

const SAID = z.enum(['built', 'skipped', 'failed', 'lacks', 'error']);
const SECONDS = z
  .string()
  .regex(/^\d{1,7}(\.\d{1,9})?$/)
  .transform(Number);

/** Builds the source's modules with the guest's dkms. Throws what the exit code means when no module came to a verdict; `label` is the cell's. */
export async function runBuild(
  guest: Guest,
  order: BuildOrder,
  label: string,
  run: ScriptRun,
): Promise<ModuleReport[]> {
  const output = await guest.script(
    'build.sh',
    {
      ...sourceVariables(order.source),
      RELEASE: order.release,
      JOBS: order.jobs,
      EPOCH: order.epoch,
      KEEP: order.keep ? 1 : '',
      COMPILE_ON_HOST: order.compileOnHost ? 1 : '',
      DEBUG_SYMBOLS: order.debugSymbols ? 1 : '',
    },
    { ...run, lateHint: 'Give it more time with --timeout.' },
  );
  const reports = readModuleReports(output);
  if (reports.length === 0) readEnd(output, [], (why) => ({ message: `${label}: ${why}` }));
  return reports;
}

/** Of one module: its name and version first. */
const ABOUT = z.enum(['announce', 'module', 'dependency', 'build-seconds', 'first-error', 'left-out']);

/** What has been reported of a module so far. */
interface Announced {
  name: string;
  version: string;
  firstError?: string;
  leftOut?: string;
  seconds?: number;
  /** Its last row. */
  report?: ModuleReport;
}

/**
 * The rows of modules. Throws fault `module` for a name or version that cannot be used, `transient` for rows that the program
 * does not print, or not there: a module that was not announced, a second result, something after the result.
 */
function readModuleReports({ reports, code }: Pick<GuestOutput, 'reports' | 'code'>): ModuleReport[] {
  const announced = new Map<string, Announced>();
  for (const { key, value } of reports) {
    const about = ABOUT.safeParse(key);
    if (about.success && !readRow(announced, about.data, value)) throw nonsense({ key, value });
  }
  const modules = [...announced.values()];
  const unheard = modules.find(({ report }) => report === undefined);
  if (unheard && modules.some(({ report }) => report !== undefined)) {
    const { name, version } = unheard;
    throw new Dkms2binError(
      'transient',
      `The guest ended the build (exit code ${code}) without a result for ${name}/${version}`,
    );
  }
  return modules.flatMap(({ report }) => report ?? []);
}

/** Takes one row; false for one that is out of its place. */
function readRow(announced: Map<string, Announced>, key: z.infer<typeof ABOUT>, value: string): boolean {
  const words = value.split(' ');
  if (key === 'announce') return readAnnouncement(announced, words);
  const isResult = key === 'module' || key === 'dependency';
  const id = words.splice(0, isResult ? 2 : 1).join('/');
  const known = announced.get(id);
  if (!known || known.report) return false;
  if (isResult) {
    // Results keep their order: what others need comes before them.
    announced.delete(id);
    announced.set(id, known);
    return readResult(known, words, key === 'dependency');
  }
  const text = words.join(' ');
  if (key === 'first-error' || key === 'left-out') {
    const said = key === 'first-error' ? 'firstError' : 'leftOut';
    if (known[said] !== undefined) return false;
    known[said] = text;
    return true;
  }
  const seconds = SECONDS.safeParse(text);
  if (known.seconds !== undefined || !seconds.success) return false;
  known.seconds = seconds.data;
  return true;
}

function readAnnouncement(announced: Map<string, Announced>, words: readonly string[]): boolean {
  const [name = '', version = '', ...rest] = words;
  const id = `${checkModuleName(name)}/${checkModuleVersion(version)}`;
  if (announced.has(id) || rest.length > 0) return false;
  announced.set(id, { name, version });
  return true;
}

function readResult(known: Announced, [said, ...reason]: readonly string[], dependency: boolean): boolean {
  const verdict = SAID.safeParse(said);
  if (!verdict.success) return false;
  const { name, version, firstError, leftOut, seconds } = known;
  known.report = {
    ...{ name, version, reason: reason.join(' '), dependency },
    verdict: verdict.data === 'lacks' ? 'error' : verdict.data,
    ...(verdict.data === 'lacks' && { lacks: true }),
    ...(firstError ? { firstError } : {}),
    ...(leftOut ? { leftOut } : {}),
    ...(seconds === undefined ? {} : { seconds }),
  };
  return true;
}
