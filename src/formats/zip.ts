import { inflateRawSync } from 'node:zlib';
import { Unreadable } from './bytes.js';
import { cleanPath, MAX_PATH } from './package.js';

export interface ZipEntry {
  /** Absolute, as `cleanPath` makes it. */
  path: string;
  type: 'file' | 'symlink' | 'folder' | 'special';
  /** Permission bits; 0644 of archives that were not made on Unix. */
  mode: number;
  /** Where a link points, as written. */
  target: string;
  bytes: Buffer;
}

const END = 0x06054b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;

/**
 * The entries of a zip archive (PKWARE's APPNOTE), by its central directory. Throws Unreadable where it is damaged, encrypted,
 * too long, spread over several files, or of a form that sources do not have (zip64, methods other than stored and deflated).
 */
export function* zipEntries(zip: Buffer, limits: { entries: number; unpacked: number }): Generator<ZipEntry> {
  const end = endOf(zip);
  const count = zip.readUInt16LE(end + 10);
  let at = zip.readUInt32LE(end + 16);
  if (count === 0xffff || at === 0xffffffff) throw new Unreadable('a zip64 archive');
  if (count > limits.entries) throw new Unreadable(`more than ${limits.entries} entries`);
  let left = limits.unpacked;
  for (let seen = 0; seen < count; seen++) {
    const entry = centralEntry(zip, at);
    at = entry.next;
    const path = cleanPath(entry.name.replaceAll('\\', '/'));
    if (path === null) throw new Unreadable('a path that no source may have');
    left -= entry.size;
    if (left < 0) throw new Unreadable(`more than ${limits.unpacked} bytes of files`);
    const bytes = entry.folder ? Buffer.alloc(0) : contentOf(zip, entry);
    const type = typeOf(entry);
    const target = type === 'symlink' ? bytes.toString('utf8') : '';
    if (target.length > MAX_PATH) throw new Unreadable('too long a link');
    yield {
      path,
      type,
      mode: entry.mode & 0o777 || 0o644,
      target,
      bytes: type === 'file' ? bytes : Buffer.alloc(0),
    };
  }
}

/** Where the record at the end begins; a comment of up to 64 KiB may follow. */
function endOf(zip: Buffer): number {
  for (let at = zip.length - 22; at >= Math.max(0, zip.length - 22 - 0xffff); at--) {
    if (zip.readUInt32LE(at) === END && at + 22 + zip.readUInt16LE(at + 20) === zip.length) return at;
  }
  throw new Unreadable('cut off before its end');
}

interface Central {
  name: string;
  folder: boolean;
  /** Unix type and permissions; 0 of other systems. */
  mode: number;
  method: number;
  packed: number;
  size: number;
  local: number;
  next: number;
}

function centralEntry(zip: Buffer, at: number): Central {
  if (at + 46 > zip.length || zip.readUInt32LE(at) !== CENTRAL) throw new Unreadable(`damaged at byte ${at}`);
  if ((zip.readUInt16LE(at + 8) & 1) !== 0) throw new Unreadable('encrypted');
  const nameLength = zip.readUInt16LE(at + 28);
  const next = at + 46 + nameLength + zip.readUInt16LE(at + 30) + zip.readUInt16LE(at + 32);
  if (next > zip.length) throw new Unreadable('cut off');
  const name = zip.toString('utf8', at + 46, at + 46 + nameLength);
  const unix = zip.readUInt8(at + 5) === 3;
  return {
    name,
    folder: name.endsWith('/'),
    mode: unix ? zip.readUInt16LE(at + 40) : 0,
    method: zip.readUInt16LE(at + 10),
    packed: zip.readUInt32LE(at + 20),
    size: zip.readUInt32LE(at + 24),
    local: zip.readUInt32LE(at + 42),
    next,
  };
}

function typeOf({ folder, mode }: Central): ZipEntry['type'] {
  if (folder) return 'folder';
  const type = mode & 0o170000;
  if (type === 0o120000) return 'symlink';
  return type === 0 || type === 0o100000 ? 'file' : 'special';
}

function contentOf(zip: Buffer, { local, packed, size, method }: Central): Buffer {
  // What is counted is what comes out.
  if (method === 0 && packed !== size) throw new Unreadable('a stored file of two sizes');
  if (local + 30 > zip.length || zip.readUInt32LE(local) !== LOCAL)
    throw new Unreadable(`damaged at byte ${local}`);
  const from = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28);
  if (from + packed > zip.length) throw new Unreadable('cut off');
  const bytes = zip.subarray(from, from + packed);
  if (method === 0) return bytes;
  if (method !== 8) throw new Unreadable(`packed by method ${method}, which is not deflate`);
  try {
    const made = inflateRawSync(bytes, { maxOutputLength: Math.max(1, size) });
    if (made.length === size) return made;
  } catch {
    // Told below.
  }
  throw new Unreadable('a file does not unpack to its size');
}
