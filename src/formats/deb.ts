import { Dkms2binError } from '../model/errors.js';
import { readCapped } from '../lib/read-capped.js';
import { AR_MAGIC, arMembers, type ArMember } from './ar.js';
import { inMemory, Unreadable, type ByteSource } from './bytes.js';
import { parseParagraph, type Field } from './deb822.js';
import { decompress, type Compression } from './decompress.js';
import {
  cleanPath,
  PACKAGE_LIMITS,
  readable,
  type PackageEntry,
  type PackageFolder,
  type PackageLimits,
} from './package.js';
import { tarEntries, type TarEntry } from './tar.js';

export interface Deb {
  /** Fields by the name that is written; Package, Version and Architecture are there. Continuation lines included. */
  control: Map<string, string>;
  /** In the package's order, each path once. */
  files: PackageEntry[];
  /** Each once; packages list the folders above their files as well. */
  folders: PackageFolder[];
  /** What dpkg would run when it installs or removes the package, and debconf's questions. */
  scripts: { name: string; text: string }[];
}

/** Members of control.tar that do something on the machine. */
const SCRIPTS = ['preinst', 'postinst', 'prerm', 'postrm', 'config', 'triggers'];

/** Reads a package's control fields and files into memory; nothing goes to the disk. Throws as `parseDeb` does. */
export async function readDeb(path: string, limits: Partial<PackageLimits> = {}): Promise<Deb> {
  const caps = { ...PACKAGE_LIMITS, ...limits };
  return parseDeb(await readCapped(path, caps.packed), path, caps);
}

/**
 * The same for bytes that are there; `name` is what errors call them. Throws only Dkms2binError: fault `usage` for what is
 * damaged, cut off, beyond the limits or no Debian package, `host` when xz or zstd is missing.
 */
export async function parseDeb(
  bytes: Buffer,
  name: string,
  limits: Partial<PackageLimits> = {},
): Promise<Deb> {
  const caps = { ...PACKAGE_LIMITS, ...limits };
  return readable(name, 'Debian package', async () => {
    if (bytes.length > caps.packed) {
      throw new Unreadable(`${bytes.length} bytes, the limit is ${caps.packed}`);
    }
    const source = inMemory(bytes);
    const { control, data } = await parts(source);
    const { text, scripts } = await controlFiles(source, control, caps);
    const fields = parseControl(text);
    const values = new Map(fields.map((field) => [field.name, utf8(field.value)]));
    for (const each of ['Package', 'Version', 'Architecture']) {
      if ((values.get(each) ?? '') === '') throw unusable(`no ${each}`);
    }
    const tar = await unpack(source, data, caps.data);
    return { control: values, ...inPart(data, () => entriesOf(tar, caps.entries)), scripts };
  });
}

/** The control fields alone, by the name that is written. Throws as `readDeb` does. */
export async function readDebControl(path: string): Promise<Map<string, string>> {
  return readable(path, 'Debian package', async () => {
    const source = inMemory(await readCapped(path, PACKAGE_LIMITS.packed));
    const { control } = await parts(source);
    const { text } = await controlFiles(source, control, PACKAGE_LIMITS);
    return new Map(parseControl(text).map((field) => [field.name, utf8(field.value)]));
  });
}

/** What a package says about itself. */
export interface DebHeader {
  name: string;
  version: string;
  architecture: string;
  /** The fields of the control file as they stand there, byte by byte (latin1), each with its continuation lines. */
  fields: { key: string; text: string }[];
}

/**
 * Reads what a .deb says about itself (deb(5)) and that it has all its parts, whose content stays unread. Throws Unreadable
 * for anything else, and for a control file that would not be one stanza of an index.
 */
export async function readDebHeader(source: ByteSource): Promise<DebHeader> {
  if (source.size === 0) throw new Unreadable('an empty file');
  const magic = await source.read(0, Math.min(source.size, AR_MAGIC.length));
  if (!magic.equals(AR_MAGIC)) throw new Unreadable('not a Debian package');
  const { control } = await parts(source);
  return indexStanza((await controlFiles(source, control, PACKAGE_LIMITS)).text);
}

/** Where control.tar or data.tar lies in a package. */
interface Part extends ArMember {
  kind: 'control' | 'data';
  /** Undefined for one that cannot be unpacked here. */
  compression: Compression | undefined;
}

const COMPRESSION = new Map<string, Compression>([
  ['', 'none'],
  ['.gz', 'gzip'],
  ['.xz', 'xz'],
  ['.zst', 'zstd'],
  // Of packages before 2010.
  ['.lzma', 'lzma'],
  ['.bz2', 'bzip2'],
]);

/** deb(5): debian-binary, control.tar, data.tar; between them what starts with `_`, after them anything. */
async function parts(source: ByteSource): Promise<{ control: Part; data: Part }> {
  const found: Part[] = [];
  let version = false;
  for await (const member of arMembers(source)) {
    if (!version) {
      await checkVersion(source, member);
      version = true;
      continue;
    }
    const part = partOf(member);
    if (part) takePart(part, found);
    // A private member, or one that a later version of the format adds.
    else if (!member.name.startsWith('_') && found.length < 2) {
      throw new Unreadable(`an unknown member ${member.name}`);
    }
  }
  if (!version) throw new Unreadable('it is empty');
  const [control, data] = found;
  if (!control || !data) {
    throw new Unreadable(`cut off: ${control ? 'data.tar' : 'control.tar'} is missing`);
  }
  return { control, data };
}

async function checkVersion(source: ByteSource, { name, at, size }: ArMember): Promise<void> {
  if (name !== 'debian-binary') throw new Unreadable(`its first member is ${name}, not debian-binary`);
  const format = (await source.read(at, Math.min(size, 16))).toString('latin1');
  if (!/^2\.\d+\n/.test(format)) {
    throw new Unreadable(`unknown format ${JSON.stringify(format.trimEnd())}`);
  }
}

