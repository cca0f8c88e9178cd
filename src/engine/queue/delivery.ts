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
  const refuse = (why: string): never => {
    throw new Dkms2binError('transient', why);
  };
  const there = new Set<string>();
  for (const { name } of delivery.files) {
    if (there.has(name)) refuse(`the file ${name} comes twice`);
    there.add(name);
  }
  const allowed = new Set<string>();
  const seen = new Set<string>();
  for (const row of delivery.results) {
    const id = `${row.module} ${row.version ?? ''}`;
    if (seen.has(id)) refuse(`${id} has two results`);
    seen.add(id);
    requireOwnRow(row, job, refuse);
    const names = namesOf(row, job, form, refuse);
    for (const [name, wanted] of [
      [row.package, names?.package],
      [row.log, names?.log],
    ] as const) {
      if (name === null) continue;
      if (name !== wanted) refuse(`the file of ${id} is called ${name}, not ${wanted ?? 'anything'}`);
      if (!there.has(name)) refuse(`the file ${name} is missing`);
    }
    if (row.log !== null) allowed.add(row.log);
    if (row.package === null || !names) continue;
    for (const name of [names.package, ...names.others])
      for (const each of [name, provenancePath(name), sbomPath(name)]) allowed.add(each);
  }
  for (const name of there) if (!allowed.has(name)) refuse(`nobody asked for the file ${name}`);
}

type Row = Delivery['results'][number];
type Refuse = (why: string) => never;

/** A row says of the job's own kernel what its verdict allows. */
function requireOwnRow(row: Row, { kernel, need }: CellJob, refuse: Refuse): void {
  if (row.kernel !== kernel.release || row.distro !== need.distro || row.arch !== need.arch)
    refuse(`a result is for ${row.kernel} of ${row.distro}, ${row.arch}`);
  const isBuilt = row.verdict === 'built';
  if (isBuilt !== (row.package !== null))
    refuse(`${row.module} is ${row.verdict} ${isBuilt ? 'without' : 'with'} a package`);
  const faulty = row.verdict === 'failed' || row.verdict === 'error';
  if (faulty !== (row.fault !== null))
    refuse(`${row.module} is ${row.verdict} ${faulty ? 'by nobody' : 'by fault'}`);
}

/** Null for a row without a version, which has no files. */
function namesOf(
  { module, version }: Row,
  { kernel, need, nameStyle }: CellJob,
  form: PackageForm,
  refuse: Refuse,
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
    for (const { name, sha256 } of files) await store.get(sha256, join(dir, name));
    const packages = new Set(results.map((result) => result.package));
    const isPackage = ({ name }: Delivery['files'][number]): boolean => packages.has(name);
    const same = new Set<string>();
    for (const { name } of [...files.filter((f) => !isPackage(f)), ...files.filter(isPackage)]) {
      const { status } = await writeAtomic({ file: join(dir, name) }, join(outDir, name));
      if (status === 'up to date') same.add(name);
    }
    return results.map((result) => {
      const { package: name, log, reason } = result;
      return {
        ...result,
        package: name && join(outDir, name),
        log: log && join(outDir, log),
        reason: name && reason === null && same.has(name) ? 'up to date' : reason,
      };
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
