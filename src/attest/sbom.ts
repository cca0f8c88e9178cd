import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { z } from 'zod';
import { writeAtomic, type Published } from '../lib/atomic-write.js';
import { readCapped } from '../lib/read-capped.js';
import { roleOf, sourcePurl, type BuildFacts, type PackageRecord, type SourceRecord } from './facts.js';
import { packagePurl } from './purl.js';

interface Component {
  type: 'application' | 'library' | 'operating-system' | 'file';
  'bom-ref'?: string;
  name: string;
  version?: string;
  description?: string;
  /** `excluded` is what the build needed and the package does not. */
  scope?: 'required' | 'excluded';
  hashes?: { alg: string; content: string }[];
  licenses?: { license: { name: string } }[];
  purl?: string;
  components?: Component[];
  pedigree?: { ancestors: Component[] };
  properties?: { name: string; value: string }[];
}

interface Bom {
  $schema: string;
  bomFormat: 'CycloneDX';
  specVersion: '1.6';
  serialNumber: string;
  version: 1;
  metadata: {
    timestamp: string;
    lifecycles: { phase: 'build' }[];
    tools: { components: Component[] };
    component: Component;
  };
  components: Component[];
  dependencies: { ref: string; dependsOn?: string[] }[];
}

/** Where a package's SBOM lies: beside it, by CycloneDX's name for such files. */
export function sbomPath(packagePath: string): string {
  return `${packagePath}.cdx.json`;
}

/** `makeSbom` as the text of its file. */
export const sbomText = (facts: BuildFacts, record: PackageRecord): string =>
  `${JSON.stringify(makeSbom(facts, record), null, 2)}\n`;

/** Publishes a package's SBOM beside it. */
export async function writeSbom(packagePath: string, text: string): Promise<Published> {
  return writeAtomic(Buffer.from(text), sbomPath(packagePath));
}

const MAX_SBOM_BYTES = 32 * 2 ** 20;
const Described = z.object({
  metadata: z.object({ component: z.object({ hashes: z.array(z.object({ content: z.string() })) }) }),
});

/** Whether the SBOM beside a package is there and describes the package with this SHA-256. */
export async function hasSbom(packagePath: string, sha256: string): Promise<boolean> {
  const text = await readCapped(sbomPath(packagePath), MAX_SBOM_BYTES).catch(() => null);
  if (text === null) return false;
  try {
    const { metadata } = Described.parse(JSON.parse(text.toString('utf8')));
    return metadata.component.hashes.some(({ content }) => content === sha256);
  } catch {
    return false;
  }
}

/**
 * The CycloneDX 1.6 bill of one of the cell's packages: its files, the source they come from, the kernel that it is for, and,
 * out of scope at run time, what built it. The same for every build of the same input: nothing of `facts.run` is in it, its
 * time is the epoch, its serial number a hash of the rest.
 * @internal
 */
export function makeSbom(facts: BuildFacts, record: PackageRecord): Bom {
  const { distro, roles, builder, packageType } = facts;
  const purl = packagePurl(packageType, record.package, record.version, {
    arch: record.architecture,
    distro,
    vendor: 'dkms2bin',
  });
  // Files for every kernel come from the source alone.
  const built = record.architecture !== 'all';
  const sources = [facts.source, ...(built ? facts.buildDepends : [])].map((each) =>
    sourceComponent(each, facts),
  );
  const tools = built
    ? facts.installed.flatMap(({ name, version, arch }): Component[] => {
        const role = roleOf(name, roles);
        if (role === undefined) return [];
        const ref = packagePurl(packageType, name, version, { distro, ...(arch !== undefined && { arch }) });
        return [
          {
            type: role === 'kernel image' ? 'operating-system' : 'application',
            'bom-ref': ref,
            name,
            version,
            scope: role === 'kernel image' ? 'required' : 'excluded',
            purl: ref,
            properties: [{ name: 'dkms2bin:role', value: role }],
          },
        ];
      })
    : [];
  const components = [...sources, ...tools].sort((a, b) => compare(a['bom-ref'], b['bom-ref']));
  const bom: Omit<Bom, 'serialNumber'> = {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: {
      timestamp: new Date(facts.epoch * 1000).toISOString().replace('.000Z', 'Z'),
      lifecycles: [{ phase: 'build' }],
      tools: { components: [{ type: 'application', name: 'dkms2bin', version: builder.dkms2bin }] },
      component: {
        type: 'library',
        'bom-ref': purl,
        name: record.package,
        version: record.version,
        hashes: [{ alg: 'SHA-256', content: record.sha256 }],
        purl,
        components: record.files.map((file) => fileComponent(file, record)),
        pedigree: { ancestors: sources.slice(0, 1).map(({ scope: _, 'bom-ref': __, ...source }) => source) },
        properties: [
          { name: 'dkms2bin:file', value: record.file },
          { name: 'dkms2bin:module', value: `${facts.module.name} ${facts.module.version}` },
          ...(built ? [{ name: 'dkms2bin:kernel', value: facts.kernel }] : []),
        ],
      },
    },
    components,
    dependencies: [
      { ref: purl, dependsOn: components.flatMap((each) => each['bom-ref'] ?? []) },
      ...components.flatMap((each) => (each['bom-ref'] === undefined ? [] : [{ ref: each['bom-ref'] }])),
    ],
  };
  const { $schema, bomFormat, specVersion, ...rest } = bom;
  return { $schema, bomFormat, specVersion, serialNumber: serialNumber(bom), ...rest };
}

function fileComponent(
  { path, sha256, module }: PackageRecord['files'][number],
  of: PackageRecord,
): Component {
  return {
    type: 'file',
    'bom-ref': `${of.file}${path}`,
    name: path,
    ...(module?.version !== undefined && { version: module.version }),
    hashes: [{ alg: 'SHA-256', content: sha256 }],
    // A module's own words (`GPL v2`, `Dual BSD/GPL`) are no SPDX identifiers.
    ...(module?.license !== undefined && { licenses: [{ license: { name: module.license } }] }),
  };
}

function sourceComponent(source: SourceRecord, of: BuildFacts): Component {
  const { package: found, digest, text } = source;
  const purl = found && sourcePurl(found, of);
  const name = found?.name ?? basename(text);
  return {
    type: 'library',
    'bom-ref': purl ?? `source:${name}@${Object.values(digest)[0] ?? ''}`,
    name,
    ...(found && { version: found.version }),
    scope: 'excluded',
    ...(digest.sha256 !== undefined && { hashes: [{ alg: 'SHA-256', content: digest.sha256 }] }),
    ...(purl !== undefined && { purl }),
    properties: [{ name: 'dkms2bin:role', value: 'source' }],
  };
}

/** A UUID of the document's content, version 8 (RFC 9562: its bits are the maker's own). */
function serialNumber(content: unknown): string {
  const hash = createHash('sha256').update(JSON.stringify(content)).digest();
  hash[6] = ((hash[6] ?? 0) & 0x0f) | 0x80;
  hash[8] = ((hash[8] ?? 0) & 0x3f) | 0x80;
  const hex = hash.toString('hex');
  const groups = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)];
  return `urn:uuid:${groups.join('-')}`;
}

/** By code units, whatever the locale. */
function compare(a = '', b = ''): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
