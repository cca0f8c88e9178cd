import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { howItLoads, type Load } from '../guest/programs/load.js';
import { verifyPackages, type Verification } from '../guest/programs/verify.js';
import type { CellModule, Packaged, PackedModule, Verified } from './types.js';

/** A module that is packed. */
type Candidate = CellModule & { packed: PackedModule };

/**
 * Installs the packages and loads their modules in a VM that never ran the package's build. Each module of the cell is judged by
 * itself: what one of them spoils is tried again without it, in a new VM. Throws `transient` when that cannot be tried.
 */
export async function verify(cell: Packaged): Promise<Verified> {
  const { input, phase } = cell;
  if (!input.verify) return { ...cell, verified: false };
  const candidates = cell.modules.filter((module): module is Candidate => module.packed !== null);
  const judged = await phase('verify', () => judge(cell, candidates));
  return {
    ...cell,
    modules: cell.modules.map((module) => verifiedModule(cell, module, judged.get(module))),
    verified: true,
  };
}

/** What became of each of `candidates`. */
async function judge(
  cell: Packaged,
  candidates: readonly Candidate[],
): Promise<Map<CellModule, Verification>> {
  const judged = new Map<CellModule, Verification>();
  if (candidates.length === 0) return judged;
  const verification = await verifyInVm(cell, candidates);
  const { loads, broke, failure } = verification;
  const settled =
    failure === null
      ? candidates.filter(
          ({ packed: { koNames } }) =>
            broke === null || koNames.includes(broke) || koNames.every((name) => loads.has(name)),
        )
      : [];
  for (const module of settled) judged.set(module, verification);
  // Of packages that are bad as a whole nobody knows which of them it is.
  const rest = candidates.filter((module) => !judged.has(module));
  const again = failure === null ? [rest] : rest.map((module) => [module]);
  if (again.length === 1 && settled.length === 0) {
    for (const module of rest) judged.set(module, verification);
    return judged;
  }
  for (const group of again) {
    if (group.length === 0) continue;
    await cell.verifyVm[Symbol.asyncDispose]();
    for (const [module, found] of await judge(cell, group)) judged.set(module, found);
  }
  return judged;
}

async function verifyInVm(cell: Packaged, candidates: readonly Candidate[]): Promise<Verification> {
  const { input, verifyVm } = cell;
  const { machine, target, lookup, label } = input;
  const packages = new Map(
    withNeeded(cell, candidates)
      .flatMap(({ packed }) => packed.packages.filter(({ role }) => role !== 'debug'))
      .map((each) => [each.path, each]),
  );
  const { guest, vm } = await verifyVm.start();
  return verifyPackages(
    guest,
    {
      packages: await Promise.all(
        [...packages.values()].map(async ({ path, package: name }) => ({
          file: basename(path),
          package: name,
          bytes: await readFile(path),
        })),
      ),
      modules: candidates.flatMap(({ packed }) => packed.koNames),
      needs: [...new Set(candidates.flatMap(({ packed }) => packed.needs))],
      release: target.release,
      packageManager: lookup.row.packageManager ?? 'apt',
    },
    {
      timeoutMs: input.timeoutMs,
      lateHint: 'Give it more time with --timeout.',
      accel: machine.accel,
      onLine: (line) => machine.emit({ type: 'output', cell: label, line }),
      lastWords: () => vm.lastWords(),
    },
  );
}

/** The modules with those of the cell that their packages depend on. */
function withNeeded(cell: Packaged, candidates: readonly Candidate[]): Candidate[] {
  const needed = new Set<CellModule>(candidates);
  // Grows while it is walked through.
  for (const { report } of needed) {
    const found = cell.built.collected.modules.find(
      ({ name, version }) => name === report.name && version === report.version,
    );
    for (const module of cell.modules) {
      if (found?.buildDepends.includes(module.report.name)) needed.add(module);
    }
  }
  return cell.modules.filter((module): module is Candidate => needed.has(module) && module.packed !== null);
}

function verifiedModule(
  { input }: Packaged,
  module: CellModule,
  verification: Verification | undefined,
): CellModule {
  if (!module.packed || !verification) return module;
  const loads = module.packed.koNames.map((name) => howItLoads(verification, name));
  const warnings = warningsOf(loads);
  const failure = failureOf(loads, verification) ?? (input.strict ? warnings : null);
  if (failure !== null) {
    return { ...module, result: { ...module.result, verdict: 'failed', fault: 'module', reason: failure } };
  }
  const refused = loads.filter(({ how }) => how === 'refused');
  const reasons = [
    refused.length > 0
      ? `installs; not loaded: ${refused.map(({ name, why }) => `${name}: its init function returned ${why}`).join('; ')}`
      : null,
    warnings,
  ].filter((each) => each !== null);
  return {
    ...module,
    result: { ...module.result, verdict: 'built', reason: reasons.length > 0 ? reasons.join('; ') : null },
  };
}

/** Null when the kernel has nothing to say. */
function warningsOf(loads: readonly Load[]): string | null {
  const told = loads.flatMap(({ name, warnings }) => warnings.map((each) => `${name}: ${each}`));
  return told.length > 0 ? `the kernel warns: ${told.join('; ')}` : null;
}

/** Why a module's package is bad; null when it is good. */
function failureOf(loads: readonly Load[], { failure }: Verification): string | null {
  const bad = loads.find(({ how }) => how === 'bad');
  if (bad) return `${bad.name}: ${bad.why}`;
  if (failure !== null) return failure;
  const missing = loads.find(({ how }) => how === 'missing');
  return missing ? `${missing.name}: nothing was reported of it` : null;
}
