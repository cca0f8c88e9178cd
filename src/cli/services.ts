import { resolve } from 'node:path';
import type { CellResult } from '../model/cell.js';
import type { Emit } from '../model/events.js';
import type { Proof } from '../model/proof.js';
import type { Config } from '../options/config.js';
import type { BisectContext, BisectOutcome } from '../engine/bisect.js';
import type { RunInfo } from '../engine/runs.js';
import type { WarmKernel } from '../engine/warm.js';
import type { MatrixContext, MatrixOutcome, MatrixRules } from '../engine/matrix.js';
import type { QueueOptions } from '../engine/queue/executor.js';
import type { WorkOptions } from '../engine/queue/work.js';
import type { RefreshOptions } from '../engine/refresh.js';
import type { CacheRow, PruneOptions, PruneResult, VerifiedRow } from '../cache/upkeep.js';
import type { Passphrase, RepositoryOptions, RepositoryResult, Served } from '../repo/index.js';
import type { Inspection } from '../attest/inspect.js';
import type { MatrixPlan } from '../engine/plan/matrix.js';
import type { RefreshPlan } from '../engine/plan/refresh.js';
import type { BuildPlan } from '../engine/plan/types.js';
import type { BuildRequest } from '../options/request.js';

export interface FailedRun {
  id: string;
  login: () => Promise<void>;
}

export interface BuildContext {
  emit: Emit;
  signal: AbortSignal;
  /** Called while the VM of a failed cell still runs; the cell waits for it. */
  onFailure?: (run: FailedRun) => Promise<void>;
  /** Asks a person for the signing key's passphrase; absent when nobody is there. */
  askPassphrase?: (question: string) => Promise<string>;
}

/** `run` and `accelerator` are null when there was nothing to build. */
export interface BuildOutcome {
  run: string | null;
  accelerator: string | null;
  cells: CellResult[];
}

/** `keyFile` is an OpenPGP secret key. */
export type PublishOptions = Omit<RepositoryOptions, 'key'> & Passphrase & { keyFile?: string | undefined };

export type { RunInfo } from '../engine/runs.js';
export type { MatrixOutcome } from '../engine/matrix.js';
export type { QueueOptions } from '../engine/queue/executor.js';
export type ImageInfo = CacheRow;
export type { PruneOptions, PruneResult, VerifiedRow, WarmKernel };

export interface KernelInfo {
  release: string;
  distro: string;
  packageVersion: string;
  suite: string;
}

export interface AcceleratorReport {
  /** The one that `auto` takes; null when none works. */
  chosen: string | null;
  reason: string;
  candidates: { name: string; usable: boolean; figure: string }[];
}

/** All that commands ask of the layers below; tests put fakes here. */
export interface Engine {
  /** Without a path: `dkms2bin.yaml` in `cwd`, empty when there is none. */
  loadConfig(path: string | undefined, cwd: string): Promise<Config>;
  plan(request: BuildRequest, context: { emit: Emit; signal: AbortSignal }): Promise<BuildPlan>;
  build(plan: BuildPlan, context: BuildContext): Promise<BuildOutcome>;
  planRefresh(
    request: BuildRequest,
    options: RefreshOptions,
    context: { emit: Emit; signal: AbortSignal },
  ): Promise<RefreshPlan>;
  refresh(plan: RefreshPlan, context: BuildContext): Promise<BuildOutcome>;
  planBisect(
    request: BuildRequest,
    ends: { good: string; bad: string },
    context: { emit: Emit; signal: AbortSignal },
  ): Promise<BuildPlan>;
  bisect(plan: BuildPlan, context: BisectContext): Promise<BisectOutcome>;
  planMatrix(
    request: BuildRequest,
    rules: MatrixRules,
    context: { emit: Emit; signal: AbortSignal },
  ): Promise<MatrixPlan>;
  /** Built here, or by the workers of a queue. Resolves with what is done when it is interrupted. */
  matrix(plan: MatrixPlan, context: MatrixContext & { queue?: QueueOptions }): Promise<MatrixOutcome>;
  /** Builds cells from a queue until `signal` is aborted. */
  work(request: BuildRequest, options: WorkOptions, context: BuildContext): Promise<void>;
  /** Shows a queue in a browser until `signal` is aborted; `ready` hears the address. */
  board(
    where: { url: string; port: number },
    context: { emit: Emit; signal: AbortSignal; ready: (address: string) => void },
  ): Promise<void>;
  listRuns(): Promise<RunInfo[]>;
  removeRun(id: string): Promise<void>;
  login(id: string | undefined, options: { serial: boolean; signal: AbortSignal }): Promise<void>;
  listImages(): Promise<ImageInfo[]>;
  pruneImages(options: PruneOptions): Promise<PruneResult>;
  verifyImages(options: { remove: boolean; emit: Emit; signal: AbortSignal }): Promise<VerifiedRow[]>;
  /** Makes what a build of these kernels needs; `report` is called for each kernel that is ready. */
  warmImages(
    request: BuildRequest,
    context: { emit: Emit; signal: AbortSignal; report: (ready: WarmKernel) => void },
  ): Promise<void>;
  /** Proves packages of the repository `dir`, an absolute path, for the request's one kernel. */
  prove(
    request: BuildRequest,
    what: { dir: string; modules: readonly string[] },
    context: { emit: Emit; signal: AbortSignal },
  ): Promise<Proof>;
  listKernels(
    distro: string | undefined,
    context: { emit: Emit; signal: AbortSignal },
  ): Promise<KernelInfo[]>;
  probeAccelerators(context: { emit: Emit; signal: AbortSignal }): Promise<AcceleratorReport>;
  publishRepository(dir: string, options: PublishOptions): Promise<RepositoryResult>;
  serveRepository(dir: string, options: { port?: number }): Promise<Served>;
  /** Paths are relative to `cwd`; `key` is a PEM file with the public key that must have signed the provenance. */
  inspect(path: string, options: { cwd: string; key: string | undefined }): Promise<Inspection>;
}

