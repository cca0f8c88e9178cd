import type { X509Certificate } from 'node:crypto';
import { resolve } from 'node:path';
import { choosePackages, prove as proveRepository, proverOf } from './prove.js';
import { listRunDirs } from '../cell/run-dir.js';
import type { CellResult } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { Proof } from '../model/proof.js';
import { readCapped } from '../lib/read-capped.js';
import { newRunId } from '../lib/run-id.js';
import { findRow, loadCatalogue } from '../distro/catalogue.js';
import { readCertificate } from '../formats/certificate.js';
import type { BuildPlan, PlannedCell } from './plan/types.js';
import type { BuildRequest } from '../options/request.js';
import { readOffer } from '../repo/index.js';
import { vmsAtOnce } from './budget.js';
import { cellLabel, CellRunner, type BuildContext } from './cells.js';
import type { CellDone, Executor } from './executor.js';
import { KernelEnvironments, machineOf } from './kernel-environments.js';
import { archOfRequest, planTargets, type PlanContext } from './plan/plan.js';
import { Schedule } from './schedule.js';

/**
 * Builds every cell of a plan, all of one architecture: image, layers, build, package, proof. Cells never stop each other.
 */
export async function build(
  plan: BuildPlan,
  context: BuildContext,
): Promise<{ run: string; accelerator: string | null; cells: CellResult[] }> {
  const { emit, signal } = context;
  const run = newRunId();
  const done = new Map<PlannedCell, CellDone>();
  await localExecutor(run, context).run(plan, {
    emit,
    signal,
    expectedSeconds: () => null,
    begun: () => undefined,
    ended: (cell, result) => {
      done.set(cell, result);
      for (const { verdict, reason, package: file } of result.results) {
        const more = { ...(reason !== null && { reason }), ...(file !== null && { package: file }) };
        emit({ type: 'cell', cell: cellLabel(cell), verdict, ...more });
      }
      return Promise.resolve();
    },
  });
  if (signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
  const results = plan.cells.map((cell) => done.get(cell)!);
  return {
    run,
    accelerator: results.find(({ accelerator }) => accelerator !== null)?.accelerator ?? null,
    cells: results.flatMap((each) => each.results),
  };
}

/** Builds cells here, in as many VMs at once as fit. */
export function localExecutor(run: string, context: BuildContext): Executor {
  return {
    run: async (plan, turn) => {
      const stop = new AbortController();
      const signal = AbortSignal.any([turn.signal, stop.signal]);
      await using runner = await CellRunner.open(plan, run, { ...context, emit: turn.emit, signal });
      const jobs = await vmsAtOnce(plan.request, plan.cells.length);
      await new Schedule(plan.cells, jobs, runner, { ...turn, signal }, stop).done();
    },
  };
}

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
  const rows = await loadCatalogue();
  const targets = await planTargets(request, rows, context);
  await using environments = new KernelEnvironments(
    request,
    rows,
    await machineOf(request, archOfRequest(request), context),
  );
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
  if (errors.length === 1) throw errors[0];
  if (errors.length > 1) throw new AggregateError(errors);
}

/**
 * Installs the packages that the repository `dir` has for the request's one kernel, or those of `modules`, on a machine
 * without a toolchain, and loads their modules; with `signCert` on one that trusts it and loads nothing unsigned.
 */
export async function prove(
  request: BuildRequest,
  { dir, modules }: { dir: string; modules: readonly string[] },
  context: PlanContext,
): Promise<Proof> {
  const [release = ''] = request.kernels;
  const offer = await readOffer(dir);
  const packages = choosePackages(offer, release, modules);
  const certificate = await certificateOf(request);
  const rows = await loadCatalogue();
  const [target] = await planTargets(request, rows, context);
  if (certificate && target!.arch !== 'x86_64') {
    throw new Dkms2binError(
      'usage',
      '--sign-cert: a machine that trusts a certificate can be made for x86_64 alone',
      {
        hint: `Without it the packages are installed and loaded on an ${target!.arch} machine that takes unsigned modules, too.`,
      },
    );
  }
  // Told before minutes of making a machine.
  proverOf(findRow(rows, target!.distro), packages);
  // Removes what killed runs left behind.
  await listRunDirs();
  const machine = await machineOf(request, target!.arch, context);
  await using environments = new KernelEnvironments(request, rows, machine, 'runtime');
  // A kernel reads the firmware's certificates as it boots: no snapshot can be used.
  const environment = certificate
    ? { layer: await environments.layer(target!), snapshot: null }
    : await environments.environment(target!);
  const lookup = environments.lookup(target!.distro);
  return proveRepository({
    dir,
    offer,
    packages,
    target: target!,
    environment,
    certificate,
    lookup,
    machine,
  });
}

async function certificateOf({ signCert, cwd }: BuildRequest): Promise<X509Certificate | null> {
  if (signCert === undefined) return null;
  const path = resolve(cwd, signCert);
  return readCertificate(await readCapped(path, 2 ** 20), path);
}
