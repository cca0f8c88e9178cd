import { createHash } from 'node:crypto';
import { dirname } from 'node:path';
import { gzipSync } from 'node:zlib';
import { Dkms2binError } from '../model/errors.js';
import { writeAtomic, type Published } from '../lib/atomic-write.js';

export interface ControlFields {
  package: string;
  version: string;
  architecture: string;
  /** `Name <address>`. */
  maintainer: string;
  section: string;
  priority: string;
  /** Each item one relation, alternatives included: `a (>= 1) | b`. */
  depends?: readonly string[];
  provides?: readonly string[];
  conflicts?: readonly string[];
  replaces?: readonly string[];
  /** Marks a package of debug symbols, as Debian's own are: the build ids (hex) that it has files for, possibly none. */
  buildIds?: readonly string[];
  description: {
    synopsis: string;
    /** Lines of the long description, shown as they are; '' is a blank line. */
    lines: readonly string[];
  };
}

export interface DebFile {
  /** Absolute path on the target. */
  path: string;
  /** Permission bits; setuid, setgid and sticky are refused. */
  mode: number;
  bytes: Buffer;
}

export interface DebInput {
  control: ControlFields;
  files: readonly DebFile[];
  /** Symbolic links; `target` is written as it stands. */
  links?: readonly { path: string; target: string }[];
  scripts: { postinst?: string; postrm?: string };
  /** Seconds since 1970 for every member (SOURCE_DATE_EPOCH). */
  mtime: number;
}

/** Makes the .deb and publishes it at `to`, whole or not at all. An identical file there is left alone. */
export async function writeDeb(input: DebInput & { to: string }): Promise<Published> {
  return writeAtomic(makeDeb(input), input.to);
}

/**
 * The bytes of a .deb, a function of its input alone. gzip, not xz: zlib is part of Node, so the bytes do not depend
 * on the host's tools, and every dpkg reads it. Files under /etc become conffiles.
 */
export function makeDeb({ control, files, links = [], scripts, mtime }: DebInput): Buffer {
  if (!Number.isSafeInteger(mtime) || mtime < 0 || mtime >= 8 ** 11) {
    throw new Dkms2binError('usage', `Not a time for package files (SOURCE_DATE_EPOCH): ${mtime}`);
  }
  const data = withParents(files, links);
  const conffiles = files.map((file) => file.path).filter((path) => path.startsWith('/etc/'));
  const sums = data
    .filter((each) => each.bytes !== null && !each.path.startsWith('/etc/'))
    .map((each) => `${md5(each.bytes ?? Buffer.alloc(0))}  ${each.path.slice(1)}\n`);
  // Policy 5.6.20: KiB, every file rounded up, a folder counts one.
  const installedSize = data.reduce(
    (sum, each) => sum + Math.max(1, Math.ceil((each.bytes?.length ?? 0) / 1024)),
    0,
  );

  const members: DebFile[] = [
    { path: '/control', mode: 0o644, bytes: Buffer.from(formatControl(control, installedSize)) },
  ];
  if (sums.length > 0) members.push({ path: '/md5sums', mode: 0o644, bytes: Buffer.from(sums.join('')) });
  if (conffiles.length > 0) {
    members.push({ path: '/conffiles', mode: 0o644, bytes: Buffer.from(`${conffiles.sort().join('\n')}\n`) });
  }
  for (const name of ['postinst', 'postrm'] as const) {
    const text = scripts[name];
    if (text !== undefined) members.push({ path: `/${name}`, mode: 0o755, bytes: Buffer.from(text) });
  }
  const gzip = (entries: Entry[]): Buffer => gzipSync(tar(entries, mtime), { level: 9 });
  return ar(
    [
      ['debian-binary', Buffer.from('2.0\n')],
      ['control.tar.gz', gzip(withParents(members))],
      ['data.tar.gz', gzip(data)],
    ],
    mtime,
  );
}

const RELATION =
  /^[a-z0-9][a-z0-9+.-]+( \((<<|<=|=|>=|>>) [A-Za-z0-9.+~:-]+\))?( \| [a-z0-9][a-z0-9+.-]+( \((<<|<=|=|>=|>>) [A-Za-z0-9.+~:-]+\))?)*$/;

/** The control file. Refuses whatever would start a new field or that dpkg would not accept. */
export function formatControl(control: ControlFields, installedSize: number): string {
  field('Package', control.package, /^[a-z0-9][a-z0-9+.-]+$/);
  field('Version', control.version, /^(\d+:)?\d[A-Za-z0-9.+~]*(-[A-Za-z0-9.+~]+)*$/);
  field('Architecture', control.architecture, /^[a-z0-9][a-z0-9-]*$/);
  field('Section', control.section, /^[a-z0-9/+-]+$/);
  field('Priority', control.priority, /^[a-z]+$/);
  field('Maintainer', control.maintainer, /^[^<>@,]*[^<>@,\s] <[^<>@\s]+@[^<>@\s]+>$/);
  field('Description', control.description.synopsis, /^\S/);
  const relations = (name: string, items: readonly string[] = []): string[] => {
    for (const item of items) field(name, item, RELATION);
    return items.length === 0 ? [] : [`${name}: ${items.join(', ')}`];
  };
  const lines = control.description.lines.map((line) => {
    if (line.trim() === '') return ' .';
    // A line that starts with a dot means something to dpkg.
    return ` ${field('Description', line, /^[^.]/).trimEnd()}`;
  });
  return [
    `Package: ${control.package}`,
    `Version: ${control.version}`,
    `Architecture: ${control.architecture}`,
    `Maintainer: ${control.maintainer}`,
    `Installed-Size: ${installedSize}`,
    ...relations('Depends', control.depends),
    ...relations('Conflicts', control.conflicts),
    ...relations('Replaces', control.replaces),
    ...relations('Provides', control.provides),
    `Section: ${control.section}`,
    `Priority: ${control.priority}`,
    `Description: ${control.description.synopsis}`,
    ...lines,
    ...(control.buildIds ? ['Auto-Built-Package: debug-symbols'] : []),
    ...(control.buildIds?.length
      ? [`Build-Ids: ${control.buildIds.map((id) => field('Build-Ids', id, /^[0-9a-f]+$/)).join(' ')}`]
      : []),
    '',
  ].join('\n');
}

