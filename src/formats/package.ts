import { Dkms2binError } from '../model/errors.js';
import { Unreadable } from './bytes.js';

/** A folder that a package lists. */
export interface PackageFolder {
  /** As an entry's path. */
  path: string;
  /** Permission bits, setuid, setgid and sticky included. */
  mode: number;
}

/** One entry of a package's data; folders are left out. */
export interface PackageEntry {
  /** Absolute path on the target, without `.`, `..` and control bytes. */
  path: string;
  /** `special` is a device or a pipe. A hard link is a file with the bytes of the one that it is linked to. */
  type: 'file' | 'symlink' | 'special';
  /** Permission bits, setuid, setgid and sticky included. */
  mode: number;
  /** Bytes of a file; 0 for the others. */
  size: number;
  /** Where a symlink points, as written. */
  target?: string;
  /** A file's content, a view on the unpacked data; empty for the others. */
  bytes(): Buffer;
}

export interface PackageLimits {
  /** Bytes of the package. */
  packed: number;
  /** Bytes of what a .deb says of itself, unpacked. */
  control: number;
  /** Bytes of its files, unpacked. */
  data: number;
  /** Entries of one archive. */
  entries: number;
}

export const PACKAGE_LIMITS: PackageLimits = {
  packed: 512 * 2 ** 20,
  // Real ones are some KiB; those of packages with very many files reach a few MiB.
  control: 64 * 2 ** 20,
  data: 1024 * 2 ** 20,
  entries: 100_000,
};

/** Longest path or link of an entry. */
export const MAX_PATH = 4096;

/** `./lib/x`, `lib/x` and `/lib/x` are `/lib/x`; null for `..`, control bytes, too long and empty ones. */
export function cleanPath(name: string): string | null {
  if (name === '' || name.length > MAX_PATH || /[\x00-\x1f\x7f-\x9f]/.test(name)) return null;
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  return parts.includes('..') ? null : `/${parts.join('/')}`;
}

/** What `read` resolves to; what it finds unreadable becomes an error of fault `usage` that names the file and its kind. */
export async function readable<T>(path: string, kind: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    const hint = error.cause instanceof Dkms2binError ? error.cause.hint : undefined;
    throw new Dkms2binError('usage', `${path} is not a readable ${kind}: ${error.message}`, {
      ...(hint !== undefined && { hint }),
      cause: error,
    });
  }
}
