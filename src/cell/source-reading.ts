import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseDeb } from '../formats/deb.js';
import { PACKAGE_LIMITS, type PackageEntry, type PackageFolder } from '../formats/package.js';
import { parseRpm } from '../formats/rpm.js';
import { evrOf, type RpmHeader } from '../formats/rpm-header.js';
import type { PackageForm } from '../distro/row.js';
import type { Guest } from '../guest/guest.js';
import { fileOwners } from '../guest/programs/file-owners.js';
import { readCapped } from '../lib/read-capped.js';
import { Dkms2binError } from '../model/errors.js';
import { PackageName, Version } from '../model/forms.js';
import { hazardsOf, overlapLines } from '../pack/hazards.js';
import { dkmsHooks, packageHooks, scriptLines, type Script } from '../pack/not-carried.js';
import { sharedFiles, type SharedFiles } from '../pack/shared-files.js';
import {
  confOf,
  confsInTar,
  folderTar,
  packageConf,
  textIn,
  type ConfText,
  type LocalSource,
  type Prepared,
} from './source.js';

/**
 * What this host reads of a cell's source before any of its code runs: what is packed beside the modules, and which relations
 * the packages have, follows from this and from nothing that the build VM says.
 */
export interface SourceReading extends SharedFiles {
  /** Null for a folder or a tarball. */
  package: ReadPackage | null;
  conf: ConfText;
  /** What its maintainer scripts and dkms.conf would have done on a machine that installs it, a line each. */
  notCarried: string[];
  /** What of the extras could hurt a target, a line each. */
  hazards: string[];
  /** Which of the extras packages of the distro have as well, a line each; empty until the build VM's lists have been asked. */
  overlaps: string[];
}

export interface ReadPackage {
  name: string;
  version: string;
  /** Its relations to other packages, as its own package manager has them. */
  relations: { form: 'deb'; control: ReadonlyMap<string, string> } | { form: 'rpm'; header: RpmHeader };
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
  if (source.kind === 'folder' || source.kind === 'tarball') {
    return {
      ...{ package: null, conf: await confOf(source, signal) },
      ...{ extras: [], links: [], folders: [], left: [], hazards: [], overlaps: [] },
      notCarried: scriptLines(await localHooks(source, signal)),
    };
  }
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

/** Files and links that are packed, without those of the package's own folder of documentation. */
function placesOf({ package: read, extras, links }: SourceReading): string[] {
  const own = `/usr/share/doc/${read?.name ?? ''}/`;
  return [...extras, ...links].map(({ path }) => path).filter((path) => !path.startsWith(own));
}

/** The same reading, with what packages of a guest in which nothing but the distro's has run have in its places. */
export async function withOverlaps(
  read: SourceReading,
  guest: Guest,
  form: PackageForm,
): Promise<SourceReading> {
  const owned = await fileOwners(guest, placesOf(read), form);
  const others = owned.filter((each) => each.package !== read.package?.name);
  return { ...read, overlaps: overlapLines(others) };
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
  const deb = await parseDeb(bytes, text);
  const { control, scripts } = deb;
  const said = { name: control.get('Package'), version: control.get('Version') };
  return reading(text, { ...said, scripts, relations: { form: 'deb', control } }, deb);
}

async function readRpm(bytes: Buffer, text: string): Promise<SourceReading> {
  const rpm = await parseRpm(bytes, text);
  const { header } = rpm;
  const { name, scripts } = header;
  return reading(text, { name, version: evrOf(header), scripts, relations: { form: 'rpm', header } }, rpm);
}

interface Said extends Pick<ReadPackage, 'relations'> {
  name: string | undefined;
  version: string | undefined;
  scripts: readonly Script[];
}

function reading(
  text: string,
  said: Said,
  { files, folders }: { files: readonly PackageEntry[]; folders: readonly PackageFolder[] },
): SourceReading {
  const name = PackageName.safeParse(said.name);
  const version = Version.safeParse(said.version);
  if (!name.success || !version.success) {
    const words = JSON.stringify(`${said.name ?? ''} ${said.version ?? ''}`).slice(0, 200);
    throw new Dkms2binError('usage', `${text} calls itself what no package can be called: ${words}`);
  }
  const shared = sharedFiles(files, folders);
  const packed = new Set([...shared.extras, ...shared.links].map(({ path }) => path));
  return {
    package: { name: name.data, version: version.data, relations: said.relations },
    conf: packageConf(files),
    hazards: hazardsOf(files.filter(({ path }) => packed.has(path))),
    notCarried: scriptLines([...said.scripts, ...packageHooks(files)]),
    overlaps: [],
    ...shared,
  };
}

/** The scripts that a folder's dkms.conf names for the machine itself; of a tarball nothing but the dkms.conf is looked at. */
async function localHooks(
  { kind, path }: Extract<LocalSource, { kind: 'folder' | 'tarball' }>,
  signal: AbortSignal,
): Promise<Script[]> {
  try {
    if (kind === 'folder') {
      const tar = await folderTar(path, signal);
      return dkmsHooks(textIn(tar, 'dkms.conf') ?? '', (file) => textIn(tar, file));
    }
    return dkmsHooks(await confsInTar(path, signal), () => undefined);
  } catch (error) {
    if (signal.aborted) throw error;
    // What cannot be read has been told by then.
    return [];
  }
}
