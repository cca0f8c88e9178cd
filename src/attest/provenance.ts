import { createPublicKey, type KeyObject } from 'node:crypto';
import { z } from 'zod';
import type { ModuleSource, SourceOrigin } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { writeAtomic, type Published } from '../lib/atomic-write.js';
import { readCapped } from '../lib/read-capped.js';
import { payloadOf, readEnvelope, signEnvelope, verifyEnvelope, type Signer } from './dsse.js';
import type { DigestSet } from './facts.js';
import { purlVersion } from './purl.js';
import { BUILD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, type Statement } from './statement.js';

const PAYLOAD_TYPE = 'application/vnd.in-toto+json';

/** Where a package's provenance lies: beside it, by in-toto's name for a bundle of one file. */
export function provenancePath(packagePath: string): string {
  return `${packagePath}.intoto.jsonl`;
}

/**
 * The bundle of a statement, which may be its JSON: one line, a DSSE envelope; without a signer the bare statement, since
 * DSSE has no unsigned envelope.
 * @internal
 */
export function makeBundle(statement: Statement | string, signer?: Signer): Buffer {
  const payload = Buffer.from(typeof statement === 'string' ? statement : JSON.stringify(statement));
  const line = signer ? JSON.stringify(signEnvelope(PAYLOAD_TYPE, payload, signer)) : payload.toString();
  return Buffer.from(`${line}\n`);
}

/** Publishes the bundle beside a package. */
export async function writeProvenance(
  packagePath: string,
  statement: Statement | string,
  signer?: Signer,
): Promise<Published> {
  return writeAtomic(makeBundle(statement, signer), provenancePath(packagePath));
}

/** Whether the provenance beside a package is there and names it by its SHA-256; with a signer, whether that one signed it. */
export async function hasProvenance(packagePath: string, sha256: string, signer?: Signer): Promise<boolean> {
  const key = signer && createPublicKey(signer.key);
  const statements = await readBundle(provenancePath(packagePath), key).catch((error: unknown) => {
    if (error instanceof Dkms2binError) return [];
    throw error;
  });
  return statements.some(
    ({ subject, verified }) => verified !== false && subject.some(({ digest }) => digest.sha256 === sha256),
  );
}

const Descriptor = z.object({ name: z.string().default(''), digest: z.record(z.string(), z.string()) });
/** What dkms2bin's own statements say besides. */
const CellShape = z.object({
  externalParameters: z.object({
    source: z.object({
      kind: z.enum(['repo', 'deb', 'rpm', 'folder', 'tarball']),
      name: z.string(),
      origin: z.object({ url: z.string(), commit: z.string().exactOptional() }).exactOptional(),
    }),
    kernel: z.string(),
    distro: z.string(),
    arch: z.string(),
  }),
  internalParameters: z.object({ module: z.object({ name: z.string(), version: z.string() }) }),
  resolvedDependencies: z.array(
    z.object({
      name: z.string().optional(),
      uri: z.string().optional(),
      digest: z.record(z.string(), z.string()).optional(),
      annotations: z.record(z.string(), z.string()).optional(),
    }),
  ),
});
const StatementShape = z.object({
  _type: z.literal(STATEMENT_TYPE),
  predicateType: z.literal(PREDICATE_TYPE),
  subject: z.array(Descriptor).min(1),
  predicate: z.object({
    buildDefinition: z.looseObject({ buildType: z.string() }),
    runDetails: z.object({
      builder: z.object({ id: z.string() }),
      metadata: z
        .object({ invocationId: z.string().optional(), finishedOn: z.string().optional() })
        .optional(),
    }),
  }),
});

/** What of a provenance statement is read back; it may be another builder's. */
export interface ReadStatement {
  subject: { name: string; digest: DigestSet }[];
  buildType: string;
  builder: string;
  invocationId?: string;
  finishedOn?: string;
  /** Of the envelope; empty for an unsigned statement. Unsigned hints themselves. */
  keyids: string[];
  /** Whether the given key signed it; null without a key or an envelope. */
  verified: boolean | null;
  /** The build that it tells of; null when it is not one of dkms2bin. */
  cell: BuiltCell | null;
}

/** What was built, as externalParameters and internalParameters say. */
export interface BuiltCell {
  module: { name: string; version: string };
  kernel: string;
  distro: string;
  arch: string;
  /** `name` is a path's last part; of what was fetched all that was asked for. */
  source: { kind: ModuleSource['kind']; name: string; origin?: SourceOrigin };
  /** SHA-256 of the source. */
  digest: string | null;
  /** Name and version of the source, when it was a package of the distro. */
  sourcePackage: string | null;
  sourceVersion: string | null;
}

/** Other builders may name the predicate in it. */
const IN_TOTO = /^application\/vnd\.in-toto(\.[a-z0-9-]+)?\+json$/;
const MAX_BUNDLE_BYTES = 32 * 2 ** 20;

/**
 * The provenance statements of a bundle; lines that are something else are ignored, as in-toto asks. Throws fault `usage`
 * when it cannot be read or holds none.
 */
export async function readBundle(path: string, key?: KeyObject): Promise<ReadStatement[]> {
  const text = (await readCapped(path, MAX_BUNDLE_BYTES)).toString('utf8');
  const statements = text.split('\n').flatMap((line) => readLine(line, key));
  if (statements.length === 0) {
    throw new Dkms2binError('usage', `${path} holds no SLSA provenance (v1)`, {
      hint: 'It may be cut off, or be the attestation of something else.',
    });
  }
  return statements;
}

function readLine(line: string, key?: KeyObject): ReadStatement[] {
  const value = json(line);
  const envelope = readEnvelope(value);
  if (envelope && !IN_TOTO.test(envelope.payloadType)) return [];
  const statement = StatementShape.safeParse(envelope ? json(payloadOf(envelope).toString('utf8')) : value);
  if (!statement.success) return [];
  const { subject, predicate } = statement.data;
  const { metadata, builder } = predicate.runDetails;
  const { buildType } = predicate.buildDefinition;
  return [
    {
      subject,
      buildType,
      builder: builder.id,
      ...(metadata?.invocationId !== undefined && { invocationId: metadata.invocationId }),
      ...(metadata?.finishedOn !== undefined && { finishedOn: metadata.finishedOn }),
      keyids: envelope?.signatures.map((each) => each.keyid) ?? [],
      verified: key ? envelope !== null && verifyEnvelope(envelope, key) : null,
      cell: buildType === BUILD_TYPE ? cellOf(predicate.buildDefinition) : null,
    },
  ];
}

function cellOf(definition: unknown): BuiltCell | null {
  const parsed = CellShape.safeParse(definition);
  if (!parsed.success) return null;
  const { externalParameters, internalParameters, resolvedDependencies } = parsed.data;
  const source = resolvedDependencies.find((each) => each.annotations?.role === 'source');
  const purl = source?.uri?.startsWith('pkg:') ? source.uri : null;
  return {
    module: internalParameters.module,
    ...externalParameters,
    digest: source?.digest?.sha256 ?? null,
    sourcePackage: purl === null ? null : (source?.name ?? null),
    sourceVersion: purl === null ? null : purlVersion(purl),
  };
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
