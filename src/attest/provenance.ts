import { basename } from 'node:path';
import { createPublicKey, type KeyObject } from 'node:crypto';
import { z } from 'zod';
import type { Arch, ModuleSource } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { writeAtomic, type Published } from '../lib/atomic-write.js';
import { readCapped } from '../lib/read-capped.js';
import { payloadOf, readEnvelope, signEnvelope, verifyEnvelope, type Signer } from './dsse.js';
import { packagePurl, purlVersion } from './purl.js';

export const STATEMENT_TYPE = 'https://in-toto.io/Statement/v1';
export const PREDICATE_TYPE = 'https://slsa.dev/provenance/v1';
export const PAYLOAD_TYPE = 'application/vnd.in-toto+json';

/** Names the meaning of the parameters below; README.md, "Provenance", describes it. The project has no domain to claim. */
export const BUILD_TYPE = 'urn:dkms2bin:buildtype:dkms:v1';
/** The builder when nobody says who runs it: some host that somebody ran dkms2bin on. */
export const LOCAL_BUILDER = 'urn:dkms2bin:builder:local';

/** Lowercase hex digests by in-toto's names of the algorithms. */
export type DigestSet = Record<string, string>;

export interface SourceRecord {
  kind: ModuleSource['kind'];
  /** As it was asked for: a package name, `name=version`, or a path, of which the last part is recorded. */
  text: string;
  /** The distro's package that a repository name came to. */
  package?: { name: string; version: string };
  /** Of the .deb or tarball; of a folder, of the tar that the guest was sent (sha256). */
  digest: DigestSet;
}

export interface InstalledPackage {
  name: string;
  version: string;
  /** The distro's name of the architecture, `all` and `noarch` included. */
  arch?: string;
}

export interface PackageRecord {
  /** File name without folders. */
  file: string;
  sha256: string;
  package: string;
  version: string;
  architecture: string;
  /** What it installs, in the package's order; digests are of the bytes as packed, a module's signature included. */
  files: {
    /** Absolute path on the target. */
    path: string;
    sha256: string;
    /** What a kernel module says about itself. */
    module?: { name?: string; version?: string; license?: string };
  }[];
}

/** All that is known of one cell's build. `makeStatement` and `makeSbom` are functions of it alone. */
export interface BuildFacts {
  /** The DKMS module's name and version. */
  module: { name: string; version: string };
  /** Kernel release. */
  kernel: string;
  /** Catalogue id. */
  distro: string;
  arch: Arch;
  packages: PackageRecord[];
  /** Of `packages`, of the distro's and so of the source's. */
  packageType: 'deb' | 'rpm';
  source: SourceRecord;
  /** Other sources of the request that were built first. */
  buildDepends: SourceRecord[];
  /** What the user chose that can change the outcome. Credentials in URLs are not recorded. */
  options: {
    image: string;
    nameStyle: string;
    verify: boolean;
    debugSymbols?: boolean;
    mirror?: string;
    archive?: string;
  };
  image: {
    origin: 'official' | 'bootstrap' | 'file';
    digest: DigestSet;
    /** Where an official image was downloaded from. */
    url?: string;
  };
  /** Kernel packages that were given as files. */
  kernelPackages: { file: string; sha256: string }[];
  /** Every package of the kernel layer, those below among them. */
  installed: InstalledPackage[];
  /** Names of the packages in `installed` that make a module: kernel image, headers, compiler, dkms. */
  roles: { kernelImage: string; kernelHeaders?: string; compiler?: string; dkms?: string };
  /** The cache's name of the kernel layer. */
  layer: string;
  /** Seconds since 1970 in every file of the packages (SOURCE_DATE_EPOCH). */
  epoch: number;
  builder: {
    /** URI of who runs dkms2bin; by default LOCAL_BUILDER. */
    id?: string;
    dkms2bin: string;
    qemu: string;
    accelerator: string;
  };
  run: {
    /** Unique to the invocation. */
    id: string;
    startedOn: Date;
    finishedOn: Date;
    /** Wall seconds by phase. */
    phases: Record<string, number>;
    log?: { file: string; sha256: string };
  };
}

/** in-toto's description of an artifact; one of uri and digest is there. */
export interface ResourceDescriptor {
  name?: string;
  uri?: string;
  digest?: DigestSet;
  downloadLocation?: string;
  annotations?: Record<string, string>;
}

export interface Statement {
  _type: typeof STATEMENT_TYPE;
  subject: { name: string; digest: DigestSet }[];
  predicateType: typeof PREDICATE_TYPE;
  predicate: {
    buildDefinition: {
      buildType: string;
      externalParameters: Record<string, unknown>;
      internalParameters: Record<string, unknown>;
      resolvedDependencies: ResourceDescriptor[];
    };
    runDetails: {
      builder: { id: string; version: Record<string, string> };
      metadata: {
        invocationId: string;
        startedOn: string;
        finishedOn: string;
        dkms2bin_phaseSeconds: Record<string, number>;
      };
      byproducts: ResourceDescriptor[];
    };
  };
}

/**
 * The provenance of a cell's packages. `subject` and `buildDefinition` come out the same for every build of the same input;
 * what belongs to one run, times among it, is in `runDetails` alone, and nothing of it is in the packages' bytes.
 */
