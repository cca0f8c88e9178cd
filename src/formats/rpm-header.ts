import { Unreadable, type ByteSource } from './bytes.js';

export interface RpmRelation {
  name: string;
  /** LT, GT, EQ, LE or GE; undefined without a version. */
  flags?: string | undefined;
  evr?: { epoch: string; version: string; release?: string | undefined } | undefined;
  /** Needed before the package's scripts run. */
  pre: boolean;
}

export interface RpmHeader {
  name: string;
  epoch: string;
  version: string;
  release: string;
  /** `src` for a source package. */
  arch: string;
  summary: string;
  description: string;
  packager: string;
  url: string;
  license: string;
  vendor: string;
  group: string;
  buildHost: string;
  sourceRpm: string;
  /** Seconds since 1970. */
  buildTime: number;
  /** Bytes of the installed files, and of the unpacked payload. */
  installedSize: number;
  archiveSize: number;
  /** Where the main header lies in the file: first byte, and the one after its last. */
  headerRange: [number, number];
  relations: Record<RelationKind, RpmRelation[]>;
  /** What rpm would run when it installs or removes the package. */
  scripts: { name: string; text: string }[];
  files: {
    path: string;
    type: 'file' | 'dir' | 'ghost';
    /** Type and permission bits, as in an inode. */
    mode: number;
    /** Lower-case hex; '' for what is no regular file, and where the package has another digest than SHA-256. */
    sha256: string;
  }[];
  /** `cpio` in every package of today, and what it is compressed with: `gzip`, `xz`, `zstd`, `bzip2`, `lzma`. */
  payload: { format: string; compressor: string };
  /** Newest first, as in the package. */
  changelog: { author: string; time: number; text: string }[];
}

/** Tags of name, flags and version, in the order in which the metadata list them. */
const RELATIONS = {
  provides: [1047, 1112, 1113],
  requires: [1049, 1048, 1050],
  conflicts: [1054, 1053, 1055],
  obsoletes: [1090, 1114, 1115],
  suggests: [5049, 5051, 5050],
  enhances: [5055, 5057, 5056],
  recommends: [5046, 5048, 5047],
  supplements: [5052, 5054, 5053],
} as const;
export type RelationKind = keyof typeof RELATIONS;
export const RELATION_KINDS = Object.keys(RELATIONS) as RelationKind[];

/** The first four bytes of every .rpm, big-endian. */
export const RPM_MAGIC = 0xedabeedb;
const LEAD_BYTES = 96;
// rpm's own limit is 256 MiB; the header of a package with a hundred thousand files has about 20.
const MAX_HEADER_BYTES = 64 << 20;

/** Reads the headers of an rpm (v3 and v4 format) and that the file is whole. Throws Unreadable for anything else. */
export async function readRpmHeader(source: ByteSource): Promise<RpmHeader> {
  const { size } = source;
  if (size === 0) throw new Unreadable('an empty file');
  const lead = await source.read(0, LEAD_BYTES);
  if (lead.readUInt32BE(0) !== RPM_MAGIC) throw new Unreadable('not an RPM package');
  const signature = await readTags(source, LEAD_BYTES);
  // The signature header is padded to a multiple of eight bytes.
  const start = Math.ceil(signature.end / 8) * 8;
  const main = await readTags(source, start);
  const rest = signature.number(1000) ?? signature.number(270);
  if (rest !== undefined && start + rest !== size) {
    throw new Unreadable(start + rest > size ? 'cut off' : 'damaged: longer than it says');
  }
  const archiveSize = signature.number(271) ?? signature.number(1007);
  return { ...describe(main, archiveSize), headerRange: [start, main.end] };
}