function field(name: string, value: string, shape: RegExp): string {
  if (/[\x00-\x1f\x7f-\x9f\u2028\u2029]/.test(value) || !shape.test(value)) {
    throw new Dkms2binError('usage', `Not a value for a package's ${name}: ${JSON.stringify(value)}`);
  }
  return value;
}

interface Entry {
  path: string;
  mode: number;
  /** Null for a folder and a link. */
  bytes: Buffer | null;
  /** Where a symbolic link points. */
  target?: string;
}

/** Files and symbolic links as a tar of `/`; its bytes are a function of the input. Throws fault `usage` for what it cannot hold. */
export function filesTar(files: readonly DebFile[], links: DebInput['links'], mtime: number): Buffer {
  return tar(withParents(files, links), mtime);
}

/** The files, links and all their parent folders, parents first, in byte order. */
function withParents(files: readonly DebFile[], links: DebInput['links'] = []): Entry[] {
  const entries = new Map<string, Entry>();
  const all: Entry[] = [...files, ...links.map((link) => ({ ...link, mode: 0o777, bytes: null }))];
  for (const { path, mode, ...content } of all) {
    if (
      !/^(\/[^/\x00-\x1f\x7f]+)+$/.test(path) ||
      path.split('/').some((part) => part === '.' || part === '..')
    ) {
      throw new Dkms2binError('usage', `Not a path for a package's file: ${JSON.stringify(path)}`);
    }
    if ((mode & ~0o777) !== 0) {
      throw new Dkms2binError('usage', `Not a mode for ${path}: ${mode.toString(8)}`);
    }
    if (entries.has(path)) throw new Dkms2binError('usage', `Twice in one package: ${path}`);
    if (content.target !== undefined && !/^[\x21-\x7e]{1,100}$/.test(content.target)) {
      throw new Dkms2binError(
        'usage',
        `Not a target for the link ${path}: ${JSON.stringify(content.target)}`,
      );
    }
    entries.set(path, { path, mode, ...content });
  }
  const folders = new Set<string>(['/']);
  for (const path of entries.keys()) {
    for (let up = dirname(path); up !== '/'; up = dirname(up)) folders.add(up);
  }
  for (const path of folders) {
    if (entries.has(path))
      throw new Dkms2binError('usage', `Both a file and a folder in one package: ${path}`);
    entries.set(path, { path, mode: 0o755, bytes: null });
  }
  const keys = [...entries.values()].map((entry) => [Buffer.from(tarName(entry)), entry] as const);
  return keys.sort(([a], [b]) => Buffer.compare(a, b)).map(([, entry]) => entry);
}

function tarName(entry: Entry): string {
  return isFolder(entry) && entry.path !== '/' ? `.${entry.path}/` : `.${entry.path}`;
}

const isFolder = ({ bytes, target }: Entry): boolean => bytes === null && target === undefined;

/** POSIX ustar without extensions: dpkg refuses pax headers (deb(5)). */
function tar(entries: readonly Entry[], mtime: number): Buffer {
  const blocks: Buffer[] = [];
  for (const entry of entries) {
    const size = entry.bytes?.length ?? 0;
    const header = Buffer.alloc(512);
    const [prefix, name] = splitName(Buffer.from(tarName(entry)));
    name.copy(header, 0);
    octal(header, 100, 8, entry.mode);
    octal(header, 108, 8, 0);
    octal(header, 116, 8, 0);
    octal(header, 124, 12, size);
    octal(header, 136, 12, mtime);
    header.fill(' ', 148, 156);
    header.write(isFolder(entry) ? '5' : entry.target === undefined ? '0' : '2', 156);
    header.write(entry.target ?? '', 157, 'latin1');
    header.write('ustar\x0000', 257, 'latin1');
    header.write('root', 265);
    header.write('root', 297);
    octal(header, 329, 8, 0);
    octal(header, 337, 8, 0);
    prefix.copy(header, 345);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    blocks.push(header);
    if (entry.bytes !== null) blocks.push(entry.bytes, Buffer.alloc((512 - (size % 512)) % 512));
  }
  blocks.push(Buffer.alloc(1024));
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  blocks.push(Buffer.alloc((10240 - (length % 10240)) % 10240));
  return Buffer.concat(blocks);
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

function ar(members: readonly (readonly [name: string, bytes: Buffer])[], mtime: number): Buffer {
  const parts: Buffer[] = [Buffer.from('!<arch>\n')];
  for (const [name, bytes] of members) {
    const owner = `${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}`;
    const header = `${name.padEnd(16)}${String(mtime).padEnd(12)}${owner}${String(bytes.length).padEnd(10)}\`\n`;
    parts.push(Buffer.from(header), bytes);
    if (bytes.length % 2 === 1) parts.push(Buffer.from('\n'));
  }
  return Buffer.concat(parts);
}

function md5(bytes: Buffer): string {
  return createHash('md5').update(bytes).digest('hex');
}
