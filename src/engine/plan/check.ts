import { packageOf, type Lookup } from '../../cell/source.js';
import { findRow, catalogueOf } from '../../distro/catalogue.js';
import type { PlanContext } from '../../model/context.js';
import { Dkms2binError } from '../../model/errors.js';
import { requirePair } from '../../options/request.js';
import type { BuildPlan } from './types.js';

/** What a run of the plan would end with before it built anything, for --dry-run: throws that. Errors of cells come together. */
export async function checkPlan({ request, cells }: BuildPlan, context: PlanContext): Promise<void> {
  requirePair(request);
  const rows = await catalogueOf(request);
  const { mirror, offline, proxy } = request;
  const known: NonNullable<Lookup['known']> = new Map();
  const errors = new Map<string, Dkms2binError>();
  for (const { module, distro, arch } of cells) {
    const name = `${distro} ${module.text}`;
    if (module.kind !== 'repo' || errors.has(name)) continue;
    const lookup = { row: findRow(rows, distro), mirror, offline, proxy, known };
    try {
      await packageOf(module, lookup, { arch, ...context });
    } catch (error) {
      if (!(error instanceof Dkms2binError) || context.signal.aborted) throw error;
      errors.set(name, error);
    }
  }
  const all = [...errors.values()];
  if (all.length > 1) throw new AggregateError(all);
  if (all[0]) throw all[0];
}
