import { Dkms2binError } from '../model/errors.js';
import { plain } from '../lib/text.js';

/** What a kernel module says about itself. Texts come from a hostile guest: stripped of control bytes, capped. */
export interface ModuleInfo {
  vermagic: string;
  /** KBUILD_MODNAME; kernels before 4.13 do not write it. */
  name?: string;
  version?: string;
  license?: string;
  srcversion?: string;
  alias: string[];
  depends: string[];
  firmware: string[];
  /** The machine by the kernel's name (`uname -m`), `em-<number>` when unknown. */
  machine: string;
  /** Whether a signature is appended; not whether it is valid. */
  signed: boolean;
}

export const MAX_MODULE_BYTES = 64 * 1024 * 1024;
const MAX_MODINFO_BYTES = 4 * 1024 * 1024;
const MAX_VALUE_CHARS = 4096;
/** Ends a module that carries a signature (linux/module_signature.h). */
export const SIGNATURE_MAGIC = '~Module signature appended~\n';

/** With -ffunction-sections a large module has some ten thousand. */
const MAX_SECTIONS = 200_000;
const NOTHING = Buffer.alloc(0);

const SHT_NOBITS = 8;
const NT_GNU_BUILD_ID = 3;
const SHF_COMPRESSED = 0x800;
const SHN_XINDEX = 0xffff;

const MACHINE: Record<number, string> = {
  3: 'i686',
  21: 'ppc64',
  22: 's390x',
  40: 'arm',
  62: 'x86_64',
  183: 'aarch64',
  243: 'riscv64',
  258: 'loongarch64',
};

/** A section of a relocatable file. */
export interface ElfSection {
  /** As it stands in the file: of a hostile guest, and not longer than 255 bytes. */
  name: string;
  type: number;
  flags: number;
  /** Empty for a section that takes no place in the file. */
  bytes: Buffer;
}

/** Reads `.modinfo` of an uncompressed .ko (ELF64, relocatable). Throws only Dkms2binError, fault `module`. */
export function readModule(bytes: Buffer): ModuleInfo {
  try {
    return parse(bytes);
  } catch (error) {
    if (error instanceof Dkms2binError) throw error;
    // Every read is checked; this holds the contract should a check be missing.
    throw new Dkms2binError('module', 'Not a readable kernel module', { cause: error });
  }
}

/** Throws fault `module` unless the module was built for exactly this kernel release and machine. */
export function checkModule(
  info: ModuleInfo,
  target: { release: string; arch: string },
  name?: string,
): void {
  const what = name ?? info.name ?? 'The module';
  if (info.machine !== target.arch) {
    throw new Dkms2binError('module', `${what} is built for ${info.machine}, not for ${target.arch}`);
  }
  const built = info.vermagic.split(' ')[0];
  if (built !== target.release) {
    throw new Dkms2binError(
      'module',
      `${what} is built for kernel ${built ?? ''}, not for ${target.release}`,
      {
        hint: `Its vermagic is "${info.vermagic}". Does its Makefile honour the kernel that dkms names?`,
      },
    );
  }
}

function bad(why: string): Dkms2binError {
  return new Dkms2binError('module', `Not a usable kernel module: ${why}`);
}

function parse(bytes: Buffer): ModuleInfo {
  if (bytes.length > MAX_MODULE_BYTES) throw bad(`${bytes.length} bytes, the limit is ${MAX_MODULE_BYTES}`);
  const { little, u16 } = header(bytes);
  const found = readSections(bytes).filter(({ name }) => name === '.modinfo');
  const [modinfo] = found;
  if (found.length > 1) throw bad('more than one .modinfo section');
  if (!modinfo || modinfo.bytes.length === 0) throw bad('no .modinfo section');
  if (Math.floor(modinfo.flags / SHF_COMPRESSED) % 2 === 1) throw bad('its .modinfo section is compressed');
  if (modinfo.bytes.length > MAX_MODINFO_BYTES) throw bad('its .modinfo section is too large');

  const machine = u16(18);
  return {
    ...describe(modinfo.bytes.toString('utf8')),
    machine: (machine === 21 && little ? 'ppc64le' : MACHINE[machine]) ?? `em-${machine}`,
    signed: bytes.subarray(-SIGNATURE_MAGIC.length).equals(Buffer.from(SIGNATURE_MAGIC)),
  };
}

/** The file's numbers in its own byte order. */
function header(bytes: Buffer): {
  little: boolean;
  u16: (at: number) => number;
  u32: (at: number) => number;
  u64: (at: number) => number;
} {
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46) throw bad('no ELF header');
  if (bytes[4] !== 2) throw bad('not 64-bit ELF');
  const order = bytes[5];
  if (order !== 1 && order !== 2) throw bad('unknown byte order');
  const little = order === 1;
  return {
    little,
    u16: (at) => (little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at)),
    u32: (at) => (little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at)),
    // Exact up to 2^53; anything larger is far out of the file's bounds and stays so after rounding.
    u64: (at) => Number(little ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at)),
  };
}

