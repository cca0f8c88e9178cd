import { X509Certificate } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { gunzipSync, gzipSync } from 'node:zlib';
import { z } from 'zod';
import { contentDigest } from '../cache/entries.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { cacheDir } from '../lib/paths.js';
import type { CellResult } from '../model/cell.js';
import { ResultDocument } from '../model/result-schema.js';
import { attestAgain } from './attest.js';
import { identityOptions } from '../options/request.js';
import { certificateFingerprint, identityOf, sourceContent } from './identity.js';
import type { Prepared } from './source.js';
import { UP_TO_DATE, type BuiltRecord, type CellInput } from './types.js';

/** What a cell is known again by, once its layer is there and its source is looked up. */
export const cellIdentity = (
  { source, target, environment, signer, ...request }: CellInput,
  { digest, with: others }: Prepared,
): string =>
  identityOf({
    sources: [sourceContent(source, digest), ...others.map((each) => sourceContent(each, each.digest))],
    target,
    signer: signer && certificateFingerprint(new X509Certificate(signer.certPem)),
    options: identityOptions(request),
    layer: basename(environment.layer.entry.dir),
  });

const recordPath = (identity: string): string => join(cacheDir(), 'built', `${identity}.json`);

/** It becomes a path in the out-dir. */
const FileName = z.string().regex(/^[^/\0.][^/\0]*$/);

/** More than the guest's collect.py sends of one. */
const MAX_LOG_BYTES = 64 * 2 ** 20;

const Remembered = z.array(
  z.strictObject({
    /** Its paths are those of the run that built it; only their last parts count. */
    result: ResultDocument.shape.cells.element,
    packages: z.record(FileName, z.string()),
    attestation: z.strictObject({ statement: z.string(), sboms: z.record(FileName, z.string()) }),
    /** The build log, base64 of its gzip; null when there was none. */
    log: z
      .base64()
      .transform((text) => gunzipSync(Buffer.from(text, 'base64'), { maxOutputLength: MAX_LOG_BYTES }))
      .nullable(),
  }),
);
type Remembered = z.infer<typeof Remembered>;

/**
 * What an earlier run made of the very same input, when its packages are still in the out-dir; null for what has to be built.
 * Logs, provenance and SBOMs that are gone from there are written again, and so is provenance that the given key has not signed.
 */
export async function upToDate(input: CellInput, identity: string): Promise<CellResult[] | null> {
  if (input.force || input.debug) return null;
  const records = await recorded(identity);
  if (records.length === 0) return null;
  // A record of a build that was not checked says nothing of how a second one would come out.
  if (input.checkReproducible && !records.every(({ result }) => result.reproducible)) return null;
  for (const { packages } of records) {
    for (const [name, digest] of Object.entries(packages)) {
      const now = await contentDigest(join(input.outDir, name)).catch(() => null);
      if (now !== digest) return null;
    }
  }
  return Promise.all(records.map((record) => madeWhole(input, record)));
}

async function madeWhole(
  { outDir, invocation, machine, label }: CellInput,
  { result, packages, attestation, log }: Remembered[number],
): Promise<CellResult> {
  const inOutDir = (path: string | null): string | null => path && join(outDir, basename(path));
  const main = result.package && basename(result.package);
  const others = Object.keys(packages).filter((name) => name !== main);
  const written: string[] = [];
  const logPath = log === null ? null : inOutDir(result.log);
  if (log !== null && logPath !== null) {
    const { status } = await writeAtomic(log, logPath);
    if (status === 'written') written.push(basename(logPath));
  }
  for (const [name, digest] of Object.entries(packages))
    written.push(...(await attestAgain(join(outDir, name), digest, attestation, invocation.signer)));
  // What it said then is still so.
  for (const message of result.notes ?? [])
    machine.emit({ type: 'note', level: 'warn', message, cell: label });
  if (written.length > 0) {
    const message = `Written again, without a build: ${written.join(', ')}`;
    machine.emit({ type: 'note', level: 'info', message, cell: label });
  }
  const reason = [UP_TO_DATE, result.reason].filter((each) => each !== null).join('; ');
  return {
    ...{ ...result, reason, package: inOutDir(result.package), log: logPath, phases: {} },
    ...(others.length > 0 && { otherPackages: others.map((name) => join(outDir, name)) }),
  };
}

/** What is remembered of this input; nothing when it is new, or cannot be read. */
async function recorded(identity: string): Promise<Remembered> {
  try {
    return Remembered.parse(JSON.parse(await readFile(recordPath(identity), 'utf8')));
  } catch {
    return [];
  }
}

/** Remembers what was published of a cell, whose logs are in the out-dir by now. */
export async function remember(
  { outDir }: Pick<CellInput, 'outDir'>,
  identity: string,
  records: readonly BuiltRecord[],
): Promise<void> {
  const path = recordPath(identity);
  const before = await recorded(identity);
  // What was checked once stays so for the very same packages.
  const checked = ({ packages }: BuiltRecord): boolean =>
    before.some((each) => each.result.reproducible && isDeepStrictEqual(each.packages, packages));
  const kept: z.input<typeof Remembered> = await Promise.all(
    records.map(async ({ result, packages, attestation }) => ({
      result: {
        ...{ ...result, reason: result.reason === UP_TO_DATE ? null : result.reason, kept: null },
        ...(checked({ result, packages, attestation }) && { reproducible: true }),
      },
      packages,
      attestation,
      log: result.log && (await packedLog(join(outDir, basename(result.log)))),
    })),
  );
  await mkdir(dirname(path), { recursive: true });
  await writeAtomic(Buffer.from(JSON.stringify(kept)), path);
}

/** Null for a log that somebody has removed meanwhile. */
async function packedLog(path: string): Promise<string | null> {
  const log = await readFile(path).catch(() => null);
  return log && gzipSync(log).toString('base64');
}
