import type { KernelTarget } from '../../model/cell.js';
import type { BuildContext } from '../../model/context.js';
import { Dkms2binError } from '../../model/errors.js';
import { newRunId } from '../../lib/run-id.js';
import { catalogueOf } from '../../distro/catalogue.js';
import type { BuildPlan } from '../plan/types.js';
import type { BuildRequest } from '../../options/request.js';
import { chooseAccelerator } from '../../vm/accel.js';
import { vmsAtOnce } from '../budget.js';
import type { CellDone } from '../executor.js';
import { localExecutor } from '../local.js';
import { archOfRequest } from '../plan/plan.js';
import { plannedCell } from '../plan/planned-cell.js';
import { fingerprintOf, signerOf } from '../signer.js';
import { Kernels } from './kernels.js';
import type { CellBuilder, CellTask } from './task.js';
import { runWorker, type WorkerOptions } from './worker.js';

export interface WorkOptions extends Pick<WorkerOptions, 'url' | 'store' | 'name'> {
  /** Catalogue ids; empty: all. */
  distros: readonly string[];
}

/**
 * Builds cells from the queue on this machine until `signal` is aborted. Of the request counts what is this machine's: the
 * shape and number of its VMs, its keys, its way to the network.
 */
export async function work(
  request: BuildRequest,
  { distros, ...options }: WorkOptions,
  context: BuildContext,
): Promise<void> {
  const rows = await catalogueOf(request);
  const known = rows.map(({ id }) => id);
  const stray = distros.find((id) => !known.includes(id));
  if (stray !== undefined) {
    throw new Dkms2binError('usage', `--distro ${stray}: there is no such distro`, {
      hint: `Known distros: ${known.join(', ')}.`,
    });
  }
  const asking = askOnce(context);
  // A key that cannot be used is told before any cell is taken.
  await signerOf(request, [], asking);
  const signer = await fingerprintOf(request);
  // Accelerator and tools are those of one architecture.
  const arch = archOfRequest(request);
  const { name: accelerator } = await chooseAccelerator(request.accel, arch, context);
  const can = {
    distros: distros.length > 0 ? [...distros] : known,
    arches: [arch],
    ...{ accelerator, signer, vms: await vmsAtOnce(request, Infinity) },
  };
  const { emit, signal } = context;
  await runWorker({
    ...options,
    can,
    build: builder({ ...request, accel: accelerator }, asking),
    emit,
    signal,
  });
}

/** Keys are opened for each cell; a person is asked once. */
function askOnce(context: BuildContext): BuildContext {
  const { askPassphrase } = context;
  if (!askPassphrase) return context;
  let answer: Promise<string> | undefined;
  return { ...context, askPassphrase: (question) => (answer ??= askPassphrase(question)) };
}

function builder(own: BuildRequest, context: BuildContext): CellBuilder {
  const kernels = new Kernels(own);
  return async (task, { emit, signal }) => {
    const target = await kernels.targetOf(task.job, task.kernelPackages, { emit, signal });
    const plan = planOf(own, task, target);
    let done: CellDone | undefined;
    await localExecutor(newRunId(), { ...context, emit, signal }).run(plan, {
      ...{ emit, signal },
      expectedSeconds: () => null,
      begun: () => undefined,
      ended: (_, result) => {
        done = result;
        return Promise.resolve();
      },
    });
    if (!done) throw new Dkms2binError('interrupted', 'Interrupted');
    return done;
  };
}

/** The job's cell as a plan of this machine. */
function planOf(
  own: BuildRequest,
  { job, source, otherSources, kernelPackages, buildPackages, outDir }: CellTask,
  target: KernelTarget,
): BuildPlan {
  const { need, image, nameStyle, verify, strict, debugSymbols, checkReproducible, timeoutSeconds } = job;
  const { signKey, signCert, ...rest } = own;
  const request: BuildRequest = {
    ...rest,
    ...{
      dkms: [source.text],
      kernels: [target.release],
      arch: need.arch,
      kernelPackages,
      buildPackages,
      outDir,
    },
    ...{ image, nameStyle, verify, strict, debugSymbols, checkReproducible, timeoutSeconds },
    ...{ jobs: 1, force: false, debug: false, keepFailed: false },
    ...(need.signer !== null && signKey !== undefined && signCert !== undefined && { signKey, signCert }),
  };
  return { request, cells: [plannedCell(source, target, request)], otherSources: [source, ...otherSources] };
}
