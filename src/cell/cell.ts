import { join } from 'node:path';
import { bootOn } from '../environment/snapshot.js';
import type { CellResult } from '../model/cell.js';
import { compile, networkOf } from './compile.js';
import { deliver, publishLogs, resultsOf } from './deliver.js';
import { cellIdentity, remember, upToDate } from './finished.js';
import { pack } from './package.js';
import { phaseTimer } from './phases.js';
import { PrebootedVm } from './prebooted-vm.js';
import { rebuild } from './rebuild.js';
import { RunDir } from './run-dir.js';
import { prepareSource } from './source.js';
import type { BuildConditions, CellInput, Packaged, Sourced, Verified } from './types.js';
import { verify } from './verify.js';

/** What an earlier run made of the very same input, when it is still in the out-dir; null for what has to be built. */
export async function builtBefore(input: CellInput): Promise<CellResult[] | null> {
  if (input.force || input.debug) return null;
  return upToDate(input, cellIdentity(input, await prepareSource(input)));
}

/**
 * Builds one cell: source ▸ compile ▸ package ▸ verify ▸ rebuild ▸ deliver. A package with several modules gives several
 * results. Throws what is no module's fault.
 */
export async function buildCell(input: CellInput): Promise<CellResult[]> {
  const sourced = await findSource(input);
  const known = await upToDate(input, sourced.identity);
  if (known) return known;
  const { release, distro } = input.target;
  const run = await RunDir.create({ cell: input.label, kernel: release, distro });
  try {
    return await buildInRun(sourced, run);
  } finally {
    await run.close();
  }
}

async function findSource(input: CellInput): Promise<Sourced> {
  const startedOn = new Date();
  const phases: Record<string, number> = {};
  const phase = phaseTimer(phases, input.machine.emit, input.label);
  const prepared = await phase('prepare', () => prepareSource(input));
  return { input, startedOn, phases, phase, prepared, identity: cellIdentity(input, prepared) };
}

async function buildInRun(sourced: Sourced, run: RunDir): Promise<CellResult[]> {
  const { input, identity } = sourced;
  const { environment, machine } = input;
  await using verifyVm = new PrebootedVm((before) =>
    bootOn(environment, 'none', join(run.dir, `verify${before > 0 ? `-${before}` : ''}`), machine),
  );
  const compiled = await compile({ ...sourced, run, verifyVm, conditions: usualConditions(sourced) });
  const packaged = await pack(compiled);
  if (!packaged.modules.some(({ packed, ownedByOtherCell }) => packed && !ownedByOtherCell)) {
    await publishLogs(packaged);
    return resultsOf(packaged);
  }
  const { results, records } = await deliver(await examine(packaged));
  if (results.every(({ verdict }) => verdict === 'built')) {
    await remember(input, identity, records);
  }
  return results;
}

/** Verifies the packages and, if asked, builds them once more. The logs tell of a build that could not be examined, too. */
async function examine(packaged: Packaged): Promise<Verified> {
  try {
    return await rebuild(await verify(packaged));
  } catch (error) {
    if (!packaged.input.machine.signal.aborted) await publishLogs(packaged);
    throw error;
  }
}

function usualConditions({ input, prepared }: Sourced): BuildConditions {
  const { environment, machine } = input;
  return {
    boot: (dir) => bootOn(environment, networkOf(input, prepared), dir, machine),
    compiler: environment.compiler?.root ?? null,
    // A compiler takes up to 1 GiB.
    jobs: Math.max(1, Math.min(machine.cpus, Math.floor(machine.memoryMiB / 1024))),
  };
}