// Each method imports its module when it is called: `--help` must not pay for execa, got and zod.
/** The real engine. */
export const engine: Engine = {
  loadConfig: async (explicit, cwd) =>
    (await (await import('../options/config.js')).loadConfig({ cwd, explicit })).config,
  plan: async (request, context) => (await import('../engine/plan/plan.js')).plan(request, context),
  build: async (plan, context) => (await import('../engine/local.js')).build(plan, context),
  planRefresh: async (request, options, context) =>
    (await import('../engine/refresh.js')).planRefresh(request, options, context),
  refresh: async (plan, context) => (await import('../engine/refresh.js')).refresh(plan, context),
  planBisect: async (request, ends, context) =>
    (await import('../engine/bisect.js')).planBisect(request, ends, context),
  bisect: async (plan, context) => (await import('../engine/bisect.js')).bisect(plan, context),
  planMatrix: async (request, rules, context) =>
    (await import('../engine/matrix.js')).planMatrix(request, rules, context),
  matrix: async (plan, { queue, ...context }) => {
    const { matrix } = await import('../engine/matrix.js');
    if (!queue) return matrix(plan, context);
    const { queueExecutor } = await import('../engine/queue/executor.js');
    return matrix(plan, context, () => queueExecutor(queue));
  },
  work: async (request, options, context) =>
    (await import('../engine/queue/work.js')).work(request, options, context),
  board: async (where, context) => (await import('../engine/queue/board.js')).board(where, context),
  listRuns: async () => (await import('../engine/runs.js')).listRuns(),
  removeRun: async (id) => (await import('../engine/runs.js')).removeRun(id),
  login: async (id, options) => (await import('../engine/runs.js')).login(id, options),
  listImages: async () => (await import('../engine/images.js')).listImages(),
  pruneImages: async (options) => (await import('../engine/images.js')).pruneImages(options),
  verifyImages: async (options) => (await import('../engine/images.js')).verifyImages(options),
  warmImages: async (request, context) => (await import('../engine/warm.js')).warm(request, context),
  prove: async (request, what, context) =>
    (await import('../engine/prove-request.js')).proveRequest(request, what, context),
  listKernels: async (distro, context) => (await import('./kernels-of.js')).kernelsOf(distro, context),
  probeAccelerators: async (context) => (await import('./accelerators.js')).acceleratorReport(context),
  publishRepository: async (dir, { keyFile, passphrase, ask, ...options }) => {
    const { loadSigningKey, publishRepository } = await import('../repo/index.js');
    const key = keyFile === undefined ? undefined : await loadSigningKey(keyFile, { passphrase, ask });
    return publishRepository(dir, { ...options, key });
  },
  serveRepository: async (dir, options) => (await import('../repo/index.js')).serveRepository(dir, options),
  inspect: async (path, { cwd, key }) => {
    const { inspectFile, publicKeyFile } = await import('../attest/inspect.js');
    return inspectFile(
      resolve(cwd, path),
      key === undefined ? undefined : await publicKeyFile(resolve(cwd, key)),
    );
  },
};
