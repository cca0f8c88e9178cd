import { basename } from 'node:path';
import { roleOf, sourcePurl, type BuildFacts, type DigestSet, type SourceRecord } from './facts.js';
import { redact } from '../lib/credentials.js';
import { packagePurl } from './purl.js';

export const STATEMENT_TYPE = 'https://in-toto.io/Statement/v1';
export const PREDICATE_TYPE = 'https://slsa.dev/provenance/v1';

/** Names the meaning of the parameters below; docs/guides/provenance.md describes it. The project has no domain to claim. */
export const BUILD_TYPE = 'urn:dkms2bin:buildtype:dkms:v1';
/** The builder when nobody says who runs it: some host that somebody ran dkms2bin on. */
const LOCAL_BUILDER = 'urn:dkms2bin:builder:local';

/** in-toto's description of an artifact; one of uri and digest is there. */
interface ResourceDescriptor {
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
    predicate: { buildDefinition: buildDefinition(facts), runDetails: runDetails(facts) },
  };
}

type Predicate = Statement['predicate'];

function buildDefinition(facts: BuildFacts): Predicate['buildDefinition'] {
  const { source, options, image } = facts;
  return {
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
        ...(options.buildPackages && { buildPackages: options.buildPackages.map((each) => basename(each)) }),
        ...(options.mirror !== undefined && { mirror: redact(options.mirror) }),
        ...(options.archive !== undefined && { archive: redact(options.archive) }),
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
        ...(image.url !== undefined && { downloadLocation: redact(image.url) }),
        annotations: { role: 'base image', origin: image.origin },
      },
      ...facts.kernelPackages.map(({ file, sha256 }) => ({
        name: basename(file),
        digest: { sha256 },
        annotations: { role: 'kernel package' },
      })),
      ...facts.buildPackages.map(({ file, sha256 }) => ({
        name: basename(file),
        digest: { sha256 },
        annotations: { role: 'build package' },
      })),
      ...installedDependencies(facts),
    ],
  };
}

function runDetails({ builder, run }: BuildFacts): Predicate['runDetails'] {
  return {
    builder: {
      id: builder.id ?? LOCAL_BUILDER,
      version: {
        dkms2bin: builder.dkms2bin,
        qemu: builder.qemu,
        accelerator: builder.accelerator,
        ...(builder.compilations && {
          compilations: `${builder.compilations.host} on the host, ${builder.compilations.guest} in the VM`,
        }),
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
  };
}

/** What was asked for; a path is where it lay on one host, which says nothing to others. */
function sourceParameter({ kind, text, origin }: SourceRecord): Record<string, unknown> {
  return { kind, name: sourceName({ kind, text, origin }), ...(origin && { origin }) };
}

const sourceName = ({ kind, text, origin }: Pick<SourceRecord, 'kind' | 'text' | 'origin'>): string =>
  kind === 'repo' || origin ? text : basename(text);

function sourceDependency(source: SourceRecord, of: BuildFacts, role: string): ResourceDescriptor {
  const { digest } = source;
  const annotations = { role };
  if (source.origin) {
    const { url, commit } = source.origin;
    const uri = commit === undefined ? url : `git+${url}@${commit}`;
    const gitCommit: DigestSet = commit === undefined ? {} : { gitCommit: commit };
    return { name: sourceName(source), uri, digest: { ...digest, ...gitCommit }, annotations };
  }
  if (!source.package) return { name: basename(source.text), digest, annotations };
  return { name: source.package.name, uri: sourcePurl(source.package, of), digest, annotations };
}

/** By URI, so that the order in which a guest lists its packages does not matter. */
function installedDependencies({ installed, roles, distro, packageType }: BuildFacts): ResourceDescriptor[] {
  return installed
    .map(({ name, version, arch }): ResourceDescriptor & { uri: string } => ({
      name,
      uri: packagePurl(packageType, name, version, { distro, ...(arch !== undefined && { arch }) }),
      annotations: { role: roleOf(name, roles) ?? 'toolchain' },
    }))
    .sort((a, b) => (a.uri < b.uri ? -1 : Number(a.uri > b.uri)));
}

/** RFC 3339 in UTC, whole seconds. */
function timestamp(date: Date): string {
  return date.toISOString().replace(/\.\d+Z$/, 'Z');
}
