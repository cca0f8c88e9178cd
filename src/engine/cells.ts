import { access, constants, mkdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { buildCell, builtBefore, type CellInput } from '../build/cell.js';
import type { Machine } from '../build/machine.js';
import { listRunDirs } from '../build/run-dir.js';
import type { Ground } from '../build/snapshot.js';
import type { CellResult, KernelTarget, ModuleSource } from '../core/cell.js';
import type { Emit } from '../core/events.js';
import { Dkms2binError, messageOf } from '../core/errors.js';
import { readCapped } from '../core/read-capped.js';
import { loadCatalogue } from '../image/catalogue.js';
import { readSigner, type Signer as AttestSigner } from '../pack/dsse.js';
import { openSigner, type Signer } from '../pack/sign.js';
import type { BuildPlan, BuildRequest, PlannedCell } from '../plan/types.js';
import type { CellDone } from './executor.js';
import { Grounds, machineOf } from './grounds.js';
import type { PlanContext } from './plan.js';
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
    private readonly siblings: readonly ModuleSource[],
    private readonly outDir: string,
    private readonly attach: Pick<CellInput, 'signer' | 'invocation'>,
    private readonly machine: Machine,
    private readonly grounds: Grounds,
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
    const machine = await machineOf(request, context);
    const grounds = new Grounds(request, await loadCatalogue(), machine);
    const siblings = plan.siblings ?? [...new Set(plan.cells.map((cell) => cell.module))];
    return new CellRunner(request, siblings, outDir, { signer, invocation }, machine, grounds, context);
  }

  /** Makes what the VMs of a kernel start from. What goes wrong is told by the cells of that kernel. */
  async warm(target: KernelTarget): Promise<void> {
    await this.grounds.ground(target).catch(() => undefined);
  }

  /** A cell that needs no VM: it is up to date, or its source cannot be had. Null for every other one. */
  async known(cell: PlannedCell, turn: CellTurn): Promise<CellDone | null> {
    // Waiting for it is no time of the cell's; its error is.
    await this.grounds.layer(cell.target).catch(() => undefined);
    return this.#attempt(cell, turn, async () => {
      const ground = { layer: await this.grounds.layer(cell.target), snapshot: null };
      return builtBefore(this.#input(cell, ground, turn));
    });
  }

  /** Builds a cell; whatever goes wrong with it is its result. Null when `signal` ended it. */
  async build(cell: PlannedCell, turn: CellTurn): Promise<CellDone | null> {
    return this.#attempt(cell, turn, async () =>
      buildCell(this.#input(cell, await this.grounds.ground(cell.target), turn)),
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

  #input(cell: PlannedCell, ground: Ground, { emit, signal }: CellTurn): CellInput {
    const { request, context } = this;
    const { onFailure } = context;
    return {
      label: cellLabel(cell),
      source: cell.module,
      siblings: this.siblings,
      target: cell.target,
      ground,
      lookup: this.grounds.lookup(cell.distro),
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
    await this.grounds[Symbol.asyncDispose]();
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

async function attesterOf({ provenanceKey, cwd }: BuildRequest): Promise<AttestSigner | null> {
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
