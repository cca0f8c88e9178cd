import { dirname } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { Unreadable } from './bytes.js';
import { cleanPath, MAX_PATH } from './package.js';

const BLOCK = 512;

export interface TarEntry {
  /** Absolute, as `cleanPath` makes it. */
  path: string;
  /** Null for what v7, ustar and GNU tar do not have, a pax header among it. */
  type: 'file' | 'hardlink' | 'symlink' | 'special' | 'folder' | null;
  /** Permission bits, setuid, setgid and sticky included. */
  mode: number;
  /** Where a link points, as written. */
  target: string;
  /** A file's content, a view of the archive. */
  bytes: Buffer;
}

const TYPES: Partial<Record<string, TarEntry['type']>> = {
  '\0': 'file',
  0: 'file',
  1: 'hardlink',
  2: 'symlink',
  3: 'special',
  4: 'special',
  5: 'folder',
  6: 'special',
  // A contiguous file, on systems that know such.
  7: 'file',
};

/**
 * The entries of a v7, ustar or GNU tar in its order; with `pax`, pax headers are followed, too. Throws Unreadable where it is
 * damaged, cut off or too long.
 */
export function* tarEntries(tar: Buffer, maxEntries: number, pax = false): Generator<TarEntry> {
  let long: LongNames = {};
  let count = 0;
  for (let at = 0; ;) {
    if (at + BLOCK > tar.length) throw new Unreadable('cut off before its end mark');
    const header = tar.subarray(at, at + BLOCK);
    if (header.every((byte) => byte === 0)) return;
    if (++count > maxEntries) throw new Unreadable(`more than ${maxEntries} entries`);
    const where = `at byte ${at}`;
    const { flag, mode, size } = numbers(header, where);
    if (size > tar.length - at - BLOCK) throw new Unreadable(`an entry is cut off ${where}`);
    const bytes = tar.subarray(at + BLOCK, at + BLOCK + size);
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
    const ahead = forNext(flag, bytes, { pax, where });
    if (ahead) {
      long = { ...long, ...ahead };
      continue;
    }
    const path = cleanPath(long.name ?? headerName(header));
    if (path === null) throw new Unreadable(`a path that no package may have ${where}`);
    yield {
      path,
      type: TYPES[flag] ?? null,
      mode,
      target: long.link ?? text(header.subarray(157, 257)),
      bytes,
    };
    long = {};
  }
}

/** What stands in front of an entry because its header has no room for it. */
interface LongNames {
  name?: string;
  link?: string;
}

/** What an entry says of the next one; null for one that is an entry itself. */
function forNext(
  flag: string,
  bytes: Buffer,
  { pax, where }: { pax: boolean; where: string },
): LongNames | null {
  // The global one of `git archive` names a commit.
  if (pax && flag === 'g') return {};
  if (pax && flag === 'x') {
    const records = paxRecords(bytes, where);
    if ([...records.keys()].some((key) => key.startsWith('GNU.sparse')))
      throw new Unreadable(`a sparse file ${where}`);
    const [name, link] = [records.get('path'), records.get('linkpath')];
    return { ...(name !== undefined && { name }), ...(link !== undefined && { link }) };
  }
  if (flag !== 'L' && flag !== 'K') return null;
  if (bytes.length > MAX_PATH) throw new Unreadable(`a name of ${bytes.length} bytes ${where}`);
  return flag === 'L' ? { name: text(bytes) } : { link: text(bytes) };
}

/** `LENGTH KEY=VALUE` and a line end, again and again. A file's size stays what the header says: no source has 8 GiB. */
function paxRecords(bytes: Buffer, where: string): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < bytes.length;) {
    const [head = '', length = ''] = /^(\d{1,6}) /.exec(bytes.toString('latin1', at, at + 8)) ?? [];
    const record = bytes.subarray(at + head.length, at + Number(length) - 1).toString('utf8');
    const equals = record.indexOf('=');
    if (head === '' || equals < 0 || Number(length) <= head.length)
      throw new Unreadable(`a pax header ${where}`);
    records.set(record.slice(0, equals), record.slice(equals + 1));
    at += Number(length);
  }
  return records;
}