/** Undefined for another member. */
function partOf(member: ArMember): Part | undefined {
  const [, kind, suffix = ''] = /^(control|data)\.tar(\.[a-z0-9]+)?$/.exec(member.name) ?? [];
  if (kind !== 'control' && kind !== 'data') return undefined;
  return { ...member, kind, compression: COMPRESSION.get(suffix) };
}

function takePart(part: Part, found: Part[]): void {
  // Two members of one name would be two packages: which one is installed depends on the reader.
  if (part.kind !== (['control', 'data'] as const)[found.length]) {
    throw new Unreadable(`${part.name} is out of order or appears twice`);
  }
  // Of the data not everybody wants to read more than that it is there.
  if (part.kind === 'control' && !part.compression) throw unknownPacking(part);
  found.push(part);
}

const unknownPacking = ({ name }: Part): Unreadable =>
  new Unreadable(`${name}: only gzip, xz, zstd, lzma, bzip2 and no compression can be read`);

/** A part's tar, at most `limit` bytes of it, packed or not. */
async function unpack(source: ByteSource, part: Part, limit: number): Promise<Buffer> {
  const { name, at, size, compression } = part;
  if (compression === undefined) throw unknownPacking(part);
  if (size > limit) throw new Unreadable(`${name} has ${size} bytes, the limit is ${limit}`);
  try {
    return await decompress(await source.read(at, size), compression, limit, name);
  } catch (error) {
    // A missing tool is the host's fault, not the package's.
    if (!(error instanceof Dkms2binError) || error.fault !== 'usage') throw error;
    throw new Unreadable(error.message, { cause: error });
  }
}

/** Errors of `read` say which part they are about. */
function inPart<T>({ name }: Part, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    throw new Unreadable(`${name}: ${error.message}`, { cause: error });
  }
}

/** The control file, byte by byte (latin1), and the scripts beside it. */
async function controlFiles(
  source: ByteSource,
  part: Part,
  caps: PackageLimits,
): Promise<{ text: string; scripts: Deb['scripts'] }> {
  const tar = await unpack(source, part, caps.control);
  const entries = inPart(part, () => [...tarEntries(tar, caps.entries)]);
  const [found, ...more] = entries.filter(({ path }) => path === '/control');
  if (more.length > 0) throw new Unreadable(`${part.name}: /control appears twice`);
  if (found?.type !== 'file') throw new Unreadable('it has no control file');
  const scripts = SCRIPTS.flatMap((name) => {
    const script = entries.find(({ path, type }) => path === `/${name}` && type === 'file');
    return script ? [{ name, text: script.bytes.toString('utf8') }] : [];
  });
  return { text: found.bytes.toString('latin1'), scripts };
}

/** What dpkg installs: no pax headers, no path twice. */
function entriesOf(tar: Buffer, maxEntries: number): Pick<Deb, 'files' | 'folders'> {
  const files = new Map<string, PackageEntry>();
  const folders = new Map<string, PackageFolder>();
  for (const entry of tarEntries(tar, maxEntries)) {
    const { path, type } = entry;
    // A folder may come twice; a file that was there before would be hidden by it.
    if (files.has(path) || (type !== 'folder' && (path === '/' || folders.has(path)))) {
      throw new Unreadable(`${path} appears twice`);
    }
    if (type === 'folder') folders.set(path, { path, mode: entry.mode });
    else files.set(path, fileOf(entry, files));
  }
  return { files: [...files.values()], folders: [...folders.values()] };
}

function fileOf(
  { path, type, mode, target, bytes }: TarEntry,
  before: Map<string, PackageEntry>,
): PackageEntry {
  switch (type) {
    case 'file':
      return { path, type, mode, size: bytes.length, bytes: () => bytes };
    case 'symlink':
      return { path, type, mode, target, size: 0, bytes: () => NOTHING };
    case 'special':
      return { path, type, mode, size: 0, bytes: () => NOTHING };
    case 'hardlink': {
      const linked = before.get(cleanPath(target) ?? '');
      if (linked?.type !== 'file') throw new Unreadable(`${path} is a hard link to nothing before it`);
      return { ...linked, path };
    }
    default:
      throw new Unreadable(`an entry of unknown type, ${path}`);
  }
}

const NOTHING = Buffer.alloc(0);

const unusable = (why: string): Unreadable => new Unreadable(`its control file is not usable: ${why}`);

/** The fields of a control file, one deb822 paragraph; lines that start with `#` are no part of it. */
const parseControl = (text: string): readonly Field[] => parseParagraph(text.trimEnd(), unusable).fields;

const utf8 = (latin1: string): string => Buffer.from(latin1, 'latin1').toString('utf8');

/**
 * A control file's text as a stanza of an index, which takes it as it is: nothing may end it early or start a field of its own.
 * @internal
 */
export function indexStanza(text: string): DebHeader {
  if (/[\x00-\x08\x0b-\x1f\x7f]/.test(text)) throw unusable('control characters');
  const fields = parseControl(text);
  const value = (name: string, shape: RegExp): string => {
    const found = fields.find((each) => each.name.toLowerCase() === name.toLowerCase())?.value;
    if (found === undefined || !shape.test(found)) throw unusable(`no valid ${name}`);
    return found;
  };
  return {
    name: value('Package', /^[A-Za-z0-9][A-Za-z0-9+.-]+$/),
    version: value('Version', /^(\d+:)?[A-Za-z0-9.+~-]+$/),
    architecture: value('Architecture', /^[a-z0-9][a-z0-9-]*$/),
    fields: fields.map(({ name, text: written }) => ({ key: name.toLowerCase(), text: written })),
  };
}
