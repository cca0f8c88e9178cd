import { randomBytes, type X509Certificate } from 'node:crypto';
import { access, constants, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, freemem } from 'node:os';
import { basename, join, resolve } from 'node:path';
import PQueue from 'p-queue';
import { baseImage } from '../build/base.js';
import { buildCell, type CellInput } from '../build/cell.js';
import { kernelLayer, type BaseImage, type KernelLayer, type Variant } from '../build/kernel-layer.js';
import type { Machine } from '../build/machine.js';
import { choosePackages, prove as proveRepository } from '../build/prove.js';
import { listRunDirs } from '../build/run-dir.js';
import { groundOf, type Ground } from '../build/snapshot.js';
import type { Lookup } from '../build/source.js';
import type { Arch, CellResult, KernelTarget, ModuleSource } from '../core/cell.js';
import type { Emit } from '../core/events.js';
import { Dkms2binError, messageOf } from '../core/errors.js';
import { cacheDir } from '../core/paths.js';
import type { Proof } from '../core/proof.js';
import { readCapped } from '../core/read-capped.js';
import { fetchKernelPackage } from '../distro/kernel-package.js';
import { releaseOfKernelPackages, resolveKernels } from '../distro/resolve.js';
import { archOf, candidatesFor } from '../distro/release.js';
import { holdOfficial } from '../image/cache.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../image/catalogue.js';
import { readSigner, type Signer as AttestSigner } from '../pack/dsse.js';
import { openSigner, type Signer } from '../pack/sign.js';
import { readCertificate } from '../pack/signature.js';
import { parseModuleSource } from '../plan/source.js';
import type { BuildPlan, BuildRequest, PlannedCell } from '../plan/types.js';
import { readOffer } from '../repo/index.js';
import { chooseAccelerator } from '../vm/accel.js';
import { loginToRun } from './runs.js';

export interface PlanContext {
  emit: Emit;
  signal: AbortSignal;
}

export interface BuildContext extends PlanContext {
  onFailure?: (run: { id: string; login: () => Promise<void> }) => Promise<void>;
  /** Asks a person for the signing key's passphrase; absent when nobody is there. */
  askPassphrase?: (question: string) => Promise<string>;
}

/** Turns a request into the frozen list of cells. Reads package indexes, starts no VM, writes nothing but caches. */
export async function plan(request: BuildRequest, context: PlanContext): Promise<BuildPlan> {
  if (request.dkms.length === 0) {
    throw new Dkms2binError('usage', 'Nothing to build: --dkms is missing', {
      hint: 'For example: dkms2bin --dkms acpi-call-dkms --kernel latest --out-dir ./out',
    });
  }
  const sources: ModuleSource[] = [];
  for (const text of request.dkms) {
    sources.push(...(await parseModuleSource(text, { cwd: request.cwd, signal: context.signal })));
  }
  const rows = await loadCatalogue();
  const targets = await planTargets(request, rows, context);
  const cells = targets.flatMap((target) =>
    sources.map((module): PlannedCell => ({
      source: module.text,
      kernel: target.release,
      distro: target.distro,
      arch: target.arch,
      packageVersion: target.packageVersion ?? null,
      image: request.image,
      fileStyle: request.nameStyle,
      module,
      target,
    })),
  );
  return deepFreeze({ request: { ...request }, cells });
}

