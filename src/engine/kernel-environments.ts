import { access, constants, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { baseImage, type BaseImage, type Variant } from '../environment/base-image.js';
import { kernelLayer, type KernelLayer } from '../environment/kernel-layer.js';
import type { Machine } from '../environment/boot.js';
import { kernelEnvironmentOf, type KernelEnvironment } from '../environment/snapshot.js';
import type { Lookup } from '../cell/source.js';
import { HOST_ARCH, type Arch, type KernelTarget } from '../model/cell.js';
import type { PlanContext } from '../model/context.js';
import { Dkms2binError } from '../model/errors.js';
import { cacheDir } from '../lib/paths.js';
import { sandboxWorks } from '../lib/sandbox.js';
import { fetchKernelPackage } from '../distro/kernel-package.js';
import { holdOfficial } from '../cache/entries.js';
import { findRow, type CatalogueRow } from '../distro/catalogue.js';
import { baseId, packageForm } from '../distro/row.js';
import { openSharedCache } from '../cache/shared.js';
import type { BuildRequest } from '../options/request.js';
import { chooseAccelerator } from '../vm/accel.js';
import { vmShape } from './budget.js';
import { buildPackagesOf } from './build-packages.js';
import { once } from './once.js';

/** The shape of this invocation's VMs. */
export async function machineOf(
  request: BuildRequest,
  arch: Arch,
  { emit, signal }: PlanContext,
): Promise<Machine> {
  const accelerator = await chooseAccelerator(request.accel, arch, { emit, signal });
  const { cpus, memoryMiB } = vmShape(request);
  return {
    arch,
    accel: accelerator.name,
    cpu: accelerator.cpu,
    cpus,
    memoryMiB,
    compileOnHost: await compilesOnHost(request.compile, { arch, accel: accelerator.name }),
    emit,
    signal,
    ...(request.mirror ? { mirror: request.mirror } : {}),
    ...(request.proxy ? { proxy: request.proxy } : {}),
    ...(request.layerCache ? { shared: await openSharedCache(request.layerCache, { emit, signal }) } : {}),
  };
}

/** Throws fault `host` when the host is to compile and cannot. */
async function compilesOnHost(
  asked: BuildRequest['compile'],
  { arch, accel }: Pick<Machine, 'arch' | 'accel'>,
): Promise<boolean> {
  if (asked === 'guest' || (asked === 'auto' && (accel === 'kvm' || arch !== HOST_ARCH))) return false;
  if (arch !== HOST_ARCH) {
    throw new Dkms2binError('usage', `--compile host: this machine does not run programs of ${arch}`, {
      hint: 'Leave it out: compilations then stay in the VM.',
    });
  }
  try {
    await sandboxWorks();
    return true;
  } catch (error) {
    if (asked === 'auto') return false;
    throw error;
  }
}

/** Base images, kernel layers and snapshots of one invocation: each is made once, and its lock is held until the end. */
export class KernelEnvironments implements AsyncDisposable {
  readonly #bases = new Map<string, Promise<BaseImage>>();
  readonly #layers = new Map<string, Promise<KernelLayer>>();
  readonly #environments = new Map<string, Promise<KernelEnvironment>>();
  readonly #packages: NonNullable<Lookup['known']> = new Map();
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
    return { row: findRow(this.rows, distro), mirror, offline, proxy, known: this.#packages };
  }

  environment(target: KernelTarget): Promise<KernelEnvironment> {
    const key = `${target.distro} ${target.release}`;
    return once(this.#environments, key, () => this.#makeEnvironment(target));
  }

  async #makeEnvironment(target: KernelTarget): Promise<KernelEnvironment> {
    const environment = await kernelEnvironmentOf(await this.layer(target), this.machine);
    for (const made of [environment.snapshot, environment.compiler])
      if (made) this.#release.push(() => made.entry.use.release());
    return environment;
  }

  layer(target: KernelTarget): Promise<KernelLayer> {
    const key = `${target.distro} ${target.release}`;
    return once(this.#layers, key, () => this.#makeLayer(target));
  }

  async #makeLayer(target: KernelTarget): Promise<KernelLayer> {
    const { distro } = target;
    const row = findRow(this.rows, distro);
    const of = baseId(row);
    // A repository of kernels stands on the image of its distro.
    const base = { ...(await once(this.#bases, of, () => this.#makeBase(findRow(this.rows, of)))), row };
    const kernelPackages = [...(await this.#kernelPackages()), ...(await this.#archived(target))];
    // What a machine without a toolchain runs is not built there.
    const none = { names: [], files: [] };
    const buildPackages = this.variant === 'build' ? await buildPackagesOf(this.request) : none;
    if (buildPackages.files.length > 0 && packageForm(base.row) !== 'deb') {
      throw new Dkms2binError('usage', `--build-package: ${distro} does not take .deb files`, {
        hint: 'Name packages of the distro.',
      });
    }
    const request = { base, target, variant: this.variant, kernelPackages, buildPackages };
    const layer = await kernelLayer(request, this.machine);
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
      ...(machine.shared ? { shared: machine.shared } : {}),
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
          throw new Dkms2binError('usage', `--kernel-package ${file}: no such file, or it cannot be read`, {
            hint: 'Check its path and permissions.',
          });
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
    await Promise.allSettled([
      ...this.#bases.values(),
      ...this.#layers.values(),
      ...this.#environments.values(),
    ]);
    for (const release of this.#release.reverse()) await release();
  }
}
