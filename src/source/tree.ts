import { posix } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { runBytes } from '../lib/exec.js';
import { EPOCH } from '../lib/epoch.js';
import { Unreadable } from '../formats/bytes.js';
import { compressionOf, decompress } from '../formats/decompress.js';
import { makeTar, tarEntries, type NewEntry } from '../formats/tar.js';
import { zipEntries } from '../formats/zip.js';

/** Of a source that is looked into on this host. */
export const TREE_LIMITS = {
  /** Bytes of an archive. */
  packed: 512 * 2 ** 20,
  /** Bytes of its files. */
  unpacked: 2 ** 30,
  entries: 200_000,
  /** Seconds of tar. */
  seconds: 300,
};

export interface TreeEntry {
  type: 'file' | 'symlink' | 'folder';
  /** Permission bits. */
  mode: number;
  bytes: Buffer;
  /** Of a link, as written. */
  target: string;
}

/**
 * A source's files in memory, by their paths from its top, without a slash in front. Nothing of it lies on this host's disk,
 * so no name and no link of it can lead anywhere.
 */
export class SourceTree {
  constructor(private readonly entries: ReadonlyMap<string, TreeEntry>) {}

  get paths(): string[] {
    return [...this.entries.keys()];
  }

  /** Of all its files. */
  get bytes(): number {
    return [...this.entries.values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  /** The file at a path, links inside the tree followed; undefined when there is none. */
  file(path: string): TreeEntry | undefined {
    const seen = new Set<string>();
    for (let at = path; !seen.has(at);) {
      seen.add(at);
      const entry = this.entries.get(at);
      if (entry?.type !== 'symlink') return entry?.type === 'file' ? entry : undefined;
      if (entry.target.startsWith('/')) return undefined;
      at = posix.normalize(posix.join(posix.dirname(at), entry.target));
    }
    return undefined;
  }

  /** A file's text; undefined when there is none, or it is far larger than what people write. */
  text(path: string): string | undefined {
    const bytes = this.file(path)?.bytes;
    return bytes && bytes.length <= 2 ** 20 ? bytes.toString('utf8') : undefined;
  }

  hasFolder(path: string): boolean {
    return path === '' || this.paths.some((each) => each.startsWith(`${path}/`));
  }

  /** The folder's content as a tree of its own. */
  below(folder: string): SourceTree {
    if (folder === '') return this;
    const inside = [...this.entries].filter(([path]) => path.startsWith(`${folder}/`));
    return new SourceTree(new Map(inside.map(([path, entry]) => [path.slice(folder.length + 1), entry])));
  }

  /** With another text in one file, whose permissions stay. */
  with(path: string, text: string): SourceTree {
    const mode = this.file(path)?.mode ?? 0o644;
    const entry: TreeEntry = { type: 'file', mode, bytes: Buffer.from(text), target: '' };
    return new SourceTree(new Map([...this.entries, [path, entry]]));
  }

  /** The one folder that all of it lies in, '' when there is no such. */
  get top(): string {
    const tops = new Set(this.paths.map((path) => path.split('/')[0] ?? ''));
    const [top = ''] = tops;
    return tops.size === 1 && this.entries.get(top)?.type !== 'file' ? top : '';
  }

  /** As a tar whose bytes depend on the content alone. */
  tar(): Buffer {
    const all = [...this.entries].filter(([path]) => path !== '');
    all.sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    const entries = all.map(([path, { type, mode, bytes, target }]): NewEntry => {
      const common = { path: `/${path}`, mode: type === 'file' ? mode : 0o755 };
      if (type === 'file') return { ...common, bytes };
      return type === 'symlink' ? { ...common, mode: 0o777, target } : common;
    });
    return makeTar(entries, EPOCH, true);
  }
}

/** Permissions that a source's file keeps. */
const modeOf = (mode: number): number => ((mode & 0o111) === 0 ? 0o644 : 0o755);

/** An archive's files: a tar, compressed or not, or a zip. `name` is what errors call it. */
export async function treeOfArchive(archive: Buffer, name: string): Promise<SourceTree> {
  const unreadable = (why: string, cause?: unknown): Dkms2binError =>
    new Dkms2binError('usage', `${name} is not a readable archive: ${why}`, { cause });
  if (archive.length > TREE_LIMITS.packed) throw unreadable(`more than ${TREE_LIMITS.packed} bytes`);
  try {
    if (archive.toString('latin1', 0, 4) === 'PK\x03\x04') return treeOf(zipEntries(archive, TREE_LIMITS));
    return treeOf(tarEntries(await unpackedBytes(archive, name), TREE_LIMITS.entries, true));
  } catch (error) {
    if (error instanceof Unreadable) throw unreadable(error.message, error);
    throw error;
  }
}

/** An archive's content, compressed or not. Throws fault `usage` for more than a source may have. */
export async function unpackedBytes(archive: Buffer, name: string): Promise<Buffer> {
  const compression = archive.toString('latin1', 0, 3) === 'BZh' ? 'bzip2' : compressionOf(archive);
  return decompress(archive, compression, TREE_LIMITS.unpacked, name);
}

interface ArchiveEntry {
  /** Absolute, clean. */
  path: string;
  type: 'file' | 'hardlink' | 'symlink' | 'special' | 'folder' | null;
  mode: number;
  target: string;
  bytes: Buffer;
}

function treeOf(archive: Iterable<ArchiveEntry>): SourceTree {
  const entries = new Map<string, TreeEntry>();
  // A hard link is a copy in the tar that dkms gets.
  let left = TREE_LIMITS.unpacked;
  const counted = (entry: TreeEntry): TreeEntry => {
    left -= entry.bytes.length;
    if (left < 0) throw new Unreadable(`more than ${TREE_LIMITS.unpacked} bytes of files`);
    return entry;
  };
  for (const { path, type, mode, target, bytes } of archive) {
    const at = path.slice(1);
    if (at === '') continue;
    if (type === null) throw new Unreadable(`${at} is of a kind that no source has`);
    if (type === 'special') throw new Unreadable(`${at} is a device or a pipe`);
    if (type === 'hardlink') {
      const other = entries.get(posix.normalize(target).replace(/^(?:\.?\/)+/, ''));
      if (other?.type !== 'file') throw new Unreadable(`${at} is a hard link to what is not in it`);
      entries.set(at, counted(other));
    } else if (type === 'folder') entries.set(at, { type, mode: 0o755, bytes: Buffer.alloc(0), target: '' });
    else entries.set(at, counted({ type, mode: modeOf(mode), bytes, target }));
  }
  for (const path of entries.keys()) {
    const above = posix.dirname(path);
    if (above !== '.' && (entries.get(above)?.type ?? 'folder') !== 'folder')
      throw new Unreadable(`${path} lies in what is no folder`);
  }
  return new SourceTree(entries);
}

/** A folder's files, without what a version control system keeps there. */
export async function treeOfFolder(path: string, signal?: AbortSignal): Promise<SourceTree> {
  const tar = await runBytes('tar', ['--exclude-vcs', '--numeric-owner', '-cf', '-', '-C', path, '.'], {
    maxBytes: TREE_LIMITS.unpacked,
    timeout: TREE_LIMITS.seconds * 1000,
    fault: 'usage',
    ...(signal && { cancelSignal: signal }),
  });
  return treeOfArchive(tar, path);
}