/** What the main header says; `archiveSize` is what the signature's header says of the payload. */
function describe(main: Tags, archiveSize: number | undefined): Omit<RpmHeader, 'headerRange'> {
  const [name, version, release, arch] = [1000, 1001, 1002, 1022].map((tag) => main.text(tag));
  if (!name || !version || !release || !arch) throw new Unreadable('an RPM package without name or version');
  const sourceRpm = main.text(1044);
  return {
    name,
    epoch: String(main.number(1003) ?? 0),
    version,
    release,
    arch: sourceRpm === '' ? 'src' : arch,
    summary: main.text(1004),
    description: main.text(1005),
    packager: main.text(1015),
    url: main.text(1020),
    license: main.text(1014),
    vendor: main.text(1011),
    group: main.text(1016),
    buildHost: main.text(1007),
    sourceRpm,
    buildTime: main.number(1006) ?? 0,
    installedSize: main.number(5009) ?? main.number(1009) ?? 0,
    archiveSize: archiveSize ?? main.number(1046) ?? 0,
    relations: relationsOf(main),
    scripts: SCRIPTS.flatMap(([name, tag]) => {
      const text = main.text(tag);
      return text === '' ? [] : [{ name, text }];
    }),
    files: filesOf(main),
    payload: { format: main.text(1124) || 'cpio', compressor: main.text(1125) || 'gzip' },
    changelog: changelogOf(main),
  };
}

function changelogOf(main: Tags): RpmHeader['changelog'] {
  const times = main.numbers(1080);
  const texts = main.texts(1082);
  return main.texts(1081).map((author, i) => ({ author, time: times[i] ?? 0, text: texts[i] ?? '' }));
}

/** The values of one header by their tags; none where a tag is missing or of another type. */
interface Tags {
  /** The byte after the header's last, in the file. */
  end: number;
  numbers(tag: number): number[];
  number(tag: number): number | undefined;
  texts(tag: number): string[];
  /** The first text, '' without one. */
  text(tag: number): string;
}

interface TagEntry {
  type: number;
  offset: number;
  count: number;
}

/** Bytes of one number, by its type. */
const WIDTHS: Partial<Record<number, number>> = { 2: 1, 3: 2, 4: 4, 5: 8 };
/** One string, an array of strings, strings in several languages. */
const STRING = 6;
const STRINGS = [STRING, 8, 9];

const damaged = (): Unreadable => new Unreadable('an RPM package with a damaged header');

async function readTags(source: ByteSource, at: number): Promise<Tags> {
  const intro = await source.read(at, 16);
  if (intro.readUInt32BE(0) !== 0x8eade801) throw damaged();
  const count = intro.readUInt32BE(8);
  const storeSize = intro.readUInt32BE(12);
  if (count * 16 + storeSize > MAX_HEADER_BYTES) {
    throw new Unreadable('an RPM package with too large a header');
  }
  const bytes = await source.read(at + 16, count * 16 + storeSize);
  const store = bytes.subarray(count * 16);
  const entries = new Map<number, TagEntry>();
  for (let i = 0; i < count * 16; i += 16) {
    entries.set(bytes.readUInt32BE(i), {
      type: bytes.readUInt32BE(i + 4),
      offset: bytes.readUInt32BE(i + 8),
      count: bytes.readUInt32BE(i + 12),
    });
  }
  const numbers = (tag: number): number[] => numbersIn(store, entries.get(tag));
  const texts = (tag: number): string[] => textsIn(store, entries.get(tag));
  return {
    end: at + 16 + bytes.length,
    numbers,
    number: (tag) => numbers(tag)[0],
    texts,
    text: (tag) => texts(tag)[0] ?? '',
  };
}

function numbersIn(store: Buffer, entry: TagEntry | undefined): number[] {
  const width = entry && WIDTHS[entry.type];
  if (!entry || width === undefined) return [];
  if (entry.offset + entry.count * width > store.length) throw damaged();
  return Array.from({ length: entry.count }, (_, i) => {
    const where = entry.offset + i * width;
    return width === 8 ? Number(store.readBigUInt64BE(where)) : store.readUIntBE(where, width);
  });
}

function textsIn(store: Buffer, entry: TagEntry | undefined): string[] {
  if (!entry || !STRINGS.includes(entry.type)) return [];
  const found: string[] = [];
  let where = entry.offset;
  while (found.length < (entry.type === STRING ? 1 : entry.count)) {
    const end = store.indexOf(0, where);
    if (end < 0) throw damaged();
    found.push(store.toString('utf8', where, end));
    where = end + 1;
  }
  return found;
}

