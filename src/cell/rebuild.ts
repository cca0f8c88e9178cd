import { mkdir, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { CellResult } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { run as runTool } from '../lib/exec.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { plain } from '../lib/text.js';
import type { Guest } from '../guest/guest.js';
import { firstDifference } from '../pack/difference.js';
import type { PackedPackage } from '../pack/module-package.js';
import type { Signer } from '../pack/sign.js';
import type { Built, CellInput, PackedModule, BuildConditions } from './cell.js';
import { deadline } from '../environment/boot.js';
import { RunDir } from './run-dir.js';
import { bootOn } from '../environment/snapshot.js';

/** Another year, month, day, weekday and time of day. */
const AHEAD_SECONDS = 398 * 86_400 + 7 * 3600 + 13 * 60;

const VARIED =
  'The second build had another date (398 days, 7 hours and 13 minutes later), host name, machine id, number of make jobs ' +
  'and run folder, and its VM was booted, not cloned from a memory snapshot.';

/** A build of the same cell with all of its surroundings different that can be. */
function otherConditions(
  { environment, machine }: CellInput,
  network: boolean,
  usual: BuildConditions,
): BuildConditions {
  return {
    // Each VM gets a machine id of its own when it is reached.
    boot: (dir) => bootOn({ layer: environment.layer, snapshot: null }, network, dir, machine),
    jobs: usual.jobs === 1 ? 2 : 1,
    disguise: async (guest: Guest) => {
      const timeoutMs = deadline(machine.accel, 30);
      const result = await guest.script(
        'disguise.sh',
        { AHEAD: AHEAD_SECONDS, HOST: 'elsewhere' },
        { timeoutMs },
      );
      if (result.code !== 0)
        throw new Dkms2binError('transient', `The guest's clock could not be set:\n${result.tail}`);
    },
  };
}

/**
 * Builds the cell once more in other surroundings and compares the packages. Sets `reproducible` of each result that is
 * built so far; one whose packages differ becomes `failed`, and they are kept in `<package>.reproducibility` in the out-dir.
 */
export async function checkReproducible(
  input: CellInput,
  network: boolean,
  first: Built,
  staged: readonly PackedModule[],
  usual: BuildConditions,
  rebuild: (run: RunDir, conditions: BuildConditions) => Promise<Built>,
): Promise<void> {
  const { label, target, machine } = input;
  const candidates = staged.filter(
    ({ result, ownedByOtherCell }) => !ownedByOtherCell && result.verdict === 'built',
  );
  if (candidates.length === 0) return;
  const signer = input.signer?.reproducible ? input.signer : null;
  if (signer !== input.signer) {
    const message =
      'Signatures of this kind of key differ each time: for the check of reproducibility, modules are compared before they are signed.';
    machine.emit({ type: 'note', level: 'info', message, cell: label });
  }
  const run = await RunDir.create({ cell: `${label}, again`, kernel: target.release, distro: target.distro });
  try {
    const second = await rebuild(run, otherConditions(input, network, usual)).catch((error: unknown) => {
      if (error instanceof Dkms2binError && error.fault === 'module') return error;
      throw error;
    });
    for (const [at, each] of candidates.entries()) {
      const pack = async (which: string, built: Built, key: Signer | null): Promise<PackedPackage[]> => {
        const dir = join(run.dir, `${which}-${at}`);
        await mkdir(dir);
        return each.pack(built, key, dir);
      };
      const one = signer === input.signer ? each.packed : await pack('first', first, signer);
      const failure = second instanceof Error ? second.message : failureOf(each.result, second);
      const two = second instanceof Error || failure !== null ? [] : await pack('second', second, signer);
      await recordReproducible(input, each, one, two, failure);
    }
  } finally {
    await run.close();
  }
}

/** Why a build did not make this module; null when it did. */
function failureOf({ module, version }: CellResult, { reports }: Built): string | null {
  const report = reports.find((each) => each.name === module && each.version === version);
  if (report?.verdict === 'built') return null;
  return report
    ? `${report.verdict}: ${report.reason || (report.firstError ?? '')}`
    : 'it does not know the module';
}

async function recordReproducible(
  { outDir, machine }: CellInput,
  { result, main }: PackedModule,
  first: readonly PackedPackage[],
  second: readonly PackedPackage[],
  failure: string | null,
): Promise<void> {
  const folder = join(outDir, `${basename(main, '.deb')}.reproducibility`);
  // Of an earlier run: it would contradict this one.
  await rm(folder, { recursive: true, force: true });
  const differences =
    failure === null ? await differencesOf(first, second) : [`the second build did not succeed: ${failure}`];
  result.reproducible = differences.length === 0;
  if (result.reproducible) return;
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
  result.verdict = 'failed';
  result.fault = 'module';
  result.reason = `not reproducible: ${differences[0]}\nBoth builds and what differs are in ${folder}`;
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
