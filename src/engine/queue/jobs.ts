import { mkdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { dependenciesOf } from '../../cell/source.js';
import type { ModuleSource } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import type { PlanContext } from '../../model/context.js';
import { cacheDir } from '../../lib/paths.js';
import type { Emit } from '../../model/events.js';
import { plainFileName } from '../../model/forms.js';
import type { Store } from '../../lib/object-store/index.js';
import { findDkmsPackage } from '../../distro/dkms-package.js';
import { fetchKernelPackage } from '../../distro/kernel-package.js';
import { findRow, catalogueOf, type CatalogueRow } from '../../distro/catalogue.js';
import { packageForm, type PackageForm } from '../../distro/row.js';
import type { BuildPlan, PlannedCell } from '../plan/types.js';
import type { BuildRequest } from '../../options/request.js';
import { buildPackagesOf } from '../build-packages.js';
import { once } from '../once.js';
import { otherSourcesOf } from '../plan/planned-cell.js';
import { fingerprintOf } from '../signer.js';
import { shareSource } from './sources.js';
import { jobIdOf, parseJob, type CellJob, type Need, type SharedSource } from './protocol.js';

export interface NamedJob {
  id: string;
  data: CellJob;
}

/** What jobs are made with. */
interface Means extends PlanContext {
  store: Store;
  /** For what is made on the way. */
  dir: string;
}

interface SharedSources {
  source: SharedSource;
  /** What it needs to build. */
  otherSources: SharedSource[];
}

/** What a distro's index says of a package. */
interface IndexEntry {
  version: string;
  sha256: string;
}

/** Makes jobs of a plan's cells: nothing of this machine and nothing secret is in them. */
export class Jobs {
  readonly #sources = new Map<ModuleSource, Promise<SharedSources>>();
  readonly #shared = new Map<ModuleSource, Promise<SharedSource>>();
  readonly #index = new Map<string, Promise<IndexEntry | null>>();
  #kernelPackages: Promise<CellJob['kernelPackages']> | undefined;
  #buildPackages: Promise<CellJob['buildPackages']> | undefined;

  private constructor(
    private readonly plan: BuildPlan,
    private readonly means: Means,
    private readonly rows: readonly CatalogueRow[],
    private readonly signer: string | null,
  ) {}

  /** Throws fault `usage` for a request with what only a worker can know. */
  static async of(plan: BuildPlan, means: Means): Promise<Jobs> {
    requireShareable(plan.request);
    noteOwn(plan.request, means.emit);
    return new Jobs(plan, means, await catalogueOf(plan.request), await fingerprintOf(plan.request));
  }

  needOf({ distro, arch }: PlannedCell): Need {
    const { accel } = this.plan.request;
    return { distro, arch, accelerator: accel === 'auto' ? null : accel, signer: this.signer };
  }

  /** Of the packages that a cell makes. */
  formOf({ distro }: PlannedCell): PackageForm {
    return packageForm(findRow(this.rows, distro));
  }

  async jobOf(cell: PlannedCell): Promise<NamedJob> {
    const { request } = this.plan;
    const { source, otherSources } = await once(this.#sources, cell.module, () =>
      this.#shareAll(cell.module),
    );
    const found = await this.#found(cell);
    const data: CellJob = {
      source: source.kind === 'repo' && found ? { ...source, version: found.version } : source,
      otherSources,
      kernel: {
        release: cell.kernel,
        ...(cell.packageVersion !== null && { packageVersion: cell.packageVersion }),
      },
      kernelPackages: await (this.#kernelPackages ??= this.#shareKernelPackages()),
      buildPackages: await (this.#buildPackages ??= this.#shareBuildPackages()),
      need: this.needOf(cell),
      image: request.image as CellJob['image'],
      nameStyle: request.nameStyle,
      verify: request.verify,
      strict: request.strict,
      debugSymbols: request.debugSymbols,
      checkReproducible: request.checkReproducible,
      timeoutSeconds: request.timeoutSeconds,
    };
    // What no worker would take is told here.
    return { id: jobIdOf(data, found?.sha256 ?? null), data: parseJob(data) };
  }

  /** A source with those that it needs. The index has seen to it that a distro's package needs no other. */
  async #shareAll(module: ModuleSource): Promise<SharedSources> {
    const source = await this.#share(module);
    if (module.kind === 'repo') return { source, otherSources: [] };
    const all = otherSourcesOf(this.plan);
    const needed = (await dependenciesOf(module, all, this.means.signal)).with;
    return { source, otherSources: await Promise.all(needed.map((each) => this.#share(each))) };
  }

  #share(module: ModuleSource): Promise<SharedSource> {
    const { store, dir, signal } = this.means;
    return once(this.#shared, module, () => shareSource(module, store, dir, signal));
  }

  async #found({ module, distro }: PlannedCell): Promise<IndexEntry | null> {
    if (module.kind !== 'repo') return null;
    const key = `${distro} ${module.name}=${module.version ?? ''}`;
    return once(this.#index, key, () => this.#ask(module, distro));
  }

  /** Null when the index cannot be asked, which the worker then finds out. */
  async #ask(module: Extract<ModuleSource, { kind: 'repo' }>, distro: string): Promise<IndexEntry | null> {
    const { mirror, offline, proxy } = this.plan.request;
    const { emit, signal } = this.means;
    try {
      return await findDkmsPackage(findRow(this.rows, distro), module, {
        ...{ mirror, offline, proxy, signal, cacheDir: cacheDir() },
        warn: (message) => emit({ type: 'note', level: 'warn', message }),
      });
    } catch (error) {
      if (!(error instanceof Dkms2binError) || signal.aborted) throw error;
      return null;
    }
  }

  async #shareBuildPackages(): Promise<CellJob['buildPackages']> {
    const { store, signal } = this.means;
    const { names, files } = await buildPackagesOf(this.plan.request);
    const shared: CellJob['buildPackages'] = names.map((name) => ({ name }));
    for (const path of files) {
      const { sha256 } = await store.put(path, signal);
      shared.push({ file: plainFileName(basename(path)), sha256 });
    }
    return shared;
  }

  async #shareKernelPackages(): Promise<CellJob['kernelPackages']> {
    const { kernelPackages, cwd, proxy } = this.plan.request;
    const { store, dir, emit, signal } = this.means;
    const shared: CellJob['kernelPackages'] = [];
    for (const each of kernelPackages) {
      const url = /^https?:/.test(each);
      const file = basename(url ? decodeURIComponent(new URL(each).pathname) : each);
      let path = resolve(cwd, each);
      if (url) {
        await mkdir(join(dir, 'kernel'), { recursive: true });
        path = join(dir, 'kernel', file);
        await fetchKernelPackage(each, path, { emit, signal, proxy });
      }
      shared.push({ file: plainFileName(file), sha256: (await store.put(path, signal)).sha256 });
    }
    return shared;
  }
}

/** Keys and passwords stay where they are used. */
function requireShareable(request: BuildRequest): void {
  const { signKey, provenanceKey, passphraseFile, image, debug, keepFailed } = request;
  const only = (option: string, why: string): Dkms2binError =>
    new Dkms2binError('usage', `${option} cannot be used with --queue: ${why}`, {
      hint: 'Give it to `dkms2bin worker` instead.',
    });
  if (signKey !== undefined) throw only('--sign-key', 'workers sign, and no key is sent to them');
  if (provenanceKey !== undefined) throw only('--provenance-key', 'workers sign, and no key is sent to them');
  if (passphraseFile !== undefined) throw only('--passphrase-file', 'workers sign');
  if (!['auto', 'official', 'bootstrap'].includes(image))
    throw only('--image FILE', 'workers have no such file');
  if (debug || keepFailed) {
    throw new Dkms2binError('usage', `${debug ? '--debug' : '--keep-failed'} cannot be used with --queue`, {
      hint: 'Build the cell on this machine to look at its VM.',
    });
  }
}

/** A job does not say where workers get kernels and packages from: else whoever writes to the queue could. */
function noteOwn({ mirror, archive }: BuildRequest, emit: Emit): void {
  const given = [
    ...(mirror === undefined ? [] : ['--mirror']),
    ...(archive === undefined ? [] : ['--archive']),
  ];
  if (given.length === 0) return;
  const message = `${given.join(' and ')} ${given.length === 1 ? 'counts' : 'count'} for this machine; workers use their own`;
  emit({ type: 'note', level: 'warn', message });
}