/** Scriptlets by the names that spec files have for them. */
const SCRIPTS: [name: string, tag: number][] = [
  ...([
    ['%pretrans', 1151],
    ['%pre', 1023],
    ['%post', 1024],
    ['%preun', 1025],
  ] as [string, number][]),
  ...([
    ['%postun', 1026],
    ['%posttrans', 1152],
  ] as [string, number][]),
];

const LESS = 2;
const GREATER = 4;
const EQUAL = 8;
/** PREREQ, SCRIPT_PRE, SCRIPT_POST. */
const PRE = (1 << 6) | (1 << 9) | (1 << 10);
const COMPARISON: Record<number, string> = {
  [LESS]: 'LT',
  [GREATER]: 'GT',
  [EQUAL]: 'EQ',
  [LESS | EQUAL]: 'LE',
  [GREATER | EQUAL]: 'GE',
};

function relationsOf(main: Tags): RpmHeader['relations'] {
  const all = RELATION_KINDS.map((kind) => [kind, relationsAt(main, RELATIONS[kind])] as const);
  return Object.fromEntries(all) as RpmHeader['relations'];
}

function relationsAt(main: Tags, [names, flags, versions]: readonly [number, number, number]): RpmRelation[] {
  const sense = main.numbers(flags);
  const evr = main.texts(versions);
  return main.texts(names).map((name, i) => {
    const bits = sense[i] ?? 0;
    const comparison = COMPARISON[bits & (LESS | GREATER | EQUAL)];
    const text = evr[i] ?? '';
    return {
      name,
      pre: (bits & PRE) !== 0,
      ...(comparison !== undefined && text !== '' && { flags: comparison, evr: splitEvr(text) }),
    };
  });
}

/** `[epoch:]version-release`, an epoch of 0 left out. */
export const evrOf = ({ epoch, version, release }: RpmHeader): string =>
  `${epoch === '0' ? '' : `${epoch}:`}${version}-${release}`;

const OPERATOR: Record<string, string> = { LT: '<', GT: '>', EQ: '=', LE: '<=', GE: '>=' };

/** As `rpm -q --requires` prints it: `kernel-uname-r = 5.14.0-503.el9.x86_64`. */
export function relationText({ name, flags, evr }: RpmRelation): string {
  if (flags === undefined || !evr) return name;
  const release = evr.release === undefined ? '' : `-${evr.release}`;
  return `${name} ${OPERATOR[flags]} ${evr.epoch === '0' ? '' : `${evr.epoch}:`}${evr.version}${release}`;
}

function splitEvr(text: string): NonNullable<RpmRelation['evr']> {
  const [, epoch, version = '', release] = /^(?:(\d+):)?([^-]*)(?:-(.*))?$/.exec(text) ?? [];
  return { epoch: epoch ?? '0', version, release };
}

function filesOf(main: Tags): RpmHeader['files'] {
  const folders = main.texts(1118);
  const indexes = main.numbers(1116);
  const names = main.texts(1117);
  const paths =
    names.length > 0 ? names.map((name, i) => `${folders[indexes[i] ?? -1] ?? ''}${name}`) : main.texts(1027);
  const modes = main.numbers(1030);
  const flags = main.numbers(1037);
  // PGPHASHALGO_SHA256; without the tag they are MD5.
  const digests = main.number(5011) === 8 ? main.texts(1035) : [];
  return paths.map((path, i) => ({
    path,
    type: fileType(modes[i] ?? 0, flags[i] ?? 0),
    mode: modes[i] ?? 0,
    sha256: digests[i] ?? '',
  }));
}

const GHOST = 64;

function fileType(mode: number, flags: number): RpmHeader['files'][number]['type'] {
  if ((mode & 0o170000) === 0o040000) return 'dir';
  return (flags & GHOST) === 0 ? 'file' : 'ghost';
}
