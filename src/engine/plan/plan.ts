import type { Arch, KernelTarget, ModuleSource } from '../../model/cell.js';
import type { PlanContext } from '../../model/context.js';
import { Dkms2binError } from '../../model/errors.js';
import { cacheDir } from '../../lib/paths.js';
import { archOf, candidatesFor } from '../../distro/release.js';
import { releaseOfKernelPackages } from '../../distro/kernel-package.js';
import { resolveKernels } from '../../distro/resolve.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../../distro/catalogue.js';
import { plannedCell } from './planned-cell.js';
import { parseModuleSource, sourceOptions } from './source.js';
import { refuseTwins } from './twins.js';
import type { BuildPlan } from './types.js';
import type { BuildRequest } from '../../options/request.js';

/** Turns a request into the frozen list of cells. Reads package indexes, starts no VM, writes nothing but caches. */
export async function plan(request: BuildRequest, context: PlanContext): Promise<BuildPlan> {
  if (request.dkms.length === 0) {
    throw new Dkms2binError('usage', 'Nothing to build: --dkms is missing', {
      hint: 'For example: dkms2bin --dkms acpi-call-dkms --kernel latest --out-dir ./out',
    });
  }
  const sources: ModuleSource[] = [];
  for (const text of request.dkms) {
    sources.push(...(await parseModuleSource(text, sourceOptions(request, context))));
  }
  const rows = await loadCatalogue();
  const targets = await planTargets(request, rows, context);
  await refuseTwins(sources, targets, { request, rows, context });
  const cells = targets.flatMap((target) => sources.map((module) => plannedCell(module, target, request)));
  return deepFreeze({ request: { ...request }, cells });
}

/** The architecture that is asked for, by name or by the kernels. Throws fault `usage` when they contradict each other. */
export function archOfRequest({ kernels, kernelPackages, arch }: BuildRequest): Arch {
  return archOf([...kernels, ...kernelPackages], arch) ?? 'x86_64';
}

/** The kernels of a request, in the order asked for. */
export async function planTargets(
  request: BuildRequest,
  rows: CatalogueRow[],
  context: PlanContext,
): Promise<KernelTarget[]> {
  const arch = archOfRequest(request);
  if (request.kernelPackages.length > 0) return packageTargets(request, rows, arch);
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

/** The kernels that the --kernel-package files bring. */
function packageTargets(
  { kernelPackages, kernels, distro }: BuildRequest,
  rows: CatalogueRow[],
  arch: Arch,
): KernelTarget[] {
  return releaseOfKernelPackages(kernelPackages, arch).map(({ release, packageVersion }) => {
    if (kernels.length > 0 && !kernels.includes(release)) {
      throw new Dkms2binError(
        'usage',
        `--kernel-package is for ${release}, but --kernel asks for ${kernels.join(', ')}`,
      );
    }
    const fitting = distro ? [findRow(rows, distro)] : candidatesFor(release, rows);
    const [row, ...others] = fitting;
    if (!row || others.length > 0) {
      const ids = fitting.map(({ id }) => id).join(' and ');
      throw new Dkms2binError('usage', `${release} fits ${ids || 'no distro of the catalogue'}`, {
        hint: 'Choose one with --distro.',
      });
    }
    return { release, distro: row.id, arch, packageVersion };
  });
}

export function deepFreeze<T extends object>(value: T): T {
  for (const each of Object.values(value))
    if (typeof each === 'object' && each !== null) deepFreeze(each as object);
  return Object.freeze(value);
}
