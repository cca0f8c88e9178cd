import { open } from 'node:fs/promises';
import { Dkms2binError } from '../model/errors.js';
import { decompress, type Compression } from './decompress.js';
import { readAt, Unreadable } from './package-file.js';
import { cleanPath, DEB_LIMITS, type DebEntry, type DebLimits } from './deb.js';
import { readRpm, type RpmHeader } from './rpm-header.js';

export interface Rpm {
  header: RpmHeader;
  /** In the payload's order, each path once; folders are left out. */
  files: DebEntry[];
  /** The payload unpacked: a cpio archive (newc). */
  cpio: Buffer;
}

const COMPRESSIONS = new Map<string, Compression>([
  ['gzip', 'gzip'],
  ['xz', 'xz'],
  ['zstd', 'zstd'],
  ['none', 'none'],
]);

/**
 * Reads an .rpm's header and files into memory; nothing goes to the disk. Throws fault `usage` for what is damaged, cut off,
 * beyond the limits of a .deb or no RPM package, `host` when xz or zstd is missing.
 */
export async function readRpmFile(path: string, limits: Partial<DebLimits> = {}): Promise<Rpm> {
  const caps = { ...DEB_LIMITS, ...limits };
  const bad = (why: string): Dkms2binError =>
    new Dkms2binError('usage', `${path} is no readable RPM package: ${why}`);
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    if (size > caps.packed) throw bad(`${size} bytes, the limit is ${caps.packed}`);
    const header = await readRpm(file, size);
    const compression = COMPRESSIONS.get(header.payload.compressor);
    if (compression === undefined || header.payload.format !== 'cpio') {
      throw bad(`its payload is ${header.payload.format} with ${header.payload.compressor}`);
    }
    const start = header.headerRange[1];
    const packed = await readAt(file, start, size - start);
    // A package without files may have nothing at all there.
    const cpio =
      packed.length === 0 ? packed : await decompress(packed, compression, caps.data, `${path}: payload`);
    return { header, files: entries(cpio, caps.entries, bad), cpio };
  } catch (error) {
    if (error instanceof Unreadable) throw bad(error.message);
    throw error;
  }
}

const HEADER = 110;
const MAX_NAME = 4096;
const four = (size: number): number => Math.ceil(size / 4) * 4;

/** A cpio archive in the new format, as rpm writes it. */
function entries(cpio: Buffer, maxEntries: number, bad: (why: string) => Dkms2binError): DebEntry[] {
  const found = new Map<string, DebEntry>();
  /** Of the hard links to one inode only the last has its bytes. */
  const content = new Map<string, Buffer>();
  let count = 0;
  for (let at = 0; at < cpio.length;) {
    const intro = cpio.toString('latin1', at, at + HEADER);
    if (!/^07070[12][0-9A-Fa-f]{104}$/.test(intro)) throw bad(`a damaged cpio header at byte ${at}`);
    const field = (n: number): number => parseInt(intro.slice(6 + n * 8, 14 + n * 8), 16);
    const [inode, mode, links, size, nameSize] = [field(0), field(1), field(4), field(6), field(11)];
    const bytes = at + four(HEADER + nameSize);
    if (nameSize < 1 || nameSize > MAX_NAME || bytes + size > cpio.length) {
      throw bad(`its payload is cut off at byte ${at}`);
    }
    const name = cpio.toString('utf8', at + HEADER, at + HEADER + nameSize - 1);
    if (name === 'TRAILER!!!') break;
    if (++count > maxEntries) throw bad(`more than ${maxEntries} files`);
    at = bytes + four(size);
    const path = cleanPath(name);
    if (path === null || path === '/') throw bad('a path that no package may have');
    if (found.has(path)) throw bad(`${path} is there twice`);
    const body = cpio.subarray(bytes, bytes + size);
    const kind = mode & 0o170000;
    if (kind === 0o040000) continue;
    const type = kind === 0o100000 ? 'file' : kind === 0o120000 ? 'symlink' : 'special';
    // Some packagers number no inodes where there are no links.
    const key = links > 1 ? `inode ${inode}` : path;
    if (type === 'file' && (size > 0 || !content.has(key))) content.set(key, body);
    found.set(path, {
      path,
      type,
      mode: mode & 0o7777,
      get size() {
        return type === 'file' ? content.get(key)!.length : 0;
      },
      ...(type === 'symlink' && { target: body.toString('utf8') }),
      bytes: () => (type === 'file' ? content.get(key)! : Buffer.alloc(0)),
    });
  }
  return [...found.values()];
}
