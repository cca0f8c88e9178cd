import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { deadline } from '../environment/boot.js';
import type { Guest } from '../guest/guest.js';
import type { Load } from '../guest/programs/load.js';
import { verifyPackages, type Verification } from '../guest/programs/verify.js';
import type { CellModule, Packaged, PackedModule, Verified } from './types.js';

/** Installs the packages and loads their modules in a VM that never ran the package's build. Throws `transient` when that cannot be tried. */
export async function verify(cell: Packaged): Promise<Verified> {
  const { input, verifyVm, phase } = cell;
  if (!input.verify) return { ...cell, verified: false };
  const verification = await phase('verify', async () => {
    const { guest } = await verifyVm.start();
    return verifyInGuest(cell, guest);
  });
  return {
    ...cell,
    modules: cell.modules.map((module) => verifiedModule(module, verification)),
    verified: true,
  };
}

async function verifyInGuest({ input, modules }: Packaged, guest: Guest): Promise<Verification> {
  const { machine, target, lookup, label } = input;
  const packed = modules.flatMap((each) => each.packed ?? []);
  const packages = new Map(
    packed.flatMap((each) => each.packages.filter(({ role }) => role !== 'debug')).map((p) => [p.path, p]),
  );
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
      modules: packed.flatMap(({ koNames }) => koNames),
      needs: [...new Set(packed.flatMap(({ needs }) => needs))],
      release: target.release,
      packageManager: lookup.row.packageManager ?? 'apt',
    },
    {
      timeoutMs: deadline(machine.accel, 60),
      onLine: (line) => machine.emit({ type: 'output', cell: label, line }),
    },
  );
}

function verifiedModule(module: CellModule, verification: Verification): CellModule {
  if (!module.packed) return module;
  const failure = failureOf(module.packed, verification);
  if (failure !== null) {
    return { ...module, result: { ...module.result, verdict: 'failed', fault: 'module', reason: failure } };
  }
  const refused = loadsOf(module.packed, verification).filter(({ how }) => how === 'refused');
  const reason =
    refused.length > 0
      ? `installs; not loaded: ${refused.map(({ name, why }) => `${name}: ${why}`).join('; ')}`
      : null;
  return { ...module, result: { ...module.result, verdict: 'built', reason } };
}

const loadsOf = ({ koNames }: PackedModule, { loads }: Verification): Load[] =>
  koNames.map((name) => loads.get(name) ?? { name, how: 'missing', why: '' });

/** Why a module's package is bad; null when it is good. */
function failureOf(packed: PackedModule, verification: Verification): string | null {
  const { failure, error } = verification;
  const bad = loadsOf(packed, verification).find(({ how }) => how !== 'loaded' && how !== 'refused');
  if (!bad) return failure;
  if (bad.how === 'missing' && error !== null) return error;
  return `${bad.name} does not load (${bad.how}): ${bad.why}`;
}
