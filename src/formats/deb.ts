import { Dkms2binError } from '../model/errors.js';
import { readCapped } from '../lib/read-capped.js';
import { decompress, type Compression } from './decompress.js';

/** One entry of a package's data; folders are left out. */
export interface DebEntry {
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

export interface Deb {
  /** Fields by the name that is written; Package, Version and Architecture are there. Continuation lines included. */
  control: Map<string, string>;
  /** In the package's order, each path once. */
  files: DebEntry[];
}

export interface DebLimits {
  /** Bytes of the package. */
  packed: number;
  /** Bytes of control.tar, unpacked. */
  control: number;
  /** Bytes of data.tar, unpacked. */
  data: number;
  /** Entries of one tar. */
  entries: number;
}

export const DEB_LIMITS: DebLimits = {
  packed: 512 * 2 ** 20,
  control: 16 * 2 ** 20,
  data: 1024 * 2 ** 20,
  entries: 100_000,
};

export const AR_MAGIC = Buffer.from('!<arch>\n');
const AR_HEADER = 60;
const BLOCK = 512;
const MAX_PATH = 4096;

/** Reads a package's control fields and files into memory; nothing goes to the disk. Throws as `parseDeb` does. */
export async function readDeb(path: string, limits: Partial<DebLimits> = {}): Promise<Deb> {
  const caps = { ...DEB_LIMITS, ...limits };
  return parseDeb(await readCapped(path, caps.packed), path, caps);
}

/**
 * The same for bytes that are there; `name` is what errors call them. Throws only Dkms2binError: fault `usage` for what is
 * damaged, cut off, beyond the limits or no Debian package, `host` when xz or zstd is missing.
 */
export async function parseDeb(bytes: Buffer, name: string, limits: Partial<DebLimits> = {}): Promise<Deb> {
  const caps = { ...DEB_LIMITS, ...limits };
  const bad: Bad = (why) => new Dkms2binError('usage', `${name} is no readable Debian package: ${why}`);
  if (bytes.length > caps.packed) throw bad(`${bytes.length} bytes, the limit is ${caps.packed}`);
  const { control, data } = members(bytes, bad);
  const unpack = async (member: Member, limit: number): Promise<TarEntry[]> =>
    untar(
      await decompress(member.bytes, member.compression, limit, `${name}: ${member.name}`),
      (why) => bad(`${member.name}: ${why}`),
      caps.entries,
    );
  const fields = (await unpack(control, caps.control)).find((entry) => entry.path === '/control');
  if (fields?.type !== 'file') throw bad('it has no control file');
  return {
    control: parseControl(fields.bytes.toString('utf8'), bad),
    files: (await unpack(data, caps.data)).flatMap(({ type, bytes: content, ...rest }) =>
      type === 'folder' ? [] : [{ ...rest, type, size: content.length, bytes: () => content }],
    ),
  };
}

type Bad = (why: string) => Dkms2binError;

interface Member {
  name: string;
  bytes: Buffer;
  compression: Compression;
}

const COMPRESSION = new Map<string, Compression>([
  ['', 'none'],
  ['.gz', 'gzip'],
  ['.xz', 'xz'],
  ['.zst', 'zstd'],
]);

/** deb(5): debian-binary, control.tar, data.tar; between them what starts with `_`, after them anything. */
function members(bytes: Buffer, bad: Bad): { control: Member; data: Member } {
  if (!bytes.subarray(0, AR_MAGIC.length).equals(AR_MAGIC)) {
    throw bad(bytes.length < AR_MAGIC.length ? 'cut off' : 'it is no ar archive');
  }
  const found: Member[] = [];
  let version = false;
  for (let at = AR_MAGIC.length; at < bytes.length;) {
    const header = bytes.subarray(at, at + AR_HEADER).toString('latin1');
    if (header.length < AR_HEADER) throw bad(`cut off after ${bytes.length} bytes`);
    // GNU ar ends names with a slash.
    const name = header.slice(0, 16).trimEnd().replace(/\/$/, '');
    const digits = header.slice(48, 58).trimEnd();
    if (!header.endsWith('`\n') || !/^\d{1,10}$/.test(digits) || !/^[\x21-\x7e]+$/.test(name)) {
      throw bad(`a damaged ar header at byte ${at}`);
    }
    const start = at + AR_HEADER;
    const end = start + Number(digits);
    // The padding byte belongs to the member: without it the file is cut off, too.
    if (end + (end % 2) > bytes.length) throw bad(`${name} is cut off after ${bytes.length} bytes`);
    const content = bytes.subarray(start, end);
    at = end + (end % 2);
    if (!version) {
      if (name !== 'debian-binary') throw bad(`its first member is ${name}, not debian-binary`);
      const format = content.subarray(0, 16).toString('latin1');
      if (!/^2\.\d+\n/.test(format)) throw bad(`unknown format ${JSON.stringify(format.trimEnd())}`);
      version = true;
      continue;
    }
    if (name.startsWith('_')) continue;
    const [, kind, suffix = ''] = /^(control|data)\.tar(\.[a-z0-9]+)?$/.exec(name) ?? [];
    if (kind === undefined) {
      if (found.length === 2) continue;
      throw bad(`an unknown member ${name}`);
    }
    if (kind !== ['control', 'data'][found.length]) {
      // Two members of one name would be two packages: which one is installed depends on the reader.
      throw bad(`${name} is out of order or there twice`);
    }
    const compression = COMPRESSION.get(suffix);
    if (compression === undefined) throw bad(`${name}: only gzip, xz, zstd and no compression can be read`);
    found.push({ name, bytes: content, compression });
  }
  const [control, data] = found;
  if (!control || !data) {
    throw bad(version ? `cut off: ${control ? 'data.tar' : 'control.tar'} is missing` : 'it is empty');
  }
  return { control, data };
}

interface TarEntry {
  path: string;
  type: DebEntry['type'] | 'folder';
  mode: number;
  target?: string;
  bytes: Buffer;
}

const NOTHING = Buffer.alloc(0);

/** A tar as dpkg reads it: v7, ustar and GNU long names; no pax headers. */
function untar(tar: Buffer, bad: Bad, maxEntries: number): TarEntry[] {
  const entries = new Map<string, TarEntry>();
  let longName: string | undefined;
  let longLink: string | undefined;
  let count = 0;
  for (let at = 0; ;) {
    if (at + BLOCK > tar.length) throw bad('cut off before its end mark');
    const header = tar.subarray(at, at + BLOCK);
    if (header.every((byte) => byte === 0)) return [...entries.values()];
    const where = `at byte ${at}`;
    if (++count > maxEntries) throw bad(`more than ${maxEntries} entries`);
    if (number(header, 148, 8) !== checksum(header)) throw bad(`a damaged header ${where}`);
    const size = number(header, 124, 12);
    if (size === null || size > tar.length - at - BLOCK) throw bad(`an entry is cut off ${where}`);
    const kind = String.fromCharCode(header[156] ?? 0);
    const body = tar.subarray(at + BLOCK, at + BLOCK + size);
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
    if (kind === 'L' || kind === 'K') {
      if (size > MAX_PATH) throw bad(`a name of ${size} bytes ${where}`);
      if (kind === 'L') longName = text(body);
      else longLink = text(body);
      continue;
    }
    const path = cleanPath(longName ?? headerName(header));
    if (path === null) throw bad(`a path that no package may have ${where}`);
    const target = longLink ?? text(header.subarray(157, 257));
    longName = longLink = undefined;
    const mode = number(header, 100, 8);
    if (mode === null) throw bad(`a damaged header ${where}`);
    const entry = { path, mode: mode & 0o7777 };
    if (kind === '5') {
      // A folder may come twice; a file that was there before would be hidden by it.
      if ((entries.get(path)?.type ?? 'folder') !== 'folder') throw bad(`${path} is there twice`);
      entries.set(path, { ...entry, type: 'folder', bytes: NOTHING });
      continue;
    }
    if (path === '/' || entries.has(path)) throw bad(`${path} is there twice`);
    switch (kind) {
      case '\0':
      case '0':
      case '7':
        entries.set(path, { ...entry, type: 'file', bytes: body });
        break;
      case '1': {
        const linked = entries.get(cleanPath(target) ?? '');
        if (linked?.type !== 'file') throw bad(`${path} is a hard link to nothing before it`);
        entries.set(path, { ...linked, path });
        break;
      }
      case '2':
        entries.set(path, { ...entry, type: 'symlink', target, bytes: NOTHING });
        break;
      case '3':
      case '4':
      case '6':
        entries.set(path, { ...entry, type: 'special', bytes: NOTHING });
        break;
      default:
        throw bad(`an entry of unknown type ${JSON.stringify(kind)} ${where}`);
    }
  }
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

/** `./lib/x`, `lib/x` and `/lib/x` are `/lib/x`; null for `..`, control bytes, too long and empty ones. */
export function cleanPath(name: string): string | null {
  if (name === '' || name.length > MAX_PATH || /[\x00-\x1f\x7f-\x9f]/.test(name)) return null;
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  return parts.includes('..') ? null : `/${parts.join('/')}`;
}

/** One deb822 paragraph. */
function parseControl(control: string, bad: Bad): Map<string, string> {
  const fields = new Map<string, string>();
  const seen = new Set<string>();
  let last: string | undefined;
  for (const line of control.replace(/\n+$/, '').split('\n')) {
    if (line.startsWith('#')) continue;
    if (/^[ \t]/.test(line) && last !== undefined) {
      fields.set(last, `${fields.get(last) ?? ''}\n${line.slice(1)}`);
      continue;
    }
    const [, name, value = ''] = /^([\x21-\x39\x3b-\x7e]+):[ \t]*(.*)$/s.exec(line) ?? [];
    if (name === undefined) throw bad(`a line of its control file is no field`);
    if (seen.has(name.toLowerCase())) throw bad(`its control file has ${name} twice`);
    seen.add(name.toLowerCase());
    fields.set(name, value.trimEnd());
    last = name;
  }
  for (const name of ['Package', 'Version', 'Architecture']) {
    if ((fields.get(name) ?? '') === '') throw bad(`its control file has no ${name}`);
  }
  return fields;
}
