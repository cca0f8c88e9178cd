import { mkdir, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { deadline } from '../environment/boot.js';
import { bootOn } from '../environment/snapshot.js';
import type { ModuleReport } from '../guest/programs/build.js';
import { disguise } from '../guest/programs/disguise.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { run as runTool } from '../lib/exec.js';
import { plain } from '../lib/text.js';
import type { CellResult } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { firstDifference } from '../pack/difference.js';
import type { PackedPackage } from '../pack/module-package.js';
import { buildInVm, networkOf } from './compile.js';
import { packModule } from './package.js';
import { RunDir } from './run-dir.js';
import type { BuildConditions, Built, CellInput, CellModule, PackedModule, Verified } from './types.js';

/** Another year, month, day, weekday and time of day. */
const AHEAD_SECONDS = 398 * 86_400 + 7 * 3600 + 13 * 60;

const VARIED =
  'The second build had a different date (398 days, 7 hours and 13 minutes later), host name, machine id, number of make jobs ' +
  'and run folder, and its VM was booted, not cloned from a memory snapshot.';

/** A build of the same cell with all of its surroundings different that can be. */
function otherConditions({ input, prepared, conditions }: Verified): BuildConditions {
  const { environment, machine } = input;
  const network = networkOf(input, prepared);
  return {
    // Each VM gets a machine id of its own when it is reached.
    boot: (dir) => bootOn({ layer: environment.layer, snapshot: null }, network, dir, machine),
    // So it proves what the host compiled, too.
    compiler: null,
    jobs: conditions.jobs === 1 ? 2 : 1,
    disguise: (guest) =>
      disguise(guest, { aheadSeconds: AHEAD_SECONDS, hostName: 'elsewhere' }, deadline(machine.accel, 30)),
  };
}

/** A module's packages, when they are to be compared. */
const candidate = ({ packed, ownedByOtherCell, result }: CellModule): PackedModule | null =>
  ownedByOtherCell || result.verdict !== 'built' ? null : packed;

/**
 * Where that was asked for, builds the cell once more in other surroundings and compares the packages. Sets `reproducible`
 * of each result that is built so far; one whose packages differ becomes `failed`, and they are kept in
 * `<package>.reproducibility` in the out-dir.
 */
export async function rebuild(
  cell: Verified,
  work: { build: typeof buildInVm; pack: typeof packModule } = { build: buildInVm, pack: packModule },
): Promise<Verified> {
  const { input, verifyVm, phase } = cell;
  if (!input.checkReproducible) return cell;
  // Its memory is wanted for the other one.
  await verifyVm[Symbol.asyncDispose]();
  return phase('rebuild', async () => {
    if (!cell.modules.some(candidate)) return cell;
    if (input.signer && !input.signer.reproducible) {
      const message =
        'With this kind of key no two signatures are the same: to check reproducibility, modules are compared before they are signed.';
      input.machine.emit({ type: 'note', level: 'info', message, cell: input.label });
    }
    const { release, distro } = input.target;
    const run = await RunDir.create({ cell: `${input.label}, again`, kernel: release, distro });
    try {
      const second = await buildAgain(cell, run, work.build);
      const modules: CellModule[] = [];
      for (const module of cell.modules) {
        const pair = await packPair(cell, module, { run, second, pack: work.pack });
        modules.push(pair ? { ...module, result: await compared(input, module.result, pair) } : module);
      }
      return { ...cell, modules };
    } finally {
      await run.close();
    }
  });
}

/** The second build; an error when the source does not build then. */
async function buildAgain(
  cell: Verified,
  run: RunDir,
  build: typeof buildInVm,
): Promise<Built | Dkms2binError> {
  try {
    return await build({
      input: { ...cell.input, debug: false, keepFailed: false },
      prepared: cell.prepared,
      run,
      conditions: otherConditions(cell),
      // What it takes belongs to `rebuild` as a whole.
      phase: (_, work) => work(),
    });
  } catch (error) {
    if (error instanceof Dkms2binError && error.fault === 'module') return error;
    throw error;
  }
}

/** A module's packages of both builds. */
interface Pair {
  /** File name of the main one. */
  name: string;
  first: readonly PackedPackage[];
  second: readonly PackedPackage[];
  /** Why there is no second one. */
  failure: string | null;
}

async function packPair(
  cell: Verified,
  module: CellModule,
  { run, second, pack }: { run: RunDir; second: Built | Dkms2binError; pack: typeof packModule },
): Promise<Pair | null> {
  const packed = candidate(module);
  if (!packed) return null;
  const { signer } = cell.input;
  const comparable = signer?.reproducible ? signer : null;
  const { name, version } = module.report;
  const packInto = async (which: string, built: Built): Promise<PackedPackage[]> => {
    const outDir = join(run.dir, `${which}-${name}-${version}`);
    await mkdir(outDir);
    return pack(cell, module, { built, signer: comparable, outDir });
  };
  const both = {
    name: basename(packed.main),
    first: comparable === signer ? packed.packages : await packInto('first', cell.built),
  };
  const failure = second instanceof Error ? second.message : failureOf(module.report, second);
  if (second instanceof Error || failure !== null) return { ...both, second: [], failure };
  return { ...both, second: await packInto('second', second), failure };
}

/** Why a build did not make this module; null when it did. */
function failureOf({ name, version }: ModuleReport, { reports }: Built): string | null {
  const report = reports.find((each) => each.name === name && each.version === version);
  if (report?.verdict === 'built') return null;
  return report
    ? `${report.verdict}: ${report.reason || (report.firstError ?? '')}`
    : 'it does not know the module';
}

/** The module's result after the comparison. Keeps packages that differ. */
async function compared(
  { outDir, machine }: CellInput,
  result: CellResult,
  { name, first, second, failure }: Pair,
): Promise<CellResult> {
  const folder = join(outDir, `${basename(name, '.deb')}.reproducibility`);
  // Of an earlier run: it would contradict this one.
  await rm(folder, { recursive: true, force: true });
  const differences =
    failure === null ? await differencesOf(first, second) : [`the second build did not succeed: ${failure}`];
  if (differences.length === 0) return { ...result, reproducible: true };
  await mkdir(folder);
  // Not called .deb: nothing that collects packages may take them for some.
  for (const { path } of first) await writeAtomic({ file: path }, join(folder, `${basename(path)}.first`));
  for (const { path } of second) await writeAtomic({ file: path }, join(folder, `${basename(path)}.second`));
  const reports = await Promise.all(
    second.map(async ({ path }) => {
      const twin = first.find((each) => basename(each.path) === basename(path));
      return twin ? diffoscope(twin.path, path, machine.signal) : '';
    }),
  );
  const text = [VARIED, '', ...differences, ...reports.flatMap((report) => (report ? ['', report] : [])), ''];
  await writeAtomic(Buffer.from(text.join('\n')), join(folder, 'difference.txt'));
  return {
    ...result,
    verdict: 'failed',
    fault: 'module',
    reproducible: false,
    reason: `not reproducible: ${differences[0]}\nBoth builds and their differences are in ${folder}`,
  };
}

/** What differs first in each package, in words; empty when all are the same to the byte. */
async function differencesOf(
  first: readonly PackedPackage[],
  second: readonly PackedPackage[],
): Promise<string[]> {
  const found: string[] = [];
  const names = new Set([...first, ...second].map(({ path }) => basename(path)));
  for (const name of names) {
    const [one, two] = [first, second].map((all) => all.find(({ path }) => basename(path) === name));
    if (!one || !two) found.push(`only the ${one ? 'first' : 'second'} build made ${name}`);
    else {
      const [a, b] = await Promise.all([readFile(one.path), readFile(two.path)]);
      const difference = await firstDifference(a, b, name);
      if (difference !== null) found.push(difference);
    }
  }
  return found;
}

const DIFFOSCOPE_MS = 10 * 60_000;
const DIFFOSCOPE_BYTES = 4 * 2 ** 20;

/** diffoscope's report; '' where it is not installed, finds nothing or fails, since our own words stand before it. */
async function diffoscope(first: string, second: string, signal: AbortSignal): Promise<string> {
  const report = `${second}.diffoscope`;
  const args = ['--text', report, '--max-text-report-size', String(DIFFOSCOPE_BYTES), first, second];
  try {
    await runTool('diffoscope', args, { cancelSignal: signal, timeout: DIFFOSCOPE_MS });
  } catch (error) {
    // It ends with 1 when it has found something.
    if (signal.aborted || !(error instanceof Dkms2binError)) throw error;
  }
  return plain(await readFile(report, 'utf8').catch(() => ''));
}
