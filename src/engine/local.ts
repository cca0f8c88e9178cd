import type { X509Certificate } from 'node:crypto';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import PQueue from 'p-queue';
import { choosePackages, prove as proveRepository } from '../build/prove.js';
import { listRunDirs } from '../build/run-dir.js';
import type { CellResult } from '../core/cell.js';
import { Dkms2binError } from '../core/errors.js';
import type { Proof } from '../core/proof.js';
import { readCapped } from '../core/read-capped.js';
import { newRunId } from '../core/run-id.js';
import { loadCatalogue } from '../image/catalogue.js';
import { readCertificate } from '../pack/signature.js';
import type { BuildPlan, BuildRequest, PlannedCell } from '../plan/types.js';
import { readOffer } from '../repo/index.js';
import { vmsAtOnce } from './budget.js';
import { cellLabel, CellRunner, type BuildContext, type CellTurn } from './cells.js';
import type { CellDone, Executor, ExecutorContext } from './executor.js';
import { Grounds, machineOf } from './grounds.js';
import { planTargets, type PlanContext } from './plan.js';

/** Builds every cell of a plan: image, layers, build, package, proof. Cells never stop each other. */
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

/** Before all cells. */
const FIRST = Number.MAX_SAFE_INTEGER;

/**
 * Cells wait, without taking up a VM's place, until the layer of their kernel is made; the longest of them go first. Layers
 * are made in such a place too, one for each kernel, and only as far ahead as is needed to have cells ready.
 */
class Schedule {
  readonly #queue: PQueue;
  readonly #kernels: PlannedCell[][];
  /** Kernels whose layer is being made. */
  #making = 0;
  /** Cells that could begin. */
  #ready = 0;
  #failure: { error: unknown } | null = null;

  constructor(
    cells: readonly PlannedCell[],
    private readonly jobs: number,
    private readonly runner: CellRunner,
    private readonly context: ExecutorContext,
    private readonly stop: AbortController,
  ) {
    this.#queue = new PQueue({ concurrency: jobs });
    const kernels = new Map<string, PlannedCell[]>();
    for (const cell of cells) {
      const key = `${cell.distro} ${cell.kernel}`;
      kernels.set(key, [...(kernels.get(key) ?? []), cell]);
    }
    this.#kernels = [...kernels.values()];
  }

  /** Rejects with the first fault that is not a cell's own, when all that ran has ended. */
  async done(): Promise<void> {
    this.#feed();
    await this.#queue.onIdle();
    if (this.#failure) throw this.#failure.error;
  }

  #feed(): void {
    while (this.#kernels.length > 0 && this.#making < this.jobs && this.#ready < 2 * this.jobs) {
      const cells = this.#kernels.shift()!;
      this.#making += 1;
      this.#add(FIRST, () => this.#kernel(cells));
    }
  }

  #add(priority: number, work: () => Promise<void>): void {
    const guarded = async (): Promise<void> => {
      if (this.context.signal.aborted) return;
      try {
        await work();
      } catch (error) {
        this.#failure ??= { error };
        this.stop.abort();
      }
    };
    void this.#queue.add(guarded, { priority });
  }

  async #kernel(cells: readonly PlannedCell[]): Promise<void> {
    const left: PlannedCell[] = [];
    for (const cell of cells) {
      const done = await this.runner.known(cell, this.#turn());
      if (done) await this.#ended(cell, done);
      else left.push(cell);
    }
    if (left.length > 0) await this.runner.warm(left[0]!.target);
    this.#making -= 1;
    for (const cell of left) {
      this.#ready += 1;
      // What was never built may be the longest of all.
      this.#add(this.context.expectedSeconds(cell) ?? FIRST - 1, () => this.#cell(cell));
    }
    this.#feed();
  }

  async #cell(cell: PlannedCell): Promise<void> {
    this.#ready -= 1;
    this.#feed();
    this.context.begun(cell, hostname());
    const done = await this.runner.build(cell, this.#turn());
    if (done) await this.context.ended(cell, done);
  }

  async #ended(cell: PlannedCell, done: CellDone): Promise<void> {
    this.context.begun(cell, done.worker);
    await this.context.ended(cell, done);
  }

  #turn(): CellTurn {
    return { emit: this.context.emit, signal: this.context.signal };
  }
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
  await using grounds = new Grounds(request, rows, await machineOf(request, context));
  const errors: unknown[] = [];
  for (const target of targets) {
    try {
      const { snapshot } = await grounds.ground(target);
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
  // Removes what killed runs left behind.
  await listRunDirs();
  const machine = await machineOf(request, context);
  await using grounds = new Grounds(request, rows, machine, 'runtime');
  // A kernel reads the firmware's certificates as it boots: no snapshot can be used.
  const ground = certificate
    ? { layer: await grounds.layer(target!), snapshot: null }
    : await grounds.ground(target!);
  const lookup = grounds.lookup(target!.distro);
  return proveRepository({ dir, offer, packages, target: target!, ground, certificate, lookup, machine });
}

async function certificateOf({ signCert, cwd }: BuildRequest): Promise<X509Certificate | null> {
  if (signCert === undefined) return null;
  const path = resolve(cwd, signCert);
  return readCertificate(await readCapped(path, 2 ** 20), path);
}
