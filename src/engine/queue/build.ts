import { resolve } from 'node:path';
import { Dkms2binError } from '../../model/errors.js';
import { openSigner } from '../../pack/sign.js';
import { newRunId } from '../../lib/run-id.js';
import { loadCatalogue } from '../../distro/catalogue.js';
import type { BuildPlan } from '../plan/types.js';
import type { BuildRequest } from '../../options/request.js';
import { chooseAccelerator } from '../../vm/accel.js';
import { vmsAtOnce } from '../budget.js';
import type { BuildContext } from '../cells.js';
import type { CellDone } from '../executor.js';
import { localExecutor } from '../local.js';
import { archOfRequest } from '../plan/plan.js';
import { fingerprintOf } from './jobs.js';
import { runWorker, type CellBuilder, type CellTask, type WorkerOptions } from './worker.js';

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
  const rows = await loadCatalogue();
  const known = rows.map(({ id }) => id);
  const stray = distros.find((id) => !known.includes(id));
  if (stray !== undefined) {
    throw new Dkms2binError('usage', `--distro ${stray}: there is no such distro`, {
      hint: `There are ${known.join(', ')}.`,
    });
  }
  const asking = askOnce(context);
  const signer = await signerOf(request, asking);
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

/** A key that cannot be used is told before any cell is taken. */
async function signerOf({ signKey, signCert, passphraseFile, cwd }: BuildRequest, context: BuildContext) {
  if (signKey === undefined && signCert === undefined) return null;
  if (signKey === undefined || signCert === undefined) {
    throw new Dkms2binError('usage', `--sign-${signKey === undefined ? 'key' : 'cert'} is missing`, {
      hint: 'Signing needs both --sign-key and --sign-cert.',
    });
  }
  await openSigner({
    ...{ key: signKey, cert: signCert, cwd, signal: context.signal },
    ...(passphraseFile === undefined ? {} : { passphraseFile }),
    ...(context.askPassphrase ? { prompt: context.askPassphrase } : {}),
  });
  return fingerprintOf(resolve(cwd, signCert));
}

/** Keys are opened for each cell; a person is asked once. */
function askOnce(context: BuildContext): BuildContext {
  const { askPassphrase } = context;
  if (!askPassphrase) return context;
  let answer: Promise<string> | undefined;
  return { ...context, askPassphrase: (question) => (answer ??= askPassphrase(question)) };
}

function builder(own: BuildRequest, context: BuildContext): CellBuilder {
  return async (task, { emit, signal }) => {
    const plan = planOf(own, task);
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
  { job, source, otherSources, kernelPackages, outDir }: CellTask,
): BuildPlan {
  const { target, image, nameStyle, need } = job;
  const {
    signKey,
    signCert,
    mirror = own.mirror,
    archive = own.archive,
    ...rest
  } = { ...own, ...mirrorsOf(job) };
  return {
    request: {
      ...rest,
      ...{
        dkms: [source.text],
        kernels: [target.release],
        arch: need.arch,
        image,
        nameStyle,
        outDir,
        kernelPackages,
      },
      ...{ verify: job.verify, debugSymbols: job.debugSymbols, checkReproducible: job.checkReproducible },
      ...{ timeoutSeconds: job.timeoutSeconds, jobs: 1, force: false, debug: false, keepFailed: false },
      ...(mirror !== undefined && { mirror }),
      ...(archive !== undefined && { archive }),
      ...(need.signer !== null && signKey !== undefined && signCert !== undefined && { signKey, signCert }),
    },
    cells: [
      {
        ...{ source: source.text, kernel: target.release, distro: need.distro, arch: need.arch },
        ...{ packageVersion: target.packageVersion ?? null, image, fileStyle: nameStyle, module: source },
        target,
      },
    ],
    otherSources: [source, ...otherSources],
  };
}

const mirrorsOf = ({ mirror, archive }: CellTask['job']): { mirror?: string; archive?: string } => ({
  ...(mirror !== undefined && { mirror }),
  ...(archive !== undefined && { archive }),
});
