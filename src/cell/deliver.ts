import { basename, join } from 'node:path';
import { writeAtomic } from '../lib/atomic-write.js';
import type { CellResult } from '../model/cell.js';
import { attest } from './attest.js';
import {
  UP_TO_DATE,
  type BuiltRecord,
  type CellModule,
  type Delivered,
  type PackedModule,
  type Packaged,
  type Verified,
} from './types.js';

/** The results of the cell's own modules, in the order of their reports. */
export const resultsOf = ({ modules }: Packaged): CellResult[] =>
  modules.filter(({ ownedByOtherCell }) => !ownedByOtherCell).map(({ result }) => result);

/** Writes the logs of the cell's own modules into the out-dir. Not before the outcome is known: an interrupted cell leaves nothing there. */
export async function publishLogs({ modules }: Packaged): Promise<void> {
  for (const { log, result } of modules) if (log && result.log !== null) await writeAtomic(log, result.log);
}

/** Publishes the packages of all modules that are still built, with provenance and SBOM, and the logs of all. */
export async function deliver(cell: Verified): Promise<Delivered> {
  await publishLogs(cell);
  const modules: CellModule[] = [];
  const records: BuiltRecord[] = [];
  for (const module of cell.modules) {
    const { packed, ownedByOtherCell, result } = module;
    if (!packed || ownedByOtherCell || result.verdict !== 'built') {
      modules.push(module);
      continue;
    }
    const published = await publishPackages(cell.input.outDir, packed, result);
    const attestation = await attest(cell, published.result, published.paths);
    modules.push({ ...module, result: published.result });
    records.push({ result: published.result, packages: published.files, attestation });
  }
  return { results: resultsOf({ ...cell, modules }), records };
}

async function publishPackages(
  outDir: string,
  { packages, main }: PackedModule,
  result: CellResult,
): Promise<{ result: CellResult; paths: string[]; files: Record<string, string> }> {
  const files: Record<string, string> = {};
  const paths: string[] = [];
  const published = { ...result };
  for (const { path: file } of packages) {
    const to = join(outDir, basename(file));
    const { status, sha256 } = await writeAtomic({ file }, to);
    files[basename(file)] = sha256;
    paths.push(to);
    if (file !== main) {
      published.otherPackages = [...(published.otherPackages ?? []), to];
      continue;
    }
    published.package = to;
    if (status === 'up to date') published.reason ??= UP_TO_DATE;
  }
  return { result: published, paths, files };
}
