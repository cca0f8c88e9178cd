import type { PlanContext } from '../model/context.js';
import { catalogueOf } from '../distro/catalogue.js';
import type { BuildRequest } from '../options/request.js';
import { reckon } from './course.js';
import { KernelEnvironments, machineOf } from './kernel-environments.js';
import { archOfRequest, planTargets } from './plan/plan.js';

/** A kernel that the next build finds ready. */
export interface WarmKernel {
  kernel: string;
  distro: string;
  /** Whether VMs start from a memory snapshot; else each boots. */
  snapshot: boolean;
}

/**
 * Makes image, kernel layer and memory snapshot of every kernel of the request, one after the other. A kernel that fails
 * does not stop the others: `report` is called for each that is ready, the errors come together at the end.
 */
export async function warm(
  request: BuildRequest,
  context: PlanContext & { report: (ready: WarmKernel) => void },
): Promise<void> {
  const rows = await catalogueOf(request);
  const targets = await planTargets(request, rows, context);
  const reckoning = reckon(context.emit);
  const machine = await machineOf(request, archOfRequest(request), { ...context, emit: reckoning.emit });
  await using environments = new KernelEnvironments(request, rows, machine);
  await reckoning.begin({ request, targets, cells: [], jobs: 1 }, rows, machine);
  const errors: unknown[] = [];
  for (const target of targets) {
    try {
      const { snapshot } = await environments.environment(target);
      context.report({ kernel: target.release, distro: target.distro, snapshot: snapshot !== null });
    } catch (error) {
      if (context.signal.aborted) throw error;
      errors.push(error);
    }
  }
  await reckoning.end();
  if (errors.length === 1) throw errors[0];
  if (errors.length > 1) throw new AggregateError(errors);
}
