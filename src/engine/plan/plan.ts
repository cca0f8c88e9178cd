import type { Arch, KernelTarget, ModuleSource } from '../../model/cell.js';
import type { PlanContext } from '../../model/context.js';
import { Dkms2binError } from '../../model/errors.js';
import { cacheDir } from '../../lib/paths.js';
import { archOf, candidatesFor, isNamedBy, rowsOn } from '../../distro/release.js';
import { incomplete, kernelsOfFiles, type FilesKernel } from '../../distro/kernel-files.js';
import { releaseOfKernelPackages } from '../../distro/kernel-package.js';
import { resolveKernels } from '../../distro/resolve.js';
import { findRow, catalogueOf, type CatalogueRow } from '../../distro/catalogue.js';
import { isApt } from '../../distro/row.js';
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
  const rows = await catalogueOf(request);
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
  if (request.kernelPackages.length > 0)
    return packageTargets(request, { rows, arch, signal: context.signal });
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
async function packageTargets(
  { kernelPackages, kernels, distro, cwd }: BuildRequest,
  { rows, arch, signal }: { rows: CatalogueRow[]; arch: Arch; signal: AbortSignal },
): Promise<KernelTarget[]> {
  const urls = kernelPackages.filter((each) => /^https?:/.test(each));
  const files = kernelPackages.filter((each) => !urls.includes(each));
  // What is still to be downloaded is known by its name alone.
  const found: (Pick<FilesKernel, 'release' | 'packageVersion'> & Partial<FilesKernel>)[] =
    urls.length > 0
      ? releaseOfKernelPackages(kernelPackages, arch)
      : await kernelsOfFiles(files, { arch, cwd, signal });
  return found.map(({ release, packageVersion, packages, form = 'deb', missing = [] }) => {
    if (kernels.length > 0 && !kernels.includes(release)) {
      throw new Dkms2binError(
        'usage',
        `--kernel-package is for ${release}, but --kernel asks for ${kernels.join(', ')}`,
      );
    }
    const { row, known } = rowOfFiles(release, distro, rows);
    if ((form === 'deb') !== isApt(row)) {
      throw new Dkms2binError('usage', `--kernel-package: ${row.id} does not take .${form} files`, {
        hint: 'Name another distro with --distro.',
      });
    }
    if (packages && !known && missing.length > 0)
      throw incomplete({ release, packageVersion, packages, form, missing });
    return { release, distro: row.id, arch, packageVersion, ...(packages && { packages }) };
  });
}

/** The row that a kernel's files are for; `known` when it names its kernels so, and may have what is not among them. */
function rowOfFiles(
  release: string,
  distro: string | undefined,
  rows: readonly CatalogueRow[],
): { row: CatalogueRow; known: boolean } {
  const named = candidatesOrNone(release, rows);
  if (distro !== undefined) {
    const [row = findRow(rows, distro)] = rowsOn(findRow(rows, distro), rows, (each) =>
      isNamedBy(each, release),
    );
    return { row, known: named.includes(row) || isNamedBy(row, release) };
  }
  const [row, ...others] = named;
  if (row && others.length === 0) return { row, known: true };
  const ids = named.map(({ id }) => id).join(' and ');
  throw new Dkms2binError('usage', `${release} fits ${ids || 'no distro of the catalogue'}`, {
    hint: row
      ? 'Choose one with --distro.'
      : 'Name the distro whose image and compiler are to be used, such as --distro debian-12.',
  });
}

function candidatesOrNone(release: string, rows: readonly CatalogueRow[]): CatalogueRow[] {
  try {
    return candidatesFor(release, rows);
  } catch (error) {
    if (error instanceof Dkms2binError && ['usage', 'not-found'].includes(error.fault)) return [];
    throw error;
  }
}

export function deepFreeze<T extends object>(value: T): T {
  for (const each of Object.values(value))
    if (typeof each === 'object' && each !== null) deepFreeze(each as object);
  return Object.freeze(value);
}
