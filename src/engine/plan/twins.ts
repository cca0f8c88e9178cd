import { moduleIds, packageOf, type LocalSource, type Lookup } from '../../cell/source.js';
import { findRow, type CatalogueRow } from '../../distro/catalogue.js';
import { fetchDkmsPackage } from '../../distro/dkms-package.js';
import { cacheDir } from '../../lib/paths.js';
import type { KernelTarget, ModuleSource } from '../../model/cell.js';
import type { PlanContext } from '../../model/context.js';
import { Dkms2binError } from '../../model/errors.js';
import type { BuildRequest } from '../../options/request.js';

/** A source as it is for one distro: a package of its repository is a file then. */
type Local = LocalSource & { repo?: true };

/** Throws fault `usage` for two sources of the same module and version: the package of one would replace that of the other. */
export async function refuseTwins(
  sources: readonly ModuleSource[],
  targets: readonly KernelTarget[],
  means: { request: BuildRequest; rows: CatalogueRow[]; context: PlanContext },
): Promise<void> {
  const local = sources.filter((source) => source.kind !== 'repo');
  await refuseLocal(local, means.context.signal);
  if (sources.length < 2 || local.length === sources.length) return;
  const perDistro = new Map(targets.map((target) => [`${target.distro} ${target.arch}`, target]));
  for (const target of perDistro.values()) {
    const all: Local[] = [];
    for (const source of sources) {
      if (source.kind !== 'repo') all.push(source);
      else all.push(...(await ofRepository(source, target, means)));
    }
    await refuseLocal(all, means.context.signal);
  }
}

async function refuseLocal(sources: readonly Local[], signal: AbortSignal): Promise<void> {
  const seen = new Map<string, Local>();
  for (const source of sources) {
    for (const id of await moduleIds(source, signal)) {
      const twin = seen.get(id);
      if (twin && twin.path !== source.path) {
        const named = (each: Local): string => (each.repo ? `the distro's package ${each.text}` : each.text);
        throw new Dkms2binError(
          'usage',
          `Two sources bring the module ${id}: ${named(twin)} and ${named(source)}`,
          {
            hint: 'Their packages have the same name, so give only one of them.',
          },
        );
      }
      seen.set(id, source);
    }
  }
}

/** The package that a name means in the target's distro, from the cache that its build takes it from; none when it cannot be had, which its cell tells. */
async function ofRepository(
  source: Extract<ModuleSource, { kind: 'repo' }>,
  { distro, arch }: KernelTarget,
  { request, rows, context }: { request: BuildRequest; rows: CatalogueRow[]; context: PlanContext },
): Promise<Local[]> {
  const { mirror, offline, proxy } = request;
  const lookup: Lookup = { row: findRow(rows, distro), mirror, offline, proxy };
  const { signal } = context;
  try {
    // What goes wrong here is told, and tried again, when the cell's turn comes.
    const emit = (): void => undefined;
    const found = await packageOf(source, lookup, { arch, emit, signal });
    if (!found.verified) return [];
    const path = await fetchDkmsPackage(found, { cacheDir: cacheDir(), offline, proxy, emit, signal });
    return [{ kind: 'deb', text: source.text, path, repo: true }];
  } catch (error) {
    if (!(error instanceof Dkms2binError) || signal.aborted) throw error;
    return [];
  }
}
