import { z } from 'zod';
import { checkModuleName, checkModuleVersion } from '../../distro/package-names.js';
import { Dkms2binError } from '../../model/errors.js';
import type { Guest, GuestOutput, ScriptRun } from '../guest.js';
import { readEnd } from '../protocol.js';
import { sourceVariables, type PushedSource } from './pushed-source.js';

/** How the build of one module ended. */
export interface ModuleReport {
  name: string;
  version: string;
  verdict: 'built' | 'skipped' | 'failed' | 'error';
  reason: string;
  /** The first error line of its make.log. */
  firstError?: string;
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
}

const VERDICT = z.enum(['built', 'skipped', 'failed', 'error']);
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
      DEBUG_SYMBOLS: order.debugSymbols ? 1 : '',
    },
    { ...run, lateHint: 'Give it more time with --timeout.' },
  );
  const reports = readModuleReports(output);
  if (reports.length === 0) readEnd(output, [], (why) => ({ message: `${label}: ${why}` }));
  return reports;
}

const KEYS = ['source-package', 'module', 'dependency', 'build-seconds', 'first-error', 'error'];

/**
 * The rows of modules. Throws fault `module` for a name or version that cannot be used, `transient` for rows that the program
 * does not print: it is not the program that printed them.
 */
function readModuleReports({ reports }: Pick<GuestOutput, 'reports'>): ModuleReport[] {
  const seen = new Set<string>();
  return reports.flatMap(({ key, value }) => {
    const [name = '', version = '', said, ...reason] = value.split(' ');
    const isModule = key === 'module' || key === 'dependency';
    // One result for a module, one time, one first error.
    const what = `${isModule ? 'result' : key} ${isModule ? `${name}/${version}` : name}`;
    const verdict = isModule ? VERDICT.safeParse(said).data : undefined;
    if (!KEYS.includes(key) || seen.has(what) || (isModule && verdict === undefined)) {
      const row = `${key} ${value}`.slice(0, 200);
      throw new Dkms2binError('transient', `The guest reports what makes no sense: ${row}`);
    }
    seen.add(what);
    if (verdict === undefined) return [];
    const id = `${name}/${version} `;
    const about = (what: string): string | undefined =>
      reports.find((each) => each.key === what && each.value.startsWith(id))?.value.slice(id.length);
    const firstError = about('first-error');
    const seconds = SECONDS.safeParse(about('build-seconds'));
    return {
      name: checkModuleName(name),
      version: checkModuleVersion(version),
      verdict,
      reason: reason.join(' '),
      dependency: key === 'dependency',
      ...(firstError ? { firstError } : {}),
      ...(seconds.success ? { seconds: seconds.data } : {}),
    };
  });
}
