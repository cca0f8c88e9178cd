import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { RPM_MAGIC } from '../formats/rpm-header.js';

/** A package that the host makes itself: of small files and without scripts, so that no distro's rpmbuild is needed. */
export interface SmallRpm {
  name: string;
  version: string;
  release: string;
  architecture: string;
  summary: string;
  description: string;
  packager: string;
  /** As a spec file has them: `a`, `a >= 1-2`, `(a = 1 if b)`. */
  requires: readonly string[];
  recommends: readonly string[];
  provides: readonly string[];
  conflicts: readonly string[];
  obsoletes: readonly string[];
  /** Of settings an administrator's changes outlive an upgrade. */
  files: readonly { path: string; bytes: Buffer; settings: boolean }[];
  /** For /bin/sh; of `preun` the first argument is 0 when the last package of the name goes. */
  scripts?: { post: string; preun: string };
  /** Seconds since 1970. */
  mtime: number;
}

type Value =
  | { int16: number[] }
  | { int32: number[] }
  | { text: string }
  | { texts: string[] }
  | { i18n: string }
  | { bytes: Buffer };

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** The bytes of an .rpm (format 4), a function of the input alone. */
export function makeRpm(input: SmallRpm): Buffer {
  const payload = gzipSync(cpio(input), { level: 9 });
  const main = header(63, { ...about(input), ...filesOf(input), ...payloadTags(input, payload) });
  const both = Buffer.concat([main, payload]);
  const signature = header(62, {
    269: { text: createHash('sha1').update(main).digest('hex') },
    273: { text: sha256(main) },
    1000: { int32: [both.length] },
    1004: { bytes: createHash('md5').update(both).digest() },
    1007: { int32: [cpio(input).length] },
  });
  const padding = Buffer.alloc((8 - (signature.length % 8)) % 8);
  return Buffer.concat([lead(input), signature, padding, both]);
}

function lead({ name, version, release, architecture }: SmallRpm): Buffer {
  const bytes = Buffer.alloc(96);
  bytes.writeUInt32BE(RPM_MAGIC);
  bytes.writeUInt8(3, 4);
  bytes.writeUInt16BE({ x86_64: 1, aarch64: 19 }[architecture] ?? 255, 8);
  // A NUL ends it.
  bytes.write(`${name}-${version}-${release}`.slice(0, 65), 10, 'latin1');
  bytes.writeUInt16BE(1, 76);
  // The signature is a header, as in every package of today.
  bytes.writeUInt16BE(5, 78);
  return bytes;
}

function about(input: SmallRpm): Record<number, Value> {
  const { name, version, release, architecture } = input;
  const provides = [`${name} = ${version}-${release}`, ...input.provides];
  const rich = [...input.requires, ...input.recommends].some((each) => each.startsWith('('));
  const features = [
    ...['rpmlib(CompressedFileNames) <= 3.0.4-1', 'rpmlib(FileDigests) <= 4.6.0-1'],
    ...['rpmlib(PayloadFilesHavePrefix) <= 4.0-1', ...(rich ? ['rpmlib(RichDependencies) <= 4.12.0-1'] : [])],
  ];
  return {
    100: { texts: ['C'] },
    1000: { text: name },
    1001: { text: version },
    1002: { text: release },
    1004: { i18n: input.summary },
    1005: { i18n: input.description },
    1006: { int32: [input.mtime] },
    1007: { text: 'dkms2bin' },
    1009: { int32: [input.files.reduce((sum, { bytes }) => sum + bytes.length, 0)] },
    1014: { text: 'Apache-2.0' },
    1015: { text: input.packager },
    1016: { i18n: 'System/Kernel' },
    1021: { text: 'linux' },
    1022: { text: architecture },
    // Without it a package is one of source.
    1044: { text: `${name}-${version}-${release}.src.rpm` },
    1064: { text: '4.14.0' },
    ...relations([1047, 1112, 1113], provides),
    ...relations([1049, 1048, 1050], [...input.requires, ...features]),
    ...relations([1054, 1053, 1055], input.conflicts),
    ...relations([1090, 1114, 1115], input.obsoletes),
    ...relations([5046, 5048, 5047], input.recommends),
    ...scriptsOf(input),
  };
}

const SHELL = '/bin/sh';

function scriptsOf({ scripts }: SmallRpm): Record<number, Value> {
  if (!scripts) return {};
  return {
    ...{ 1024: { text: scripts.post }, 1086: { text: SHELL } },
    ...{ 1025: { text: scripts.preun }, 1087: { text: SHELL } },
  };
}

const SENSE: Record<string, number> = { '<': 2, '>': 4, '=': 8, '<=': 10, '>=': 12 };
const RPMLIB = 1 << 24;

