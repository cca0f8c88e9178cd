import { Dkms2binError } from '../core/errors.js';
import { plain } from '../core/text.js';

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

const SHT_NOBITS = 8;
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

interface Section {
  name: number;
  type: number;
  flags: number;
  offset: number;
  size: number;
  link: number;
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
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46) throw bad('no ELF header');
  if (bytes[4] !== 2) throw bad('not 64-bit ELF');
  const order = bytes[5];
  if (order !== 1 && order !== 2) throw bad('unknown byte order');
  const little = order === 1;
  const u16 = (at: number): number => (little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at));
  const u32 = (at: number): number => (little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
  // Exact up to 2^53; anything larger is far out of the file's bounds and stays so after rounding.
  const u64 = (at: number): number => Number(little ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at));
  const inside = (offset: number, size: number): boolean =>
    offset <= bytes.length && size <= bytes.length - offset;

  if (u16(16) !== 1) throw bad('not a relocatable ELF file');
  const table = u64(40);
  const entry = u16(58);
  if (table === 0) throw bad('no section table');
  if (entry !== 64 || !inside(table, 64)) throw bad('its section table is damaged or cut off');
  const section = (index: number): Section => {
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
  const first = section(0);
  const count = u16(60) === 0 ? first.size : u16(60);
  const namesIndex = u16(62) === SHN_XINDEX ? first.link : u16(62);
  if (!inside(table, count * 64)) throw bad('its section table is damaged or cut off');
  if (namesIndex === 0 || namesIndex >= count) throw bad('no section names');
  const names = section(namesIndex);
  if (names.type === SHT_NOBITS || !inside(names.offset, names.size))
    throw bad('its section names are cut off');

  const wanted = Buffer.from('.modinfo\0');
  let modinfo: Section | undefined;
  for (let index = 1; index < count; index++) {
    const each = section(index);
    if (each.type !== SHT_NOBITS && !inside(each.offset, each.size)) throw bad(`section ${index} is cut off`);
    if (each.name > names.size - wanted.length) continue;
    const at = names.offset + each.name;
    if (!bytes.subarray(at, at + wanted.length).equals(wanted)) continue;
    if (modinfo) throw bad('more than one .modinfo section');
    modinfo = each;
  }
  if (!modinfo || modinfo.type === SHT_NOBITS || modinfo.size === 0) throw bad('no .modinfo section');
  if (Math.floor(modinfo.flags / SHF_COMPRESSED) % 2 === 1) throw bad('its .modinfo section is compressed');
  if (modinfo.size > MAX_MODINFO_BYTES) throw bad('its .modinfo section is too large');

  const machine = u16(18);
  return {
    ...describe(bytes.subarray(modinfo.offset, modinfo.offset + modinfo.size).toString('utf8')),
    machine: (machine === 21 && little ? 'ppc64le' : MACHINE[machine]) ?? `em-${machine}`,
    signed: bytes.subarray(-SIGNATURE_MAGIC.length).equals(Buffer.from(SIGNATURE_MAGIC)),
  };
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
  const one = (key: string): string | undefined => fields.get(key)?.[0];
  const vermagic = fields.get('vermagic') ?? [];
  if (vermagic.length !== 1) throw bad(vermagic.length === 0 ? 'no vermagic' : 'more than one vermagic');
  // The kernel compares it byte by byte; nothing that had to be cleaned can be right.
  const magic = /(?:^|\0)vermagic=([\x21-\x7e][\x20-\x7e]{0,255})(?:\0|$)/.exec(modinfo)?.[1];
  if (magic === undefined) throw bad('its vermagic is not plain text');
  const [name, version, license, srcversion] = [
    one('name'),
    one('version'),
    one('license'),
    one('srcversion'),
  ];
  return {
    vermagic: magic.trimEnd(),
    ...(name !== undefined && { name }),
    ...(version !== undefined && { version }),
    ...(license !== undefined && { license }),
    ...(srcversion !== undefined && { srcversion }),
    alias: fields.get('alias') ?? [],
    depends: (one('depends') ?? '').split(',').filter((each) => each !== ''),
    firmware: fields.get('firmware') ?? [],
  };
}