export function makeStatement(facts: BuildFacts): Statement {
  const { source, options, image, builder, run } = facts;
  return {
    _type: STATEMENT_TYPE,
    // The modules are subjects, too: one that was taken out of its package, or is installed, can be traced by its digest.
    subject: facts.packages.flatMap(({ file, sha256, files }) => [
      { name: file, digest: { sha256 } },
      ...files
        .filter((each) => each.module !== undefined)
        .map((each) => ({ name: `${file}${each.path}`, digest: { sha256: each.sha256 } })),
    ]),
    predicateType: PREDICATE_TYPE,
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: {
          source: sourceParameter(source),
          ...(facts.buildDepends.length > 0 && { buildDepends: facts.buildDepends.map(sourceParameter) }),
          kernel: facts.kernel,
          distro: facts.distro,
          arch: facts.arch,
          ...(facts.kernelPackages.length > 0 && {
            kernelPackages: facts.kernelPackages.map((each) => basename(each.file)),
          }),
          options: {
            image: image.origin === 'file' ? basename(options.image) : options.image,
            nameStyle: options.nameStyle,
            verify: options.verify,
            ...(options.debugSymbols && { debugSymbols: true }),
            ...(options.mirror !== undefined && { mirror: withoutCredentials(options.mirror) }),
            ...(options.archive !== undefined && { archive: withoutCredentials(options.archive) }),
          },
        },
        internalParameters: {
          module: facts.module,
          sourceDateEpoch: facts.epoch,
          kernelLayer: facts.layer,
        },
        resolvedDependencies: [
          ...[source, ...facts.buildDepends].map((each, at) =>
            sourceDependency(each, facts, at === 0 ? 'source' : 'build dependency'),
          ),
          {
            name: 'base image',
            digest: image.digest,
            ...(image.url !== undefined && { downloadLocation: withoutCredentials(image.url) }),
            annotations: { role: 'base image', origin: image.origin },
          },
          ...facts.kernelPackages.map(({ file, sha256 }) => ({
            name: basename(file),
            digest: { sha256 },
            annotations: { role: 'kernel package' },
          })),
          ...installedDependencies(facts),
        ],
      },
      runDetails: {
        builder: {
          id: builder.id ?? LOCAL_BUILDER,
          version: {
            dkms2bin: builder.dkms2bin,
            qemu: builder.qemu,
            accelerator: builder.accelerator,
          },
        },
        metadata: {
          invocationId: run.id,
          startedOn: timestamp(run.startedOn),
          finishedOn: timestamp(run.finishedOn),
          dkms2bin_phaseSeconds: run.phases,
        },
        byproducts: run.log
          ? [
              {
                name: basename(run.log.file),
                digest: { sha256: run.log.sha256 },
                annotations: { role: 'build log' },
              },
            ]
          : [],
      },
    },
  };
}

/** What was asked for; a path is where it lay on one host, which says nothing to others. */
function sourceParameter({ kind, text }: SourceRecord): { kind: string; name: string } {
  return { kind, name: kind === 'repo' ? text : basename(text) };
}

function sourceDependency(source: SourceRecord, of: BuildFacts, role: string): ResourceDescriptor {
  const { digest } = source;
  const annotations = { role };
  if (!source.package) return { name: basename(source.text), digest, annotations };
  return { name: source.package.name, uri: sourcePurl(source.package, of), digest, annotations };
}

/** The package URL of a DKMS package of the distro. */
export function sourcePurl(
  { name, version }: { name: string; version: string },
  { packageType, distro }: Pick<BuildFacts, 'packageType' | 'distro'>,
): string {
  const arch = packageType === 'deb' ? 'all' : 'noarch';
  return packagePurl(packageType, name, version, { arch, distro });
}

/** By URI, so that the order in which a guest lists its packages does not matter. */
function installedDependencies({ installed, roles, distro, packageType }: BuildFacts): ResourceDescriptor[] {
  return installed
    .map(({ name, version, arch }): ResourceDescriptor & { uri: string } => ({
      name,
      uri: packagePurl(packageType, name, version, { distro, ...(arch !== undefined && { arch }) }),
      annotations: { role: roleOf(name, roles) ?? 'toolchain' },
    }))
    .sort((a, b) => (a.uri < b.uri ? -1 : a.uri > b.uri ? 1 : 0));
}

/** What a package of the kernel layer is to the build; undefined for the rest of the system. */
export function roleOf(name: string, roles: BuildFacts['roles']): string | undefined {
  switch (name) {
    case roles.kernelImage:
      return 'kernel image';
    case roles.kernelHeaders:
      return 'kernel headers';
    case roles.compiler:
      return 'compiler';
    case roles.dkms:
      return 'dkms';
  }
  return undefined;
}

function withoutCredentials(url: string): string {
  if (!URL.canParse(url)) return url;
  const parsed = new URL(url);
  if (parsed.username === '' && parsed.password === '') return url;
  parsed.username = parsed.password = '';
  return parsed.href;
}

/** RFC 3339 in UTC, whole seconds. */
function timestamp(date: Date): string {
  return date.toISOString().replace(/\.\d+Z$/, 'Z');
}

/** Where a package's provenance lies: beside it, by in-toto's name for a bundle of one file. */
export function provenancePath(packagePath: string): string {
  return `${packagePath}.intoto.jsonl`;
}

/**
 * The bundle of a statement, which may be its JSON: one line, a DSSE envelope; without a signer the bare statement, since
 * DSSE has no unsigned envelope.
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
    source: z.object({ kind: z.enum(['repo', 'deb', 'rpm', 'folder', 'tarball']), name: z.string() }),
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
  /** `name` is a path's last part. */
  source: { kind: ModuleSource['kind']; name: string };
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
  return {
    module: internalParameters.module,
    ...externalParameters,
    digest: source?.digest?.sha256 ?? null,
    sourcePackage: source?.uri === undefined ? null : (source.name ?? null),
    sourceVersion: source?.uri === undefined ? null : purlVersion(source.uri),
  };
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