async function planTargets(
  request: BuildRequest,
  rows: CatalogueRow[],
  context: PlanContext,
): Promise<KernelTarget[]> {
  const arch = archOfRequest(request);
  if (request.kernelPackages.length > 0) {
    return releaseOfKernelPackages(request.kernelPackages, arch).map(({ release, packageVersion }) => {
      if (request.kernels.length > 0 && !request.kernels.includes(release)) {
        throw new Dkms2binError(
          'usage',
          `--kernel-package brings ${release}, --kernel asks for ${request.kernels.join(', ')}`,
        );
      }
      const ids = request.distro
        ? [findRow(rows, request.distro).id]
        : candidatesFor(release, rows).map((r) => r.id);
      if (ids.length !== 1) {
        throw new Dkms2binError(
          'usage',
          `${release} fits ${ids.join(' and ') || 'no distro of the catalogue'}`,
          {
            hint: 'Say which with --distro.',
          },
        );
      }
      return { release, distro: ids[0]!, arch, packageVersion };
    });
  }
  return resolveKernels(request.kernels, rows, {
    cacheDir: cacheDir(),
    arch,
    offline: request.offline,
    distro: request.distro,
    mirror: request.mirror,
    proxy: request.proxy,
    archiveUrl: request.archive,
    signal: context.signal,
    warn: (message) => context.emit({ type: 'note', level: 'warn', message }),
  });
}

/**
 * Builds every cell of a plan, all of one architecture: image, layers, build, package, proof. Cells never stop each other.
 */
