import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { identityOf, sourceContent, type SourceContent } from '../cell/identity.js';
import { identityOptions } from '../options/request.js';
import { dependenciesOf, localDigest } from '../cell/source.js';
import { contentDigest } from '../cache/entries.js';
import { findRow, catalogueOf, type CatalogueRow } from '../distro/catalogue.js';
import { findDkmsPackage } from '../distro/dkms-package.js';
import { fetchKernelPackage } from '../distro/kernel-package.js';
import { cacheDir } from '../lib/paths.js';
import { Dkms2binError } from '../model/errors.js';
import type { BuildRequest } from '../options/request.js';
import type { PlanContext } from '../model/context.js';
import { buildPackagesOf } from './build-packages.js';
import type { BuildPlan, PlannedCell } from './plan/types.js';

/** Who signs what comes out: the modules' certificate by its fingerprint, the provenance's key by its id. */
export interface Signers {
  signer: string | null;
  attester: string | null;
}

/**
 * The identities of a plan's cells, for which no layer is needed. What cannot be read or looked up counts by its name: the
 * cell itself will say so.
 */
export async function plannedIdentities(
  plan: BuildPlan,
  signers: Signers,
  context: PlanContext,
): Promise<Map<PlannedCell, string>> {
  const { request } = plan;
  const rows = await catalogueOf(request);
  const options = identityOptions(request);
  const order = { ...request, image: await imageContent(request, context) };
  const kernelPackages = await kernelPackageContents(request, context);
  const buildPackages = await buildPackageContents(request, context);
  const known = new Map<string, SourceContent[]>();
  const ids = new Map<PlannedCell, string>();
  for (const cell of plan.cells) {
    const key = cell.module.kind === 'repo' ? `${cell.distro} ${cell.source}` : cell.source;
    const sources = known.get(key) ?? (await sourceContents(cell, plan, rows, context));
    known.set(key, sources);
    const inputs = { sources, target: cell.target, options, order, kernelPackages, buildPackages };
    ids.set(cell, identityOf({ ...inputs, ...signers }));
  }
  return ids;
}

/** A source and what it needs of the plan's others. */
async function sourceContents(
  { module, distro, source }: PlannedCell,
  { request, otherSources = [] }: BuildPlan,
  rows: readonly CatalogueRow[],
  { emit, signal }: PlanContext,
): Promise<SourceContent[]> {
  try {
    if (module.kind !== 'repo') {
      const { with: others } = await dependenciesOf(module, otherSources, signal);
      return await Promise.all(
        [module, ...others].map(async (each) => sourceContent(each, await localDigest(each, signal))),
      );
    }
    const { mirror, offline, proxy } = request;
    const warn = (message: string): void => emit({ type: 'note', level: 'debug', message });
    const { sha256 } = await findDkmsPackage(findRow(rows, distro), module, {
      ...{ cacheDir: cacheDir(), mirror, offline, proxy, signal, warn },
    });
    return [{ kind: module.kind, sha256 }];
  } catch (error) {
    return [{ kind: 'unknown', name: ifFault(error, source, signal) }];
  }
}

/** The option's own word; an image file by its content. */
async function imageContent({ image, cwd }: BuildRequest, { signal }: PlanContext): Promise<string> {
  if (['auto', 'official', 'bootstrap'].includes(image)) return image;
  return contentDigest(resolve(cwd, image), 'sha256', signal).catch((error: unknown) =>
    ifFault(error, image, signal),
  );
}

/** A URL promises no content, so its package is downloaded. */
async function kernelPackageContents(
  { kernelPackages, cwd, proxy }: BuildRequest,
  { emit, signal }: PlanContext,
): Promise<string[]> {
  if (kernelPackages.length === 0) return [];
  await mkdir(cacheDir(), { recursive: true });
  const folder = await mkdtemp(join(cacheDir(), 'tmp-'));
  const digestOf = async (each: string): Promise<string> => {
    if (!/^https?:/.test(each)) return contentDigest(resolve(cwd, each), 'sha256', signal);
    const to = join(folder, basename(decodeURIComponent(new URL(each).pathname)));
    await fetchKernelPackage(each, to, { emit, signal, proxy });
    return contentDigest(to, 'sha256', signal);
  };
  try {
    const digests: string[] = [];
    for (const each of kernelPackages)
      digests.push(await digestOf(each).catch((error: unknown) => ifFault(error, each, signal)));
    return digests;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Names, and files by their content; what cannot be read by its name. */
async function buildPackageContents(request: BuildRequest, { signal }: PlanContext): Promise<string[]> {
  try {
    const { names, files } = await buildPackagesOf(request);
    const digests = files.map((file) => contentDigest(file, 'sha256', signal));
    return [...names, ...(await Promise.all(digests))];
  } catch (error) {
    ifFault(error, '', signal);
    return [...request.buildPackages];
  }
}

/** `name` for what somebody else is to blame for, a file that is not there among it; any other error goes on. */
function ifFault(error: unknown, name: string, signal: AbortSignal): string {
  const { code } = error as NodeJS.ErrnoException;
  if (signal.aborted || !(error instanceof Dkms2binError || code !== undefined)) throw error;
  return name;
}
