import { access, constants } from 'node:fs/promises';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { buildCell, builtBefore } from '../cell/cell.js';
import type { CellInput } from '../cell/types.js';
import type { Machine } from '../environment/boot.js';
import { packageOf } from '../cell/source.js';
import { listRunDirs } from '../cell/run-dir.js';
import type { KernelEnvironment } from '../environment/snapshot.js';
import type { CellResult, KernelTarget, ModuleSource } from '../model/cell.js';
import type { BuildContext, PlanContext } from '../model/context.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { catalogueOf } from '../distro/catalogue.js';
import type { Signer } from '../pack/sign.js';
import type { BuildPlan, PlannedCell } from './plan/types.js';
import type { BuildRequest } from '../options/request.js';
import { errorResult } from './error-result.js';
import type { CellDone } from './executor.js';
import { KernelEnvironments, machineOf } from './kernel-environments.js';
import { cellLabel, otherSourcesOf } from './plan/planned-cell.js';
import { loginToRun } from './runs.js';
import { attesterOf, signerOf } from './signer.js';
import { makeFolder } from '../lib/make-folder.js';

const NOT_REPRODUCIBLE =
  'With this kind of key no two signatures are the same: the packages will not be reproducible. RSA signatures are always the same.';

/** What all cells of a run are built with. */
interface Means {
  request: BuildRequest;
  otherSources: readonly ModuleSource[];
  outDir: string;
  signer: Signer | null;
  invocation: CellInput['invocation'];
  machine: Machine;
  environments: KernelEnvironments;
  onFailure: BuildContext['onFailure'];
}

/** Builds cells of one request on this machine: its keys, the shape of its VMs, and what they start from. */
export class CellRunner implements AsyncDisposable {
  private constructor(private readonly means: Means) {}

  /** `run` names this invocation in the provenance. Throws for a key or an out-dir that cannot be used. */
  static async open(plan: BuildPlan, run: string, context: BuildContext): Promise<CellRunner> {
    const { request, cells } = plan;
    const outDir = await writableFolder(resolve(request.cwd, request.outDir));
    // A key that cannot be used is told before minutes of building.
    const signer = await signerOf(
      request,
      cells.map(({ kernel }) => kernel),
      context,
    );
    if (signer?.reproducible === false)
      context.emit({ type: 'note', level: 'warn', message: NOT_REPRODUCIBLE });
    const invocation = { id: run, signer: await attesterOf(request), options: optionsOf(request) };
    // Removes what killed runs left behind.
    await listRunDirs();
    const machine = await machineOf(request, cells[0]?.arch ?? 'x86_64', context);
    const environments = new KernelEnvironments(request, await catalogueOf(request), machine);
    return new CellRunner({
      ...{ request, outDir, signer, invocation, machine, environments },
      otherSources: otherSourcesOf(plan),
      onFailure: context.onFailure,
    });
  }

  get machine(): Machine {
    return this.means.machine;
  }

  /** Makes what the VMs of a kernel start from. What goes wrong is told by the cells of that kernel. */
  async warm(target: KernelTarget): Promise<void> {
    await this.means.environments.environment(target).catch(() => undefined);
  }

  /** A cell that needs no VM: it is up to date, or its source cannot be had. Null for every other one. */
  async known(cell: PlannedCell, turn: PlanContext): Promise<CellDone | null> {
    const unknown = await this.#attempt(cell, turn, () => this.#requireSource(cell, turn));
    if (unknown || turn.signal.aborted) return unknown;
    // Waiting for it is no time of the cell's; its error is.
    await this.means.environments.layer(cell.target).catch(() => undefined);
    return this.#attempt(cell, turn, async () => {
      const environment = { layer: await this.means.environments.layer(cell.target), snapshot: null };
      return builtBefore(this.#input(cell, environment, turn));
    });
  }

  /** Throws for a name that its distro does not have: that is told before minutes of making a layer. */
  async #requireSource({ module, distro }: PlannedCell, { emit, signal }: PlanContext): Promise<null> {
    const { environments, machine } = this.means;
    if (module.kind === 'repo') {
      await packageOf(module, environments.lookup(distro), { ...machine, emit, signal });
    }
    return null;
  }

  /** Builds a cell; whatever goes wrong with it is its result. Null when `signal` ended it. */
  async build(cell: PlannedCell, turn: PlanContext): Promise<CellDone | null> {
    return this.#attempt(cell, turn, async () =>
      buildCell(this.#input(cell, await this.means.environments.environment(cell.target), turn)),
    );
  }

  async #attempt(
    cell: PlannedCell,
    { signal }: PlanContext,
    work: () => Promise<CellResult[] | null>,
  ): Promise<CellDone | null> {
    const started = performance.now();
    let results: CellResult[] | null;
    try {
      signal.throwIfAborted();
      results = await work();
    } catch (error) {
      if (signal.aborted) return null;
      if (!(error instanceof Dkms2binError)) throw error;
      results = [errorResult(cell, error, { 'set-up': (performance.now() - started) / 1000 })];
    }
    if (results === null) return null;
    const inVm = results.some(({ phases }) => phases.boot !== undefined);
    return {
      results,
      worker: hostname(),
      accelerator: inVm ? this.means.machine.accel : null,
      seconds: (performance.now() - started) / 1000,
    };
  }

  #input(cell: PlannedCell, environment: KernelEnvironment, { emit, signal }: PlanContext): CellInput {
    const { request, machine, environments, onFailure } = this.means;
    const { outDir, otherSources, signer, invocation } = this.means;
    return {
      label: cellLabel(cell),
      source: cell.module,
      otherSources,
      target: cell.target,
      environment,
      lookup: environments.lookup(cell.distro),
      machine: { ...machine, emit, signal },
      ...{ outDir, signer, invocation },
      nameStyle: request.nameStyle,
      verify: request.verify,
      strict: request.strict,
      debugSymbols: request.debugSymbols,
      checkReproducible: request.checkReproducible,
      force: request.force,
      debug: request.debug,
      keepFailed: request.keepFailed,
      timeoutMs: request.timeoutSeconds * 1000,
      ...(onFailure && {
        onFailure: (run) =>
          onFailure({ id: run.record.id, login: () => loginToRun(run.record, run.dir, { signal }) }),
      }),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.means.environments[Symbol.asyncDispose]();
  }
}

/** What the provenance of all packages of a run says of its options. */
function optionsOf(request: BuildRequest): CellInput['invocation']['options'] {
  return {
    image: request.image,
    nameStyle: request.nameStyle,
    verify: request.verify,
    ...(request.debugSymbols ? { debugSymbols: true } : {}),
    ...(request.buildPackages.length > 0 && { buildPackages: request.buildPackages }),
    ...(request.mirror ? { mirror: request.mirror } : {}),
    ...(request.archive ? { archive: request.archive } : {}),
  };
}

export async function writableFolder(path: string): Promise<string> {
  try {
    await makeFolder(path);
    await access(path, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new Dkms2binError('usage', `--out-dir ${path} cannot be written: ${messageOf(error)}`, {
      hint: 'Give a folder that you own.',
    });
  }
  return path;
}
