import { Unreadable } from './bytes.js';
import { cleanPath, MAX_PATH, type PackageEntry } from './package.js';

const HEADER = 110;
const FILE_TYPE = 0o170000;
const FOLDER = 0o040000;
const TYPES: Partial<Record<number, PackageEntry['type']>> = { 0o100000: 'file', 0o120000: 'symlink' };
const NOTHING = Buffer.alloc(0);

/** A cpio archive in the new format (newc), as rpm writes it; folders are left out. Throws Unreadable. */
export function cpioFiles(cpio: Buffer, maxEntries: number): PackageEntry[] {
  const files = new Map<string, PackageEntry>();
  /** Of the hard links to one inode only the last has its bytes. */
  const contents = new Map<string, Buffer>();
  for (const { path, mode, inode, links, body } of cpioEntries(cpio, maxEntries)) {
    if (files.has(path)) throw new Unreadable(`${path} is there twice`);
    const kind = mode & FILE_TYPE;
    if (kind === FOLDER) continue;
    const type = TYPES[kind] ?? 'special';
    // Some packagers number no inodes where there are no links.
    const key = links > 1 ? `inode ${inode}` : path;
    if (type === 'file' && (body.length > 0 || !contents.has(key))) contents.set(key, body);
    const content = (): Buffer => (type === 'file' && contents.get(key)) || NOTHING;
    files.set(path, {
      path,
      type,
      mode: mode & 0o7777,
      get size() {
        return content().length;
      },
      ...(type === 'symlink' && { target: body.toString('utf8') }),
      bytes: content,
    });
  }
  return [...files.values()];
}

interface CpioEntry {
  path: string;
  /** Type and permission bits. */
  mode: number;
  inode: number;
  links: number;
  /** A file's content, a symbolic link's target; a view of the archive. */
  body: Buffer;
}

function* cpioEntries(cpio: Buffer, maxEntries: number): Generator<CpioEntry> {
  let count = 0;
  for (let at = 0; at < cpio.length;) {
    const intro = cpio.toString('latin1', at, at + HEADER);
    if (!/^07070[12][0-9A-Fa-f]{104}$/.test(intro)) {
      throw new Unreadable(`a damaged cpio header at byte ${at}`);
    }
    const field = (n: number): number => parseInt(intro.slice(6 + n * 8, 14 + n * 8), 16);
    const [inode, mode, links, size, nameSize] = [field(0), field(1), field(4), field(6), field(11)];
    const start = at + four(HEADER + nameSize);
    if (nameSize < 1 || nameSize > MAX_PATH || start + size > cpio.length) {
      throw new Unreadable(`its payload is cut off at byte ${at}`);
    }
    const name = cpio.toString('utf8', at + HEADER, at + HEADER + nameSize - 1);
    if (name === 'TRAILER!!!') return;
    if (++count > maxEntries) throw new Unreadable(`more than ${maxEntries} files`);
    at = start + four(size);
    const path = cleanPath(name);
    if (path === null || path === '/') throw new Unreadable('a path that no package may have');
    yield { path, mode, inode, links, body: cpio.subarray(start, start + size) };
  }
}

const four = (size: number): number => Math.ceil(size / 4) * 4;
