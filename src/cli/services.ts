import { resolve } from 'node:path';
import type { QueueOptions } from '../engine/queue/executor.js';
import type { MetapackageOptions, MetapackageResult } from '../engine/metapackages.js';
import type { MatrixContext, MatrixOutcome } from '../engine/matrix.js';
import type { MatrixPlan } from '../engine/plan/matrix.js';
import type { Inspection } from '../attest/inspect.js';
import type { Config } from '../options/config.js';
import type { Passphrase, RepositoryOptions, RepositoryResult } from '../repo/index.js';

/** The parameters of a function of a module. */
type Of<M, K extends keyof M> = M[K] extends (...input: infer P) => unknown ? P : never;

type Bisect = typeof import('../engine/bisect.js');
type Images = typeof import('../engine/images.js');
type Local = typeof import('../engine/local.js');
type Matrix = typeof import('../engine/matrix.js');
type Plan = typeof import('../engine/plan/plan.js');
type Refresh = typeof import('../engine/refresh.js');
type Runs = typeof import('../engine/runs.js');

/** `keyFile` is an OpenPGP secret key, `enrol` a certificate that machines get a package for. */
type PublishOptions = Omit<RepositoryOptions, 'key' | 'prepare'> &
  MetapackageOptions &
  Passphrase & { keyFile?: string | undefined; enrol?: string | undefined };

export type PublishResult = RepositoryResult & { metapackages: MetapackageResult[] };

/**
 * All that commands ask of the layers below; tests put stand-ins here. Each function loads its module when it is called:
 * `--help` must not pay for execa and got.
 */
export const engine = {
  /** Without a path: `dkms2bin.yaml` in `cwd`, empty when there is none. */
  loadConfig: async (explicit: string | undefined, cwd: string): Promise<Config> =>
    (await (await import('../options/config.js')).loadConfig({ cwd, explicit })).config,
  plan: async (...input: Of<Plan, 'plan'>) => (await import('../engine/plan/plan.js')).plan(...input),
  checkPlan: async (...input: Of<typeof import('../engine/plan/check.js'), 'checkPlan'>) =>
    (await import('../engine/plan/check.js')).checkPlan(...input),
  build: async (...input: Of<Local, 'build'>) => (await import('../engine/local.js')).build(...input),
  init: async (...input: Of<typeof import('../source/init.js'), 'initFolder'>) =>
    (await import('../source/init.js')).initFolder(...input),
  planRefresh: async (...input: Of<Refresh, 'planRefresh'>) =>
    (await import('../engine/refresh.js')).planRefresh(...input),
  refresh: async (...input: Of<Refresh, 'refresh'>) =>
    (await import('../engine/refresh.js')).refresh(...input),
  notify: async (...input: Of<typeof import('../engine/notify.js'), 'notify'>) =>
    (await import('../engine/notify.js')).notify(...input),
  planBisect: async (...input: Of<Bisect, 'planBisect'>) =>
    (await import('../engine/bisect.js')).planBisect(...input),
  bisect: async (...input: Of<Bisect, 'bisect'>) => (await import('../engine/bisect.js')).bisect(...input),
  planMatrix: async (...input: Of<Matrix, 'planMatrix'>) =>
    (await import('../engine/matrix.js')).planMatrix(...input),
  /** Built here, or by the workers of a queue. Resolves with what is done when it is interrupted. */
  matrix: async (
    plan: MatrixPlan,
    { queue, ...context }: MatrixContext & { queue?: QueueOptions },
  ): Promise<MatrixOutcome> => {
    const { matrix } = await import('../engine/matrix.js');
    if (!queue) return matrix(plan, context);
    const { queueExecutor } = await import('../engine/queue/executor.js');
    return matrix(plan, context, () => queueExecutor(queue));
  },
  work: async (...input: Of<typeof import('../engine/queue/work.js'), 'work'>) =>
    (await import('../engine/queue/work.js')).work(...input),
  board: async (...input: Of<typeof import('../engine/queue/board.js'), 'board'>) =>
    (await import('../engine/queue/board.js')).board(...input),
  listRuns: async () => (await import('../engine/runs.js')).listRuns(),
  removeRun: async (id: string) => (await import('../engine/runs.js')).removeRun(id),
  login: async (...input: Of<Runs, 'login'>) => (await import('../engine/runs.js')).login(...input),
  listImages: async () => (await import('../engine/images.js')).listImages(),
  pruneImages: async (...input: Of<Images, 'pruneImages'>) =>
    (await import('../engine/images.js')).pruneImages(...input),
  verifyImages: async (...input: Of<Images, 'verifyImages'>) =>
    (await import('../engine/images.js')).verifyImages(...input),
  updateImages: async (...input: Of<typeof import('../engine/update-images.js'), 'updateOfficialImages'>) =>
    (await import('../engine/update-images.js')).updateOfficialImages(...input),
  warmImages: async (...input: Of<typeof import('../engine/warm.js'), 'warm'>) =>
    (await import('../engine/warm.js')).warm(...input),
  prove: async (...input: Of<typeof import('../engine/prove-request.js'), 'proveRequest'>) =>
    (await import('../engine/prove-request.js')).proveRequest(...input),
  proveUpgrade: async (...input: Of<typeof import('../engine/prove-request.js'), 'proveUpgradeRequest'>) =>
    (await import('../engine/prove-request.js')).proveUpgradeRequest(...input),
  listDistros: async (): Promise<string[]> => {
    const { loadCatalogue } = await import('../distro/catalogue.js');
    return (await loadCatalogue()).map(({ id }) => id);
  },
  listKernels: async (...input: Of<typeof import('./kernels-of.js'), 'kernelsOf'>) =>
    (await import('./kernels-of.js')).kernelsOf(...input),
  probeAccelerators: async (...input: Of<typeof import('./accelerators.js'), 'acceleratorReport'>) =>
    (await import('./accelerators.js')).acceleratorReport(...input),
  publishRepository: async (
    dir: string,
    { keyFile, enrol, passphrase, ask, ...options }: PublishOptions,
  ): Promise<PublishResult> => {
    const { loadSigningKey, publishRepository } = await import('../repo/index.js');
    const { updateMetapackages } = await import('../engine/metapackages.js');
    const key = keyFile === undefined ? undefined : await loadSigningKey(keyFile, { passphrase, ask });
    const metapackages: MetapackageResult[] = [];
    const prepare = async (): Promise<void> => {
      if (enrol !== undefined)
        await (await import('../engine/enrolment.js')).addEnrolment(dir, enrol, options.signal);
      metapackages.push(...(await updateMetapackages(dir, options, options)));
    };
    return { ...(await publishRepository(dir, { ...options, key, prepare })), metapackages };
  },
  serveRepository: async (dir: string, options: { port?: number }) =>
    (await import('../repo/index.js')).serveRepository(dir, options),
  /** Paths are relative to `cwd`; `key` is a PEM file with the public key that must have signed the provenance. */
  inspect: async (
    path: string,
    { cwd, key }: { cwd: string; key: string | undefined },
  ): Promise<Inspection> => {
    const { inspectFile, publicKeyFile } = await import('../attest/inspect.js');
    return inspectFile(
      resolve(cwd, path),
      key === undefined ? undefined : await publicKeyFile(resolve(cwd, key)),
    );
  },
};

export type Engine = typeof engine;
