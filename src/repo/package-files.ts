import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readdir, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { compareRpmVersions, compareVersions } from '../formats/versions.js';
import { inFile, Unreadable } from '../formats/bytes.js';
import { readDebHeader, type DebHeader } from '../formats/deb.js';
import { noRepository } from './repository.js';
import { evrOf, readRpmHeader, type RpmHeader } from '../formats/rpm-header.js';

interface RepoFile {
  /** Relative to the repository, with slashes. */
  path: string;
  name: string;
  /** As its kind of package writes it: `[epoch:]version[-revision]`. */
  version: string;
  architecture: string;
  /** Bytes. */
  size: number;
  sha256: string;
}

export type DebFile = RepoFile & { format: 'deb'; header: DebHeader };
export type RpmFile = RepoFile & { format: 'rpm'; header: RpmHeader };
export type PackageFile = DebFile | RpmFile;

export interface LeftOut {
  path: string;
  reason: string;
}

export interface Scan {
  /** By name, version, architecture and path, so that the metadata are a function of the packages alone. */
  packages: PackageFile[];
  /** Files that look like packages but cannot be offered. */
  leftOut: LeftOut[];
  /** Symbolic links that look like packages; they are not followed. */
  links: string[];
}

const SUFFIX = /\.(deb|rpm)$/;
// What every client of either kind takes in a URL as it stands: apt before 1.9 does not escape names.
const FILE_NAME = /^[\x21\x24\x26-\x3e\x40-\x5b\x5d-\x7e]+$/;

/** Reads all packages in a folder and the folders in it, but for hidden ones. */
export async function scan(dir: string, signal: AbortSignal): Promise<Scan> {
  const result: Scan = { packages: [], leftOut: [], links: [] };
  const walk = async (folder: string): Promise<void> => {
    const entries = await readdir(join(dir, folder), { withFileTypes: true });
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
      if (entry.name.startsWith('.')) continue;
      if (entry.isDirectory()) await walk(path);
      else if (SUFFIX.test(entry.name) && entry.isSymbolicLink()) result.links.push(path);
      else if (SUFFIX.test(entry.name)) await take(path);
    }
  };
  const take = async (path: string): Promise<void> => {
    if (signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
    try {
      if (!FILE_NAME.test(path)) throw new Unreadable('characters in its name that a URL cannot carry');
      const found = await readPackage(join(dir, path), path);
      if (found) result.packages.push(found);
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      result.leftOut.push({ path, reason: error.message });
    }
  };
  try {
    await walk('');
  } catch (error) {
    if (error instanceof Dkms2binError) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw await noRepository(dir);
    throw new Dkms2binError('usage', `Cannot read the packages in ${dir}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  result.packages.sort(
    (a, b) =>
      order(a.name, b.name) ||
      comparePackageVersions(a, b) ||
      order(a.architecture, b.architecture) ||
      order(a.path, b.path),
  );
  return result;
}

export function comparePackageVersions(a: PackageFile, b: PackageFile): number {
  return a.format === 'deb'
    ? compareVersions(a.version, b.version)
    : compareRpmVersions(a.version, b.version);
}

function order(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** Undefined when the file went away meanwhile. Throws Unreadable for what is no package. */
export async function readPackage(full: string, path: string): Promise<PackageFile | undefined> {
  let file: FileHandle;
  try {
    // Non-blocking: a FIFO must not hang the scan.
    file = await open(full, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    throw new Unreadable(code === 'EACCES' ? 'permission denied' : message, { cause: error });
  }
  try {
    const before = await file.stat();
    if (!before.isFile()) throw new Unreadable('not a regular file');
    // The header first: a file that is no package need not be read to its end.
    const source = inFile(file, before.size);
    const described = path.endsWith('.deb')
      ? debFile(await readDebHeader(source))
      : rpmFile(await readRpmHeader(source));
    const sha256 = await digest(file);
    const after = await file.stat();
    if (after.size !== before.size || after.mtimeMs !== before.mtimeMs) {
      throw new Unreadable('it changed while it was read');
    }
    return { path, size: before.size, sha256, ...described };
  } finally {
    await file.close();
  }
}

type Described = Omit<DebFile, 'path' | 'size' | 'sha256'> | Omit<RpmFile, 'path' | 'size' | 'sha256'>;

const debFile = (header: DebHeader): Described => {
  const { name, version, architecture } = header;
  return { format: 'deb', name, version, architecture, header };
};

const rpmFile = (header: RpmHeader): Described => {
  const { name, arch } = header;
  return { format: 'rpm', name, version: evrOf(header), architecture: arch, header };
};

async function digest(file: FileHandle): Promise<string> {
  const hash = createHash('sha256');
  const chunk = Buffer.alloc(1 << 20);
  for (let at = 0; ;) {
    const { bytesRead } = await file.read(chunk, 0, chunk.length, at);
    if (bytesRead === 0) return hash.digest('hex');
    hash.update(chunk.subarray(0, bytesRead));
    at += bytesRead;
  }
}
