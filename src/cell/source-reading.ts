import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseDeb } from '../formats/deb.js';
import { PACKAGE_LIMITS, type PackageEntry } from '../formats/package.js';
import { parseRpm } from '../formats/rpm.js';
import { evrOf } from '../formats/rpm-header.js';
import type { Guest } from '../guest/guest.js';
import { readCapped } from '../lib/read-capped.js';
import { Dkms2binError } from '../model/errors.js';
import { PackageName, Version } from '../model/forms.js';
import { hazardsOf } from '../pack/hazards.js';
import { sharedFiles, type SharedFiles } from '../pack/shared-files.js';
import { confOf, packageConf, type ConfText, type Prepared } from './source.js';

/**
 * What this host reads of a cell's source before any of its code runs: what is packed beside the modules, and which relations
 * the packages have, follows from this and from nothing that the build VM says.
 */
export interface SourceReading extends SharedFiles {
  /** Null for a folder or a tarball. */
  package: { name: string; version: string } | null;
  conf: ConfText;
  /** What of the extras could hurt a target, a line each. */
  hazards: string[];
}

/** Where a package is that the guest has fetched by itself. */
export interface Fetched {
  guest: Guest;
  /** In the guest. */
  path: string;
  /** A folder of this host's, for the copy. */
  dir: string;
}

/** Reads the source; of a package that it is the one whose digest is known. Throws fault `usage` or `transient`. */
export async function readSource(
  { source, digest }: Pick<Prepared, 'source' | 'digest'>,
  fetched: Fetched | null,
  signal: AbortSignal,
): Promise<SourceReading> {
  if (source.kind === 'folder' || source.kind === 'tarball')
    return { package: null, conf: await confOf(source, signal), extras: [], left: [], hazards: [] };
  const bytes =
    source.kind === 'repo' ? await copyOf(fetched) : await readCapped(source.path, PACKAGE_LIMITS.packed);
  if (createHash('sha256').update(bytes).digest('hex') !== digest) {
    throw source.kind === 'repo'
      ? new Dkms2binError(
          'transient',
          `The mirror gave the guest another ${source.text} than its index names`,
        )
      : new Dkms2binError('usage', `${source.text} has changed while it was read`);
  }
  return source.kind === 'rpm' ? readRpm(bytes, source.text) : readDebPackage(bytes, source.text);
}

/** The guest has run nothing of the package yet. */
async function copyOf(fetched: Fetched | null): Promise<Buffer> {
  if (!fetched) throw new Error('a package that nobody has fetched');
  const to = join(fetched.dir, 'fetched.deb');
  try {
    await fetched.guest.fetch(fetched.path, to, PACKAGE_LIMITS.packed);
    return await readFile(to);
  } finally {
    await rm(to, { force: true });
  }
}

async function readDebPackage(bytes: Buffer, text: string): Promise<SourceReading> {
  const { control, files } = await parseDeb(bytes, text);
  return reading(text, { name: control.get('Package'), version: control.get('Version') }, files);
}

async function readRpm(bytes: Buffer, text: string): Promise<SourceReading> {
  const { header, files } = await parseRpm(bytes, text);
  return reading(text, { name: header.name, version: evrOf(header) }, files);
}

function reading(
  text: string,
  said: { name: string | undefined; version: string | undefined },
  files: readonly PackageEntry[],
): SourceReading {
  const name = PackageName.safeParse(said.name);
  const version = Version.safeParse(said.version);
  if (!name.success || !version.success) {
    const words = JSON.stringify(`${said.name ?? ''} ${said.version ?? ''}`).slice(0, 200);
    throw new Dkms2binError('usage', `${text} calls itself what no package can be called: ${words}`);
  }
  const shared = sharedFiles(files);
  const packed = new Set(shared.extras.map(({ path }) => path));
  return {
    package: { name: name.data, version: version.data },
    conf: packageConf(files),
    hazards: hazardsOf(files.filter(({ path }) => packed.has(path))),
    ...shared,
  };
}
