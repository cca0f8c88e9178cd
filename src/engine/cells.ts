import { access, constants, mkdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { buildCell, builtBefore, type CellInput } from '../cell/cell.js';
import type { Machine } from '../environment/boot.js';
import { listRunDirs } from '../cell/run-dir.js';
import type { KernelEnvironment } from '../environment/snapshot.js';
import type { CellResult, KernelTarget, ModuleSource } from '../model/cell.js';
import type { Emit } from '../model/events.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { readCapped } from '../lib/read-capped.js';
import { loadCatalogue } from '../distro/catalogue.js';
import { readSigner, type Signer as AttestSigner } from '../attest/dsse.js';
import { openSigner, type Signer } from '../pack/sign.js';
import type { BuildPlan, PlannedCell } from './plan/types.js';
import type { BuildRequest } from '../options/request.js';
import type { CellDone } from './executor.js';
import { KernelEnvironments, machineOf } from './kernel-environments.js';
import type { PlanContext } from './plan/plan.js';
import { loginToRun } from './runs.js';

export interface BuildContext extends PlanContext {
  onFailure?: (run: { id: string; login: () => Promise<void> }) => Promise<void>;
  /** Asks a person for the signing key's passphrase; absent when nobody is there. */
  askPassphrase?: (question: string) => Promise<string>;
}

export const cellLabel = ({ source, kernel }: PlannedCell): string => `${source} × ${kernel}`;

/** What one cell has of its own, beside others that run at the same time. */
export interface CellTurn {
  signal: AbortSignal;
  emit: Emit;
}

/** Builds cells of one request on this machine: its keys, the shape of its VMs, and what they start from. */
export class CellRunner implements AsyncDisposable {
  private constructor(
    private readonly request: BuildRequest,
    private readonly otherSources: readonly ModuleSource[],
    private readonly outDir: string,
    private readonly attach: Pick<CellInput, 'signer' | 'invocation'>,
    private readonly machine: Machine,
    private readonly environments: KernelEnvironments,
    private readonly context: BuildContext,
  ) {}

  /** `run` names this invocation in the provenance. Throws for a key or an out-dir that cannot be used. */
  static async open(plan: BuildPlan, run: string, context: BuildContext): Promise<CellRunner> {
    const { request } = plan;
    const outDir = await writableFolder(resolve(request.cwd, request.outDir));
    // A key that cannot be used is told before minutes of building.
    const signer = await signerOf(plan, context);
    const invocation = { id: run, signer: await attesterOf(request), options: optionsOf(request) };
    // Removes what killed runs left behind.
    await listRunDirs();
    const machine = await machineOf(request, plan.cells[0]?.arch ?? 'x86_64', context);
    const environments = new KernelEnvironments(request, await loadCatalogue(), machine);
    const otherSources = plan.otherSources ?? [...new Set(plan.cells.map((cell) => cell.module))];
    return new CellRunner(
      request,
      otherSources,
      outDir,
      { signer, invocation },
      machine,
      environments,
      context,
    );
  }

  /** Makes what the VMs of a kernel start from. What goes wrong is told by the cells of that kernel. */
  async warm(target: KernelTarget): Promise<void> {
    await this.environments.environment(target).catch(() => undefined);
  }

  /** A cell that needs no VM: it is up to date, or its source cannot be had. Null for every other one. */
  async known(cell: PlannedCell, turn: CellTurn): Promise<CellDone | null> {
    // Waiting for it is no time of the cell's; its error is.
    await this.environments.layer(cell.target).catch(() => undefined);
    return this.#attempt(cell, turn, async () => {
      const environment = { layer: await this.environments.layer(cell.target), snapshot: null };
      return builtBefore(this.#input(cell, environment, turn));
    });
  }

  /** Builds a cell; whatever goes wrong with it is its result. Null when `signal` ended it. */
  async build(cell: PlannedCell, turn: CellTurn): Promise<CellDone | null> {
    return this.#attempt(cell, turn, async () =>
      buildCell(this.#input(cell, await this.environments.environment(cell.target), turn)),
    );
  }

  async #attempt(
    cell: PlannedCell,
    { signal }: CellTurn,
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
      results = [errorResult(cell, error, (performance.now() - started) / 1000)];
    }
    if (results === null) return null;
    const inVm = results.some(({ phases }) => phases.boot !== undefined);
    return {
      results,
      worker: hostname(),
      accelerator: inVm ? this.machine.accel : null,
      seconds: (performance.now() - started) / 1000,
    };
  }

  #input(cell: PlannedCell, environment: KernelEnvironment, { emit, signal }: CellTurn): CellInput {
    const { request, context } = this;
    const { onFailure } = context;
    return {
      label: cellLabel(cell),
      source: cell.module,
      otherSources: this.otherSources,
      target: cell.target,
      environment,
      lookup: this.environments.lookup(cell.distro),
      machine: { ...this.machine, emit, signal },
      outDir: this.outDir,
      ...this.attach,
      nameStyle: request.nameStyle,
      verify: request.verify,
      debugSymbols: request.debugSymbols,
      checkReproducible: request.checkReproducible,
      force: request.force,
      debug: request.debug,
      keepFailed: request.keepFailed,
      timeoutMs: request.timeoutSeconds * 1000,
      ...(onFailure && {
        onFailure: (run) => onFailure({ id: run.record.id, login: () => loginToRun(run.record, run.dir) }),
      }),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.environments[Symbol.asyncDispose]();
  }
}

