import { readCapped } from '../lib/read-capped.js';
import { inMemory, Unreadable } from './bytes.js';
import { cpioFiles } from './cpio.js';
import { decompress, type Compression } from './decompress.js';
import {
  cleanPath,
  PACKAGE_LIMITS,
  readable,
  type PackageEntry,
  type PackageFolder,
  type PackageLimits,
} from './package.js';
import { readRpmHeader, type RpmHeader } from './rpm-header.js';

export interface Rpm {
  header: RpmHeader;
  /** In the payload's order, each path once; folders are left out. */
  files: PackageEntry[];
  /** Those that are the package's own. */
  folders: PackageFolder[];
  /** The payload unpacked: a cpio archive (newc). */
  cpio: Buffer;
}

const COMPRESSIONS = new Map<string, Compression>([
  ['gzip', 'gzip'],
  ['xz', 'xz'],
  ['zstd', 'zstd'],
  ['none', 'none'],
]);

/** Reads an .rpm's header and files into memory; nothing goes to the disk. Throws as `parseRpm` does. */
export async function readRpmFile(path: string, limits: Partial<PackageLimits> = {}): Promise<Rpm> {
  const caps = { ...PACKAGE_LIMITS, ...limits };
  return parseRpm(await readCapped(path, caps.packed), path, caps);
}

/**
 * The same for bytes that are there; `name` is what errors call them. Throws fault `usage` for what is damaged, cut off,
 * beyond the limits or no RPM package, `host` when xz or zstd is missing.
 */
export async function parseRpm(
  bytes: Buffer,
  name: string,
  limits: Partial<PackageLimits> = {},
): Promise<Rpm> {
  const caps = { ...PACKAGE_LIMITS, ...limits };
  return readable(name, 'RPM package', async () => {
    if (bytes.length > caps.packed) {
      throw new Unreadable(`${bytes.length} bytes, the limit is ${caps.packed}`);
    }
    const header = await readRpmHeader(inMemory(bytes));
    const { format, compressor } = header.payload;
    const compression = COMPRESSIONS.get(compressor);
    if (compression === undefined || format !== 'cpio') {
      throw new Unreadable(`its payload is ${format} with ${compressor}`);
    }
    const packed = bytes.subarray(header.headerRange[1]);
    // A package without files may have nothing at all there.
    const cpio =
      packed.length === 0 ? packed : await decompress(packed, compression, caps.data, `${name}: payload`);
    return { header, files: cpioFiles(cpio, caps.entries), folders: foldersOf(header), cpio };
  });
}

function foldersOf({ files }: RpmHeader): PackageFolder[] {
  return files.flatMap(({ path: written, type, mode }) => {
    const path = type === 'dir' ? cleanPath(written) : null;
    return path === null ? [] : [{ path, mode: mode & 0o7777 }];
  });
}
