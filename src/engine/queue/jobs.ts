import { mkdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { certificateFingerprint } from '../../cell/identity.js';
import { dependenciesOf } from '../../cell/source.js';
import type { ModuleSource } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';
import { cacheDir } from '../../lib/paths.js';
import { redact } from '../../lib/proxy.js';
import { readCapped } from '../../lib/read-capped.js';
import type { Store } from '../../lib/object-store/index.js';
import { findDkmsPackage } from '../../distro/dkms-package.js';
import { fetchKernelPackage } from '../../distro/kernel-package.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../../distro/catalogue.js';
import { readCertificate } from '../../formats/certificate.js';
import type { BuildPlan, PlannedCell } from '../plan/types.js';
import type { BuildRequest } from '../../options/request.js';
import { shareSource } from './sources.js';
import { jobIdOf, type CellJob, type Need, type SharedSource } from './protocol.js';

export interface NamedJob {
  id: string;
  data: CellJob;
}

/** Makes jobs of a plan's cells: nothing of this machine and nothing secret is in them. */
export class Jobs {
  readonly #sources = new Map<
    ModuleSource,
    Promise<{ source: SharedSource; otherSources: SharedSource[] }>
  >();
  readonly #shared = new Map<ModuleSource, Promise<SharedSource>>();
  readonly #index = new Map<string, Promise<{ version: string; sha256: string } | null>>();
  #kernelPackages: Promise<CellJob['kernelPackages']> | undefined;

  private constructor(
    private readonly plan: BuildPlan,
    private readonly rows: readonly CatalogueRow[],
    private readonly signer: string | null,
    private readonly store: Store,
    /** For what is made on the way. */
    private readonly dir: string,
    private readonly context: { emit: Emit; signal: AbortSignal },
  ) {}

  /** Throws fault `usage` for a request with what only a worker can know. */
  static async of(
    plan: BuildPlan,
    store: Store,
    dir: string,
    context: { emit: Emit; signal: AbortSignal },
  ): Promise<Jobs> {
    requireShareable(plan.request);
    const { signCert, cwd } = plan.request;
    const signer = signCert === undefined ? null : await fingerprintOf(resolve(cwd, signCert));
    return new Jobs(plan, await loadCatalogue(), signer, store, dir, context);
  }

  needOf({ distro, arch }: PlannedCell): Need {
    const { accel } = this.plan.request;
    return { distro, arch, accelerator: accel === 'auto' ? null : accel, signer: this.signer };
  }

  async jobOf(cell: PlannedCell): Promise<NamedJob> {
    const { request } = this.plan;
    const { source, otherSources } = await this.#sourceOf(cell.module);
    const found = await this.#found(cell);
    const data: CellJob = {
      source: source.kind === 'repo' && found ? { ...source, version: found.version } : source,
      otherSources,
      target: cell.target,
      kernelPackages: await (this.#kernelPackages ??= this.#shareKernelPackages()),
      need: this.needOf(cell),
      image: request.image as CellJob['image'],
      ...(request.mirror !== undefined && { mirror: request.mirror }),
      ...(request.archive !== undefined && { archive: request.archive }),
      nameStyle: request.nameStyle,
      verify: request.verify,
      debugSymbols: request.debugSymbols,
      checkReproducible: request.checkReproducible,
      timeoutSeconds: request.timeoutSeconds,
    };
    return { id: jobIdOf(data, found?.sha256 ?? null), data };
  }

  #sourceOf(module: ModuleSource): Promise<{ source: SharedSource; otherSources: SharedSource[] }> {
    let shared = this.#sources.get(module);
    if (!shared) {
      shared = this.#shareAll(module);
      this.#sources.set(module, shared);
    }
    return shared;
  }

  /** A source with those that it needs. The index has seen to it that a distro's package needs no other. */
  async #shareAll(module: ModuleSource): Promise<{ source: SharedSource; otherSources: SharedSource[] }> {
    const source = await this.#share(module);
    if (module.kind === 'repo') return { source, otherSources: [] };
    const all = this.plan.otherSources ?? [...new Set(this.plan.cells.map((cell) => cell.module))];
    const needed = (await dependenciesOf(module, all, this.context.signal)).with;
    return { source, otherSources: await Promise.all(needed.map((each) => this.#share(each))) };
  }

  #share(module: ModuleSource): Promise<SharedSource> {
    let shared = this.#shared.get(module);
    if (!shared) {
      shared = shareSource(module, this.store, this.dir, this.context.signal);
      this.#shared.set(module, shared);
    }
    return shared;
  }

  /** What the distro's index says of a package; null when it cannot be asked, which the worker then finds out. */
  async #found({ module, distro }: PlannedCell): Promise<{ version: string; sha256: string } | null> {
    if (module.kind !== 'repo') return null;
    const key = `${distro} ${module.name}=${module.version ?? ''}`;
    let found = this.#index.get(key);
    if (!found) {
      const { mirror, offline, proxy } = this.plan.request;
      const { emit, signal } = this.context;
      found = findDkmsPackage(findRow(this.rows, distro), module, {
        ...{ mirror, offline, proxy, signal, cacheDir: cacheDir() },
        warn: (message) => emit({ type: 'note', level: 'warn', message }),
      }).catch((error: unknown) => {
        if (!(error instanceof Dkms2binError) || signal.aborted) throw error;
        return null;
      });
      this.#index.set(key, found);
    }
    return found;
  }

  async #shareKernelPackages(): Promise<CellJob['kernelPackages']> {
    const { kernelPackages, cwd, proxy } = this.plan.request;
    const { emit, signal } = this.context;
    const shared: CellJob['kernelPackages'] = [];
    for (const each of kernelPackages) {
      const url = /^https?:/.test(each);
      const file = basename(url ? decodeURIComponent(new URL(each).pathname) : each);
      let path = resolve(cwd, each);
      if (url) {
        await mkdir(join(this.dir, 'kernel'), { recursive: true });
        path = join(this.dir, 'kernel', file);
        await fetchKernelPackage(each, path, { emit, signal, proxy });
      }
      shared.push({ file, sha256: (await this.store.put(path, signal)).sha256 });
    }
    return shared;
  }
}

/** SHA-256 of a certificate, hex: what coordinator and worker know it by. */
export async function fingerprintOf(path: string): Promise<string> {
  return certificateFingerprint(readCertificate(await readCapped(path, 2 ** 20), path));
}

/** Keys and passwords stay where they are used. */
function requireShareable(request: BuildRequest): void {
  const { signKey, provenanceKey, passphraseFile, mirror, archive, image, debug, keepFailed } = request;
  const only = (option: string, why: string): Dkms2binError =>
    new Dkms2binError('usage', `${option} cannot be used with --queue: ${why}`, {
      hint: `Give it to \`dkms2bin worker\` instead.`,
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
  for (const [option, url] of Object.entries({ '--mirror': mirror, '--archive': archive })) {
    if (url !== undefined && redact(url) !== new URL(url).href)
      throw only(`${option} with a password`, 'jobs hold no passwords');
  }
}