function errorResult(cell: PlannedCell, error: Dkms2binError, seconds: number): CellResult {
  return {
    module: cell.source,
    version: null,
    kernel: cell.kernel,
    distro: cell.distro,
    arch: cell.arch,
    verdict: error.fault === 'module' ? 'failed' : 'error',
    reason: error.hint ? `${messageOf(error)}\n${error.hint}` : messageOf(error),
    package: null,
    log: null,
    phases: { 'set-up': seconds },
    kept: (error as { kept?: string }).kept ?? null,
    fault: error.fault,
  };
}

/** What the provenance of all packages of a run says of its options. */
function optionsOf(request: BuildRequest): CellInput['invocation']['options'] {
  return {
    image: request.image,
    nameStyle: request.nameStyle,
    verify: request.verify,
    ...(request.debugSymbols ? { debugSymbols: true } : {}),
    ...(request.mirror ? { mirror: request.mirror } : {}),
    ...(request.archive ? { archive: request.archive } : {}),
  };
}

/** Who signs the provenance; null: nobody. Throws fault `usage` for a key that cannot be used. */
export async function attesterOf({ provenanceKey, cwd }: BuildRequest): Promise<AttestSigner | null> {
  if (provenanceKey === undefined) return null;
  const path = resolve(cwd, provenanceKey);
  return readSigner((await readCapped(path, 2 ** 20)).toString('latin1'), path);
}

/** Opens the signing key and says what it cannot do. */
async function signerOf({ request, cells }: BuildPlan, context: BuildContext): Promise<Signer | null> {
  const { signKey, signCert } = request;
  if (signKey === undefined && signCert === undefined) return null;
  if (signKey === undefined || signCert === undefined) {
    throw new Dkms2binError('usage', `--sign-${signKey === undefined ? 'key' : 'cert'} is missing`, {
      hint: 'Signing needs both --sign-key and --sign-cert; dkms2bin keygen makes a pair.',
    });
  }
  const old = cells.find(({ kernel }) => {
    const [major = 0, minor = 0] = kernel.split('.').map((part) => parseInt(part, 10));
    return major < 4 || (major === 4 && minor < 3);
  });
  if (old) {
    throw new Dkms2binError(
      'usage',
      `Modules for ${old.kernel} cannot be signed: kernels before 4.3 want another form`,
      {
        hint: 'Build for that kernel without --sign-key.',
      },
    );
  }
  const signer = await openSigner({
    key: signKey,
    cert: signCert,
    cwd: request.cwd,
    signal: context.signal,
    ...(request.passphraseFile === undefined ? {} : { passphraseFile: request.passphraseFile }),
    ...(context.askPassphrase ? { prompt: context.askPassphrase } : {}),
  });
  if (!signer.reproducible) {
    const message =
      'Signatures of this kind of key differ each time: the packages will not be reproducible. RSA keys make the same ones.';
    context.emit({ type: 'note', level: 'warn', message });
  }
  return signer;
}

export async function writableFolder(path: string): Promise<string> {
  try {
    await mkdir(path, { recursive: true });
    await access(path, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new Dkms2binError('usage', `--out-dir ${path} cannot be written: ${messageOf(error)}`, {
      hint: 'Give a folder that you own.',
    });
  }
  return path;
}