function numbers(header: Buffer, where: string): { flag: string; mode: number; size: number } {
  const mode = number(header, 100, 8);
  if (number(header, 148, 8) !== checksum(header) || mode === null) {
    throw new Unreadable(`a damaged header ${where}`);
  }
  const size = number(header, 124, 12);
  if (size === null) throw new Unreadable(`an entry is cut off ${where}`);
  return { flag: header.toString('latin1', 156, 157), mode: mode & 0o7777, size };
}

/** Octal, or GNU's binary form for what octal cannot hold; null when it is neither or not a safe number. */
function number(header: Buffer, at: number, width: number): number | null {
  const bytes = header.subarray(at, at + width);
  if (bytes[0] === 0x80) {
    const value = bytes.subarray(1).reduce((sum, byte) => sum * 256 + byte, 0);
    return Number.isSafeInteger(value) ? value : null;
  }
  const digits = /^ *([0-7]*)[ \0]*$/.exec(bytes.toString('latin1'))?.[1];
  return digits === undefined ? null : parseInt(digits || '0', 8);
}

function checksum(header: Buffer): number {
  // Its own field counts as blanks.
  return header.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : byte), 0);
}

function text(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.subarray(0, end === -1 ? bytes.length : end).toString('utf8');
}

function headerName(header: Buffer): string {
  const name = text(header.subarray(0, 100));
  // GNU's own format, `ustar  `, has other things where ustar has the prefix.
  const prefix =
    header.subarray(257, 263).toString('latin1') === 'ustar\0' ? text(header.subarray(345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

/** A file to be packed. */
export interface TarFile {
  /** Absolute path on the target. */
  path: string;
  /** Permission bits; setuid, setgid and sticky are refused. */
  mode: number;
  bytes: Buffer;
}

/** A symbolic link to be packed; `target` is written as it stands. */
export interface TarLink {
  path: string;
  target: string;
}

/** A folder to be packed for its own sake. Those above files and links come by themselves, with mode 755. */
export type TarFolder = Pick<TarFile, 'path' | 'mode'>;

/** An entry to be packed: `bytes` for a file, `target` for a symbolic link, neither for a folder. */
export interface NewEntry {
  path: string;
  mode: number;
  bytes?: Buffer;
  target?: string;
}

/** Files and symbolic links as a tar of `/`; its bytes are a function of the input. Throws fault `usage` for what it cannot hold. */
export function filesTar(files: readonly TarFile[], links: readonly TarLink[], mtime: number): Buffer {
  return makeTar(withFolders(files, links), mtime);
}

/** The files, links, folders and all folders above them, parents first, in byte order. Throws fault `usage` for paths that cannot be. */
export function withFolders(
  files: readonly TarFile[],
  links: readonly TarLink[] = [],
  own: readonly TarFolder[] = [],
): NewEntry[] {
  const entries = new Map<string, NewEntry>();
  for (const entry of [...files, ...links.map((link) => ({ ...link, mode: 0o777 }))]) {
    check(entry);
    if (entries.has(entry.path)) {
      throw new Dkms2binError('usage', `Twice in one package: ${entry.path}`);
    }
    entries.set(entry.path, entry);
  }
  const folders = new Map<string, number>([['/', 0o755]]);
  for (const path of [...entries.keys(), ...own.map((each) => each.path)]) {
    for (let up = dirname(path); up !== '/'; up = dirname(up)) folders.set(up, 0o755);
  }
  for (const folder of own) {
    check(folder);
    folders.set(folder.path, folder.mode);
  }
  for (const [path, mode] of folders) {
    if (entries.has(path))
      throw new Dkms2binError('usage', `Both a file and a folder in one package: ${path}`);
    entries.set(path, { path, mode });
  }
  const keys = [...entries.values()].map((entry) => [Buffer.from(tarName(entry)), entry] as const);
  return keys.sort(([a], [b]) => Buffer.compare(a, b)).map(([, entry]) => entry);
}

function check({ path, mode, target }: NewEntry): void {
  if (
    !/^(\/[^/\x00-\x1f\x7f]+)+$/.test(path) ||
    path.split('/').some((part) => part === '.' || part === '..')
  ) {
    throw new Dkms2binError('usage', `Not a path for a package's file: ${JSON.stringify(path)}`);
  }
  if ((mode & ~0o777) !== 0) {
    throw new Dkms2binError('usage', `Not a mode for ${path}: ${mode.toString(8)}`);
  }
  if (target !== undefined && !/^[\x21-\x7e]{1,100}$/.test(target)) {
    throw new Dkms2binError('usage', `Not a target for the link ${path}: ${JSON.stringify(target)}`);
  }
}

const isFolder = ({ bytes, target }: NewEntry): boolean => bytes === undefined && target === undefined;

function tarName(entry: NewEntry): string {
  return isFolder(entry) && entry.path !== '/' ? `.${entry.path}/` : `.${entry.path}`;
}

function typeFlag(entry: NewEntry): string {
  if (isFolder(entry)) return '5';
  return entry.target === undefined ? '0' : '2';
}

/**
 * POSIX ustar without extensions: dpkg refuses pax headers (deb(5)). With `gnu`, names and link targets of any length in GNU's
 * form. All is root's and of one time, in seconds since 1970.
 */
export function makeTar(entries: readonly NewEntry[], mtime: number, gnu = false): Buffer {
  const blocks: Buffer[] = [];
  for (const entry of entries) {
    if (gnu) for (const [flag, long] of longFields(entry)) blocks.push(longHeader(flag, long), padded(long));
    blocks.push(newHeader(gnu ? shortened(entry) : entry, mtime));
    if (entry.bytes) blocks.push(entry.bytes, Buffer.alloc((BLOCK - (entry.bytes.length % BLOCK)) % BLOCK));
  }
  blocks.push(Buffer.alloc(2 * BLOCK));
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  blocks.push(Buffer.alloc((RECORD - (length % RECORD)) % RECORD));
  return Buffer.concat(blocks);
}

const RECORD = 20 * BLOCK;

/** What of an entry a header has no room for, as GNU tar puts it in front. */
function longFields(entry: NewEntry): ['L' | 'K', Buffer][] {
  const name = Buffer.from(`${tarName(entry)}\0`);
  const target = Buffer.from(`${entry.target ?? ''}\0`);
  return [
    ...(target.length > 100 ? [['K', target] as ['K', Buffer]] : []),
    ...(name.length > 100 ? [['L', name] as ['L', Buffer]] : []),
  ];
}

const padded = (bytes: Buffer): Buffer =>
  Buffer.concat([bytes, Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK)]);

function longHeader(flag: 'L' | 'K', long: Buffer): Buffer {
  const header = newHeader({ path: '/././@LongLink', mode: 0o644, bytes: long }, 0);
  header.fill(' ', 148, 156);
  header.write(flag, 156);
  header.write(`${checksum(header).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}

/** The entry with what fits into a header. */
function shortened(entry: NewEntry): NewEntry {
  const long = longFields(entry).map(([flag]) => flag);
  return {
    ...entry,
    ...(long.includes('L') && {
      path: `/${Buffer.from(entry.path)
        .toString('latin1')
        .replaceAll(/[^ -~]/g, '_')
        .slice(1, 90)}`,
    }),
    ...(long.includes('K') && { target: 'long' }),
  };
}

function newHeader(entry: NewEntry, mtime: number): Buffer {
  const header = Buffer.alloc(BLOCK);
  const [prefix, name] = splitName(Buffer.from(tarName(entry)));
  name.copy(header, 0);
  octal(header, 100, 8, entry.mode);
  octal(header, 108, 8, 0);
  octal(header, 116, 8, 0);
  octal(header, 124, 12, entry.bytes?.length ?? 0);
  octal(header, 136, 12, mtime);
  header.fill(' ', 148, 156);
  header.write(typeFlag(entry), 156);
  header.write(entry.target ?? '', 157, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  header.write('root', 265);
  header.write('root', 297);
  octal(header, 329, 8, 0);
  octal(header, 337, 8, 0);
  prefix.copy(header, 345);
  header.write(`${checksum(header).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}

function octal(header: Buffer, at: number, width: number, value: number): void {
  header.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at, 'latin1');
}

function splitName(name: Buffer): [prefix: Buffer, name: Buffer] {
  if (name.length <= 100) return [Buffer.alloc(0), name];
  // The slash between the two is not stored. A folder's own last slash is no place to cut.
  for (let cut = Math.min(155, name.length - 2); cut >= name.length - 101; cut--) {
    if (name[cut] === 0x2f) return [name.subarray(0, cut), name.subarray(cut + 1)];
  }
  throw new Dkms2binError('usage', `Too long a path for a package: ${name.toString().slice(1)}`);
}