/** The sections of a relocatable ELF64 file, the empty first one left out. Throws fault `module` when it is none or damaged. */
export function readSections(bytes: Buffer): ElfSection[] {
  const { count, names, section } = sectionTable(bytes);
  const sections: ElfSection[] = [];
  for (let index = 1; index < count; index++) {
    const { name, type, flags, offset, size } = section(index);
    if (type !== SHT_NOBITS && !inside(bytes, offset, size)) throw bad(`section ${index} is cut off`);
    const rest = names.subarray(name, name + 256);
    const end = rest.indexOf(0);
    sections.push({
      name: rest.toString('latin1', 0, end === -1 ? 255 : end),
      type,
      flags,
      bytes: type === SHT_NOBITS ? NOTHING : bytes.subarray(offset, offset + size),
    });
  }
  return sections;
}

const inside = (bytes: Buffer, offset: number, size: number): boolean =>
  offset <= bytes.length && size <= bytes.length - offset;

interface SectionHeader {
  /** Where its name begins in the table of names. */
  name: number;
  type: number;
  flags: number;
  offset: number;
  size: number;
  link: number;
}

function sectionTable(bytes: Buffer): {
  count: number;
  /** The names of the sections, each up to a zero byte. */
  names: Buffer;
  section: (index: number) => SectionHeader;
} {
  const { u16, u32, u64 } = header(bytes);
  if (u16(16) !== 1) throw bad('not a relocatable ELF file');
  const table = u64(40);
  if (table === 0) throw bad('no section table');
  if (u16(58) !== 64 || !inside(bytes, table, 64)) throw bad('its section table is damaged or cut off');
  const section = (index: number): SectionHeader => {
    const at = table + index * 64;
    return {
      name: u32(at),
      type: u32(at + 4),
      flags: u64(at + 8),
      offset: u64(at + 24),
      size: u64(at + 32),
      link: u32(at + 40),
    };
  };
  // What the header's 16 bits cannot hold stands in the empty first section.
  const first = section(0);
  const count = u16(60) === 0 ? first.size : u16(60);
  const namesIndex = u16(62) === SHN_XINDEX ? first.link : u16(62);
  if (!inside(bytes, table, count * 64)) throw bad('its section table is damaged or cut off');
  if (count > MAX_SECTIONS) throw bad(`${count} sections, the limit is ${MAX_SECTIONS}`);
  if (namesIndex === 0 || namesIndex >= count) throw bad('no section names');
  const { type, offset, size } = section(namesIndex);
  if (type === SHT_NOBITS || !inside(bytes, offset, size)) throw bad('its section names are cut off');
  return { count, names: bytes.subarray(offset, offset + size), section };
}

/** The GNU build id (hex) that ld wrote into the file, and that its separate debug symbols have, too; undefined without one. */
export function buildId(bytes: Buffer): string | undefined {
  const { u32 } = header(bytes);
  const note = readSections(bytes).find(({ name }) => name === '.note.gnu.build-id');
  if (!note || note.bytes.length < 16) return undefined;
  const at = note.bytes.byteOffset - bytes.byteOffset;
  const length = u32(at + 4);
  const gnu =
    u32(at) === 4 && u32(at + 8) === NT_GNU_BUILD_ID && note.bytes.toString('latin1', 12, 16) === 'GNU\0';
  // ld writes 20 bytes (sha1) or 16; rustc and others have 32.
  if (!gnu || length < 8 || length > 32 || length > note.bytes.length - 16) return undefined;
  return note.bytes.toString('hex', 16, 16 + length);
}

function describe(modinfo: string): Omit<ModuleInfo, 'machine' | 'signed'> {
  const fields = new Map<string, string[]>();
  for (const line of modinfo.split('\0')) {
    const equals = line.indexOf('=');
    if (equals < 1) continue;
    const key = line.slice(0, equals);
    const values = fields.get(key) ?? [];
    values.push(plain(line.slice(equals + 1, equals + 1 + MAX_VALUE_CHARS)).replace(/[\n\t]/g, ' '));
    fields.set(key, values);
  }
  const one = (key: 'name' | 'version' | 'license' | 'srcversion'): Partial<Record<typeof key, string>> => {
    const value = fields.get(key)?.[0];
    return value === undefined ? {} : { [key]: value };
  };
  return {
    vermagic: vermagicOf(modinfo, fields.get('vermagic')?.length ?? 0),
    ...one('name'),
    ...one('version'),
    ...one('license'),
    ...one('srcversion'),
    alias: fields.get('alias') ?? [],
    depends: (fields.get('depends')?.[0] ?? '').split(',').filter((each) => each !== ''),
    firmware: fields.get('firmware') ?? [],
  };
}

/** `count` is how often it is there. */
function vermagicOf(modinfo: string, count: number): string {
  if (count !== 1) throw bad(count === 0 ? 'no vermagic' : 'more than one vermagic');
  // The kernel compares it byte by byte; nothing that had to be cleaned can be right.
  const magic = /(?:^|\0)vermagic=([\x21-\x7e][\x20-\x7e]{0,255})(?:\0|$)/.exec(modinfo)?.[1];
  if (magic === undefined) throw bad('its vermagic is not plain text');
  return magic.trimEnd();
}
