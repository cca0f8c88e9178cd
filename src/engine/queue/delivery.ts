import { mkdir, readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { provenancePath } from '../../attest/provenance.js';
import { sbomPath } from '../../attest/sbom.js';
import type { PackageForm } from '../../distro/row.js';
import type { CellResult } from '../../model/cell.js';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import { wordsOf } from '../../model/forms.js';
import { moduleFiles, type ModuleFiles } from '../../pack/file-names.js';
import { writeAtomic } from '../../lib/atomic-write.js';
import type { Store } from '../../lib/object-store/index.js';
import type { CellBuilt } from './task.js';
import type { CellJob, Delivery } from './protocol.js';

/** Puts what a worker made, all files of `outDir`, into the store. */
export async function packDelivery(
  built: CellBuilt,
  { worker, outDir, store, signal }: { worker: string; outDir: string; store: Store; signal: AbortSignal },
): Promise<Delivery> {
  const files: Delivery['files'] = [];
  const names = (await readdir(outDir, { withFileTypes: true })).filter((each) => each.isFile());
  for (const name of names.map((each) => each.name).sort()) {
    files.push({ name, ...(await store.put(join(outDir, name), signal)) });
  }
  signal.throwIfAborted();
  const bare = (path: string | null): string | null => path && basename(path);
  const results = built.results.map((result) => ({
    ...result,
    reason: result.reason === null ? null : wordsOf(result.reason),
    package: bare(result.package),
    ...(result.otherPackages && { otherPackages: result.otherPackages.map((path) => basename(path)) }),
    log: bare(result.log),
    kept: null,
  }));
  return { results, files, worker, accelerator: built.accelerator, seconds: built.seconds };
}

/**
 * Throws fault `transient` unless a delivery is what its job asks for: rows of its kernel, each module once, and the files that
 * those rows call for by the names that they must have, no other. `form` is that of the distro's packages.
 */
export function requireAskedFor(delivery: Delivery, job: CellJob, form: PackageForm): void {
  const { files, results } = delivery;
  const names = files.map(({ name }) => name);
  const there = new Set(names);
  requireEachOnce(names, (name) => `the file ${name} comes twice`);
  const modules = results.map(({ module, version }) => `${module} ${version ?? ''}`);
  requireEachOnce(modules, (module) => `${module} has two results`);
  const allowed = new Set(results.flatMap((row) => askedFor(row, there, job, form)));
  // The modules of one source have one package of what they share, named after the first of them.
  const commons = results.some(({ verdict }) => verdict === 'built')
    ? results.flatMap((row) => namesOf(row, job, form)?.common ?? [])
    : [];
  for (const name of names.filter((each) => commons.some((common) => common.test(each))))
    for (const each of withRecords(name)) allowed.add(each);
  for (const name of there) if (!allowed.has(name)) refuse(`nobody asked for the file ${name}`);
  for (const row of results)
    for (const name of row.otherPackages ?? []) {
      const isOther = name === namesOf(row, job, form)?.debug || commons.some((common) => common.test(name));
      if (!isOther || !there.has(name))
        refuse(`${row.module} came with ${name}, which is no package of its own`);
    }
}

function refuse(why: string): never {
  throw new Dkms2binError('transient', why);
}

function requireEachOnce(texts: readonly string[], why: (text: string) => string): void {
  const twice = texts.find((text, at) => texts.indexOf(text) !== at);
  if (twice !== undefined) refuse(why(twice));
}

/** The files that a row of a result calls for, or may bring along. */
function askedFor(row: Row, there: ReadonlySet<string>, job: CellJob, form: PackageForm): string[] {
  requireOwnRow(row, job);
  const names = namesOf(row, job, form);
  const named = [
    [row.package, names?.package],
    [row.log, names?.log],
  ] as const;
  for (const [name, wanted] of named) {
    if (name === null) continue;
    if (name !== wanted)
      refuse(`the file of ${row.module} ${row.version ?? ''} is called ${name}, not ${wanted ?? 'anything'}`);
    if (!there.has(name)) refuse(`the file ${name} is missing`);
  }
  const packages = row.package === null || !names ? [] : [names.package, names.debug];
  return [...(row.log === null ? [] : [row.log]), ...packages.flatMap(withRecords)];
}

/** A package with what may lie beside it. */
const withRecords = (name: string): string[] => [name, provenancePath(name), sbomPath(name)];

type Row = Delivery['results'][number];

/** A row says of the job's own kernel what its verdict allows. */
function requireOwnRow(row: Row, { kernel, need }: CellJob): void {
  if (row.kernel !== kernel.release || row.distro !== need.distro || row.arch !== need.arch)
    refuse(`a result is for ${row.kernel} of ${row.distro}, ${row.arch}`);
  const isBuilt = row.verdict === 'built';
  if (isBuilt !== (row.package !== null))
    refuse(`${row.module} is ${row.verdict} ${isBuilt ? 'without' : 'with'} a package`);
  if (isBuilt && row.log === null) refuse(`${row.module} is built without a log`);
  const faulty = row.verdict === 'failed' || row.verdict === 'error';
  if (faulty !== (row.fault !== null))
    refuse(`${row.module} is ${row.verdict} ${faulty ? 'by nobody' : 'by fault'}`);
}

/** Null for a row without a version, which has no files. */
function namesOf(
  { module, version }: Row,
  { kernel, need, nameStyle }: CellJob,
  form: PackageForm,
): ModuleFiles | null {
  if (version === null) return null;
  try {
    return moduleFiles({ module, version, release: kernel.release, arch: need.arch }, nameStyle, form);
  } catch (error) {
    return refuse(messageOf(error));
  }
}

/**
 * Fetches all files of a delivery into the new folder `dir`, which goes at the end, then publishes them in `outDir`, packages
 * last: who sees one finds all that belongs to it. Returns the results with the paths of `outDir`.
 */
export async function publishDelivery(
  { results, files }: Delivery,
  { dir, outDir, store }: { dir: string; outDir: string; store: Store },
): Promise<CellResult[]> {
  await mkdir(outDir, { recursive: true });
  await mkdir(dir, { recursive: true });
  try {
    for (const { name, sha256, size } of files) await store.get(sha256, join(dir, name), { maxBytes: size });
    const packages = new Set(results.map((result) => result.package));
    const isPackage = ({ name }: Delivery['files'][number]): boolean => packages.has(name);
    const same = new Set<string>();
    for (const { name } of [...files.filter((f) => !isPackage(f)), ...files.filter(isPackage)]) {
      const { status } = await writeAtomic({ file: join(dir, name) }, join(outDir, name));
      if (status === 'up to date') same.add(name);
    }
    return results.map((result) => {
      const { package: name, otherPackages, log, reason } = result;
      return {
        ...result,
        package: name && join(outDir, name),
        ...(otherPackages && { otherPackages: otherPackages.map((each) => join(outDir, each)) }),
        log: log && join(outDir, log),
        reason: name && reason === null && same.has(name) ? 'up to date' : reason,
      };
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