export async function build(
  plan: BuildPlan,
  context: BuildContext,
): Promise<{ run: string; accelerator: string; cells: CellResult[] }> {
  const { request } = plan;
  const { signal } = context;
  const outDir = await writableFolder(resolve(request.cwd, request.outDir));
  // A key that cannot be used is told before minutes of building.
  const signer = await signerOf(plan, context);
  const attester = await attesterOf(request);
  // Removes what killed runs left behind.
  await listRunDirs();
  const machine = await machineOf(request, plan.cells[0]?.arch ?? 'x86_64', context);
  const { jobs } = share(request, plan.cells.length);
  const rows = await loadCatalogue();
  const id = `${new Date().toISOString().replace(/[-:]/g, '').slice(0, 15)}-${randomBytes(3).toString('hex')}`;
  const invocation = {
    id,
    signer: attester,
    options: {
      image: request.image,
      nameStyle: request.nameStyle,
      verify: request.verify,
      ...(request.debugSymbols ? { debugSymbols: true } : {}),
      ...(request.mirror ? { mirror: request.mirror } : {}),
      ...(request.archive ? { archive: request.archive } : {}),
    },
  };
  await using shared = new Shared(request, rows, machine);
  const siblings = plan.siblings ?? [...new Set(plan.cells.map((cell) => cell.module))];
  const queue = new PQueue({ concurrency: jobs });
  const cells = (
    await Promise.all(
      plan.cells.map((cell) =>
        queue.add(() =>
          oneCell(cell, siblings, request, outDir, { signer, invocation }, machine, shared, context),
        ),
      ),
    )
  ).flat();
  if (signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
  return { run: id, accelerator: machine.accel, cells };
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
  await using shared = new Shared(request, rows, await machineOf(request, archOfRequest(request), context));
  const errors: unknown[] = [];
  for (const target of targets) {
    try {
      const { snapshot } = await shared.ground(target);
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
  // Removes what killed runs left behind.
  await listRunDirs();
  const machine = await machineOf(request, target!.arch, context);
  await using shared = new Shared(request, rows, machine, 'runtime');
  // A kernel reads the firmware's certificates as it boots: no snapshot can be used.
  const ground = certificate
    ? { layer: await shared.layer(target!), snapshot: null }
    : await shared.ground(target!);
  const lookup = shared.lookup(target!.distro);
  return proveRepository({ dir, offer, packages, target: target!, ground, certificate, lookup, machine });
}

async function certificateOf({ signCert, cwd }: BuildRequest): Promise<X509Certificate | null> {
  if (signCert === undefined) return null;
  const path = resolve(cwd, signCert);
  return readCertificate(await readCapped(path, 2 ** 20), path);
}

function archOfRequest({ kernels, kernelPackages, arch }: BuildRequest): Arch {
  return archOf([...kernels, ...kernelPackages], arch) ?? 'x86_64';
}

/** The shape of this invocation's VMs. */
async function machineOf(request: BuildRequest, arch: Arch, { emit, signal }: PlanContext): Promise<Machine> {
  const accelerator = await chooseAccelerator(request.accel, arch, { emit, signal });
  const { cpus, memoryMiB } = share(request, 1);
  return {
    arch,
    accel: accelerator.name,
    cpu: accelerator.cpu,
    cpus,
    memoryMiB,
    emit,
    signal,
    ...(request.mirror ? { mirror: request.mirror } : {}),
    ...(request.proxy ? { proxy: request.proxy } : {}),
  };
}

async function oneCell(
  cell: PlannedCell,
  siblings: readonly ModuleSource[],
  request: BuildRequest,
  outDir: string,
  attach: Pick<CellInput, 'signer' | 'invocation'>,
  machine: Machine,
  shared: Shared,
  context: BuildContext,
): Promise<CellResult[]> {
  const label = `${cell.source} × ${cell.kernel}`;
  const report = (results: CellResult[]): CellResult[] => {
    for (const r of results) {
      context.emit({
        type: 'cell',
        cell: label,
        verdict: r.verdict,
        ...(r.reason === null ? {} : { reason: r.reason }),
        ...(r.package === null ? {} : { package: r.package }),
      });
    }
    return results;
  };
  // A signal of its own: the cell's deadline must not end the others.
  const started = performance.now();
  try {
    context.signal.throwIfAborted();
    const ground = await shared.ground(cell.target);
    return report(
      await buildCell({
        label,
        source: cell.module,
        siblings,
        target: cell.target,
        ground,
        lookup: shared.lookup(cell.distro),
        machine,
        outDir,
        ...attach,
        nameStyle: request.nameStyle,
        verify: request.verify,
        debugSymbols: request.debugSymbols,
        checkReproducible: request.checkReproducible,
        force: request.force,
        debug: request.debug,
        keepFailed: request.keepFailed,
        timeoutMs: request.timeoutSeconds * 1000,
        ...(context.onFailure
          ? {
              onFailure: (run) =>
                context.onFailure!({ id: run.record.id, login: () => loginToRun(run.record, run.dir) }),
            }
          : {}),
      }),
    );
  } catch (error) {
    if (context.signal.aborted) return [];
    if (!(error instanceof Dkms2binError)) throw error;
    return report([
      {
        module: cell.source,
        version: null,
        kernel: cell.kernel,
        distro: cell.distro,
        arch: cell.arch,
        verdict: error.fault === 'module' ? 'failed' : 'error',
        reason: error.hint ? `${messageOf(error)}\n${error.hint}` : messageOf(error),
        package: null,
        log: null,
        phases: { 'set-up': (performance.now() - started) / 1000 },
        kept: (error as { kept?: string }).kept ?? null,
        fault: error.fault,
      },
    ]);
  }
}

/** Base images and kernel layers of one invocation: each is made once, and its lock is held until the end. */
class Shared implements AsyncDisposable {
  readonly #bases = new Map<string, Promise<BaseImage>>();
  readonly #grounds = new Map<string, Promise<Ground>>();
  readonly #release: (() => Promise<void>)[] = [];
  #kernelFiles: Promise<string[]> | undefined;

  constructor(
    private readonly request: BuildRequest,
    private readonly rows: CatalogueRow[],
    private readonly machine: Machine,
    private readonly variant: Variant = 'build',
  ) {}

  lookup(distro: string): Lookup {
    const { mirror, offline, proxy } = this.request;
    return { row: findRow(this.rows, distro), mirror, offline, proxy };
  }

  ground(target: KernelTarget): Promise<Ground> {
    const key = `${target.distro} ${target.release}`;
    let ground = this.#grounds.get(key);
    if (!ground) {
      ground = this.#makeGround(target);
      this.#grounds.set(key, ground);
    }
    return ground;
  }

  async #makeGround(target: KernelTarget): Promise<Ground> {
    const ground = await groundOf(await this.layer(target), this.machine);
    const { snapshot } = ground;
    if (snapshot) this.#release.push(() => snapshot.entry.use.release());
    return ground;
  }

  async layer(target: KernelTarget): Promise<KernelLayer> {
    let base = this.#bases.get(target.distro);
    if (!base) {
      base = this.#makeBase(findRow(this.rows, target.distro));
      this.#bases.set(target.distro, base);
    }
    const image = await base;
    const packages = [...(await this.#kernelPackages()), ...(await this.#archived(target))];
    const layer = await kernelLayer(image, target, this.variant, packages, this.machine);
    this.#release.push(() => layer.entry.use.release());
    return layer;
  }

  async #makeBase(row: CatalogueRow): Promise<BaseImage> {
    const { request, machine } = this;
    const base = await baseImage(row, {
      image: request.image,
      variant: this.variant,
      arch: machine.arch,
      offline: request.offline,
      cwd: request.cwd,
      emit: machine.emit,
      signal: machine.signal,
      ...(request.mirror ? { mirror: request.mirror } : {}),
      ...(request.proxy ? { proxy: request.proxy } : {}),
    });
    const { entry } = base;
    if (entry) this.#release.push(() => entry.use.release());
    else {
      for (const parent of base.parents) {
        const use = await holdOfficial(parent, machine.signal);
        this.#release.push(() => use.release());
      }
    }
    return base;
  }

  /** Local paths of the --kernel-package files; URLs are downloaded into a folder that goes at the end. */
  #kernelPackages(): Promise<string[]> {
    this.#kernelFiles ??= (async () => {
      const files: string[] = [];
      let folder: string | undefined;
      for (const each of this.request.kernelPackages) {
        if (/^https?:/.test(each)) files.push(await this.#fetch(each, (folder ??= await this.#scratch())));
        else files.push(resolve(this.request.cwd, each));
      }
      for (const file of files) {
        await access(file, constants.R_OK).catch(() => {
          throw new Dkms2binError('usage', `--kernel-package ${file}: no such file`);
        });
      }
      return files;
    })();
    return this.#kernelFiles;
  }

  /** What an archive of old packages has of the kernel only by name. */
  async #archived({ files = [] }: KernelTarget): Promise<string[]> {
    if (files.length === 0) return [];
    const folder = await this.#scratch();
    const paths: string[] = [];
    for (const { url, sha256 } of files) paths.push(await this.#fetch(url, folder, sha256));
    return paths;
  }

  async #scratch(): Promise<string> {
    await mkdir(cacheDir(), { recursive: true });
    const folder = await mkdtemp(join(cacheDir(), 'tmp-'));
    this.#release.push(() => rm(folder, { recursive: true, force: true }));
    return folder;
  }

  async #fetch(url: string, folder: string, sha256?: string): Promise<string> {
    const to = join(folder, basename(decodeURIComponent(new URL(url).pathname)));
    await fetchKernelPackage(url, to, this.machine, sha256);
    return to;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#bases.values(), ...this.#grounds.values()]);
    for (const release of this.#release.reverse()) await release();
  }
}

/** The shape of one VM does not depend on how many run, so that all share one memory snapshot; never more VMs than cores. */
function share(request: BuildRequest, cells: number): { jobs: number; cpus: number; memoryMiB: number } {
  const cores = availableParallelism();
  const memoryMiB = request.memoryMiB ?? 2048;
  const fitting = Math.max(1, Math.floor(freemem() / 2 ** 20 / memoryMiB));
  const jobs = Math.max(1, request.jobs ?? Math.min(cells, cores, fitting));
  return { jobs, cpus: request.cpus ?? Math.min(4, cores), memoryMiB };
}

async function writableFolder(path: string): Promise<string> {
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

export function deepFreeze<T extends object>(value: T): T {
  for (const each of Object.values(value))
    if (typeof each === 'object' && each !== null) deepFreeze(each as object);
  return Object.freeze(value);
}