function relations(
  [names, flags, versions]: [number, number, number],
  all: readonly string[],
): Record<number, Value> {
  if (all.length === 0) return {};
  const parts = all.map((each) => {
    const [, name = each, sense = '', version = ''] = /^([^(]\S*) ([<>=]+) (\S+)$/.exec(each) ?? [];
    return { name, flags: (SENSE[sense] ?? 0) | (name.startsWith('rpmlib(') ? RPMLIB : 0), version };
  });
  return {
    [names]: { texts: parts.map((each) => each.name) },
    [flags]: { int32: parts.map((each) => each.flags) },
    [versions]: { texts: parts.map((each) => each.version) },
  };
}

const MODE = 0o100644;
/** CONFIG and NOREPLACE. */
const KEPT = 1 | 16;

function filesOf({ files, mtime }: SmallRpm): Record<number, Value> {
  if (files.length === 0) return {};
  const folders = [...new Set(files.map(({ path }) => path.slice(0, path.lastIndexOf('/') + 1)))];
  const each = (value: number): number[] => files.map(() => value);
  return {
    1028: { int32: files.map(({ bytes }) => bytes.length) },
    1030: { int16: each(MODE) },
    1033: { int16: each(0) },
    1034: { int32: each(mtime) },
    1035: { texts: files.map(({ bytes }) => sha256(bytes)) },
    1036: { texts: files.map(() => '') },
    1037: { int32: files.map(({ settings }) => (settings ? KEPT : 0)) },
    1039: { texts: files.map(() => 'root') },
    1040: { texts: files.map(() => 'root') },
    1045: { int32: each(0xffffffff) },
    1095: { int32: each(1) },
    1096: { int32: files.map((_, at) => at + 1) },
    1097: { texts: files.map(() => '') },
    1116: { int32: files.map(({ path }) => folders.indexOf(path.slice(0, path.lastIndexOf('/') + 1))) },
    1117: { texts: files.map(({ path }) => path.slice(path.lastIndexOf('/') + 1)) },
    1118: { texts: folders },
    5011: { int32: [SHA256] },
  };
}

/** PGPHASHALGO_SHA256. */
const SHA256 = 8;

const payloadTags = ({ architecture }: SmallRpm, payload: Buffer): Record<number, Value> => ({
  1124: { text: 'cpio' },
  1125: { text: 'gzip' },
  1126: { text: '9' },
  1132: { text: `${architecture}-linux` },
  5092: { texts: [sha256(payload)] },
  5093: { int32: [SHA256] },
});

/** In the new format (newc). */
function cpio({ files, mtime }: SmallRpm): Buffer {
  const entries = files.map(({ path, bytes }, at) => ({
    name: `.${path}`,
    inode: at + 1,
    mode: MODE,
    bytes,
    mtime,
  }));
  const end = { name: 'TRAILER!!!', inode: 0, mode: 0, bytes: Buffer.alloc(0), mtime: 0 };
  const parts = [...entries, end].flatMap(({ name, inode, mode, bytes, mtime: time }) => {
    const numbers = [inode, mode, 0, 0, 1, time, bytes.length, 0, 0, 0, 0, name.length + 1, 0];
    const head = `070701${numbers.map((each) => each.toString(16).padStart(8, '0')).join('')}${name}\0`;
    return [padded(Buffer.from(head, 'latin1')), padded(bytes)];
  });
  return Buffer.concat(parts);
}

const padded = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);

/** A header; `region` is the tag that says that all of it belongs together. */
function header(region: number, values: Record<number, Value>): Buffer {
  const index: Buffer[] = [];
  let store = Buffer.alloc(0);
  // Numbers as keys are in their order.
  for (const [tag, value] of Object.entries(values)) {
    const { type, count, align, bytes } = encoded(value);
    store = Buffer.concat([store, Buffer.alloc((align - (store.length % align)) % align)]);
    index.push(words(Number(tag), type, store.length, count));
    store = Buffer.concat([store, bytes]);
  }
  const size = (index.length + 1) * 16;
  const first = words(region, BYTES, store.length, 16);
  const trailer = words(region, BYTES, -size, 16);
  const intro = words(0x8eade801, 0, index.length + 1, store.length + trailer.length);
  return Buffer.concat([intro, first, ...index, store, trailer]);
}

const BYTES = 7;

function encoded(value: Value): { type: number; count: number; align: number; bytes: Buffer } {
  const text = (texts: readonly string[]): Buffer => Buffer.from(texts.map((each) => `${each}\0`).join(''));
  if ('int16' in value) {
    const bytes = Buffer.alloc(value.int16.length * 2);
    value.int16.forEach((each, at) => bytes.writeUInt16BE(each, at * 2));
    return { type: 3, count: value.int16.length, align: 2, bytes };
  }
  if ('int32' in value) return { type: 4, count: value.int32.length, align: 4, bytes: words(...value.int32) };
  if ('bytes' in value) return { type: BYTES, count: value.bytes.length, align: 1, bytes: value.bytes };
  if ('text' in value) return { type: 6, count: 1, align: 1, bytes: text([value.text]) };
  if ('i18n' in value) return { type: 9, count: 1, align: 1, bytes: text([value.i18n]) };
  return { type: 8, count: value.texts.length, align: 1, bytes: text(value.texts) };
}

function words(...numbers: number[]): Buffer {
  const bytes = Buffer.alloc(numbers.length * 4);
  numbers.forEach((each, at) => bytes.writeUInt32BE(each >>> 0, at * 4));
  return bytes;
}
