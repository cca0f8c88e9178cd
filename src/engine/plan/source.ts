import type { Stats } from 'node:fs';
import { open, readFile, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import type { ModuleSource, SourceOrigin } from '../../model/cell.js';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import type { PlanContext } from '../../model/context.js';
import { MAX_SOURCE_BYTES } from '../../cell/source.js';
import type { RunOptions } from '../../lib/exec.js';
import { runBytesConfined } from '../../lib/sandbox.js';
import type { BuildRequest } from '../../options/request.js';
import { parseAddress, shownAddress } from '../../source/address.js';
import { wantsFilling } from '../../source/conf.js';
import {
  archiveSource,
  dscSource,
  fetchedFile,
  folderSource,
  gitSource,
  installedSource,
  type SourceMeans,
} from '../../source/prepared.js';
import { whatFileIs } from '../../source/kinds.js';
import { readConfNames } from '../../source/conf-text.js';

const TARBALL = /\.(?:tar|tar\.gz|tgz|tar\.xz|txz|tar\.zst|tar\.bz2|tbz2?)$/i;
const MAX_LIST_BYTES = 1 << 20;
const MAX_CONF_BYTES = 1 << 20;
/** A kernel-sized tree stays far below. */
const MAX_MEMBERS = 200_000;
const MAX_MEMBER_LIST_BYTES = 64 << 20;
const MAX_TAR_SECONDS = 120;

/**
 * Turns one `--dkms` value into module sources: one, or as many as a list file names. What exists on disk decides
 * before the look of the text does; what lies elsewhere is fetched. Nothing of a source is run. Throws fault `usage`,
 * `not-found`, or `transient` for what cannot be fetched.
 */
export async function parseModuleSource(
  text: string,
  { cwd, ...means }: { cwd: string } & Partial<SourceMeans>,
): Promise<ModuleSource[]> {
  const nobody = { emit: () => undefined, signal: new AbortController().signal };
  return parse(text, { offline: false, ...nobody, ...means, cwd, inList: false });
}

/** What a request says of where its sources are and how they are reached. */
export const sourceOptions = (
  { cwd, offline, proxy, moduleVersion }: BuildRequest,
  { emit, signal }: PlanContext,
): { cwd: string } & SourceMeans => ({ cwd, offline, proxy, moduleVersion, emit, signal });

interface ParseOptions extends SourceMeans {
  cwd: string;
  /** Whether a list file named it, which may name no other one. */
  inList: boolean;
}

async function parse(text: string, options: ParseOptions): Promise<ModuleSource[]> {
  const value = text.trim();
  if (value === '') throw new Dkms2binError('usage', '--dkms is empty');

  if (/[\x00-\x1f\x7f]/.test(value)) throw new Dkms2binError('usage', '--dkms holds a control character');
  const path = resolve(options.cwd, value.replace(/^~(?=\/)/, homedir()));
  const info = await statOf(value, path);
  if (!info) return [await elsewhere(value, path, options)];
  if (info.isDirectory()) return [await folderOrPackage(value, path, options)];
  if (!info.isFile()) throw new Dkms2binError('usage', `${value} is neither a file nor a folder`);
  const source = await fileSource({ text: value, name: basename(path), path }, options);
  return source ? [source] : list(value, path, options);
}

/** What no path of this machine names. */
async function elsewhere(value: string, path: string, options: ParseOptions): Promise<ModuleSource> {
  const address = parseAddress(value);
  switch (address?.kind) {
    case undefined:
      return notOnDisk(value, path);
    case 'git':
      return gitSource(value, address, options);
    case 'module': {
      const { name, version } = address;
      const text = `${name}/${version}`;
      const here = await installedSource(text, address);
      if (here) return folder(here.text, here.path, options);
      return { kind: 'repo', text, name: packageOf(name), version, module: name };
    }
    case 'file': {
      const text = shownAddress(value);
      const { path: fetched, origin } = await fetchedFile(address, options);
      const source = await fileSource({ text, name: address.name, path: fetched, origin }, options);
      if (source) return source;
      throw new Dkms2binError(
        'usage',
        `${text} is no package and no archive${looksLike(await firstBytes(fetched, 512))}`,
      );
    }
  }
}

/** What a distro likely calls the package of a module. */
const packageOf = (module: string): string => `${module.toLowerCase().replaceAll('_', '-')}-dkms`;

/** Null for what is not there. */
async function statOf(value: string, path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw new Dkms2binError('usage', `Cannot read ${value}: ${messageOf(error)}`);
  }
}

function notOnDisk(value: string, path: string): ModuleSource {
  if (value.includes('/') || /\.(?:deb|rpm|txt|list)$/i.test(value) || TARBALL.test(value)) {
    throw new Dkms2binError('usage', `No such file or folder: ${value}`, {
      hint: `Looked for ${path}. A package of the distro is named without a path, such as acpi-call-dkms.`,
    });
  }
  return parseRepositoryName(value);
}

/** A folder that merely shares a package's name (a checkout next to us) does not hide the package. */
async function folderOrPackage(value: string, path: string, options: ParseOptions): Promise<ModuleSource> {
  const named = REPOSITORY_NAME.test(value) && /-(?:dkms|source)(?:-|=|$)/.test(value);
  if (named && !(await exists(join(path, 'dkms.conf')))) return parseRepositoryName(value);
  return folder(value, path, options);
}

/** A file on this machine, by what it was asked for and is called. */
interface NamedFile {
  text: string;
  name: string;
  path: string;
  origin?: SourceOrigin;
}

/** Null for what may be a list file. */
async function fileSource(file: NamedFile, options: ParseOptions): Promise<ModuleSource | null> {
  const { text, name, path, origin } = file;
  const head = await firstBytes(path, 512);
  const kind = packageKind(file, head);
  if (kind) return { kind, text, path, ...(origin && { origin }) };
  if (/\.dsc$/i.test(name)) return dscSource(text, path, options, origin);
  if (/\.zip$/i.test(name) || isZip(head)) return archiveSource(text, path, options, origin);
  if (TARBALL.test(name) || isArchive(head)) return tarball(file, options);
  const other = whatFileIs(name, head);
  if (other) throw new Dkms2binError('usage', `${text} is ${other.what}`, { hint: other.hint });
  return null;
}

/** Null for what is no package. Throws fault `usage` for a file that is named like one and is none. */
function packageKind({ text, name }: NamedFile, head: Buffer): 'deb' | 'rpm' | null {
  if (/\.u?deb$/i.test(name) && !isDeb(head))
    throw new Dkms2binError('usage', `${text} is not a Debian package${looksLike(head)}`);
  if (/\.rpm$/i.test(name) && !isRpm(head))
    throw new Dkms2binError('usage', `${text} is not an RPM package${looksLike(head)}`);
  if (isDeb(head)) return 'deb';
  return isRpm(head) ? 'rpm' : null;
}

const KINDS =
  "--dkms takes a package's or module's name, a .deb, .rpm or .dsc file, a source folder or archive, the URL of one of these or of a git repository, or a list file.";

const REPOSITORY_NAME = /^[A-Za-z0-9][A-Za-z0-9+._~-]*(?:=[A-Za-z0-9+._~:-]+)?$/;

/**
 * `name`, `name=version`, `name-version` and the seed's `name-version~`. The version keeps its trailing `~`, which
 * means: any version that starts with the text before it.
 */
export function parseRepositoryName(text: string): ModuleSource {
  if (!REPOSITORY_NAME.test(text) || text.length > 200) {
    throw new Dkms2binError('usage', `Not a package name, and no such file: ${text}`, {
      hint: KINDS,
    });
  }
  const equals = text.indexOf('=');
  const bare = equals < 0 ? text : text.slice(0, equals);
  // A package's name has no underscore; a module's may.
  if (/^[A-Za-z0-9][A-Za-z0-9_]*$/.test(bare) && bare.includes('_')) {
    const version = equals < 0 ? {} : { version: text.slice(equals + 1) };
    return { kind: 'repo', text, name: packageOf(bare), ...version, module: bare };
  }
  // The version begins at the first dash that is followed by a digit, with something that can be a name before it. A package of
  // that whole name comes first, where the distro has one; what ends like a package's name is taken for one.
  const dashed = equals < 0 && !/-dkms$/i.test(bare) ? /^(.+?)-(\d[A-Za-z0-9+._~-]*)$/.exec(bare) : null;
  const name = (dashed?.[1] ?? bare).toLowerCase();
  const version = equals < 0 ? dashed?.[2] : text.slice(equals + 1);
  if (!/^[a-z0-9][a-z0-9+.-]+$/.test(name)) {
    throw new Dkms2binError('usage', `Not a Debian package name: ${name}`, {
      hint: 'Package names consist of lower-case letters, digits and + - .',
    });
  }
  return { kind: 'repo', text, name, ...(version === undefined ? {} : { version }) };
}

async function folder(text: string, path: string, options: ParseOptions): Promise<ModuleSource> {
  const file = join(path, 'dkms.conf');
  const info = await stat(file).catch(() => undefined);
  if (!info?.isFile()) return folderSource(text, path, options);
  if (info.size > MAX_CONF_BYTES) throw new Dkms2binError('usage', `${text}/dkms.conf is larger than 1 MB`);
  const conf = await readFile(file, 'utf8');
  if (wantsFilling(conf)) return folderSource(text, path, options);
  readConfNames(conf, `${text}/dkms.conf`);
  noteUnused(conf, `${text}/dkms.conf`, options);
  return { kind: 'folder', text, path };
}

/** A version that is given for a source which says its own. */
function noteUnused(conf: string, where: string, { moduleVersion, emit }: ParseOptions): void {
  if (moduleVersion === undefined || !/^[ \t]*(?:export[ \t]+)?PACKAGE_VERSION=/m.test(conf)) return;
  const message = `--module-version is not used: ${where} says its version itself`;
  emit({ type: 'note', level: 'warn', message });
}

async function tarball({ text, path, origin }: NamedFile, means: ParseOptions): Promise<ModuleSource> {
  const { signal } = means;
  const members = await membersOf(text, path, signal);
  if (members.some(({ name }) => name.split('/').includes('..')))
    throw new Dkms2binError('usage', `${text} is not a readable archive: it has a path with .. in it`);
  // dkms mktarball puts the tree in ./dkms_source_tree/; others have it at the top, in a leading folder or deeper.
  const conf = members
    .map(({ name }) => name)
    .filter((name) => /(?:^|\/)dkms\.conf$/.test(name))
    .sort((a, b) => a.split('/').length - b.split('/').length)[0];
  if (conf === undefined) return archiveSource(text, path, means, origin);
  const size = members.find(({ name }) => name === conf)?.size ?? 0;
  if (size > MAX_CONF_BYTES) throw new Dkms2binError('usage', `${conf} in ${text} is larger than 1 MB`);
  const options = { ...tarOptions(signal), maxBytes: MAX_CONF_BYTES };
  const bytes = await runBytesConfined({ readable: [path] }, ['tar', '-xOf', path, '--', conf], options);
  const content = bytes.toString('utf8');
  if (wantsFilling(content)) return archiveSource(text, path, means, origin);
  readConfNames(content, `${conf} in ${text}`);
  noteUnused(content, `${conf} in ${text}`, means);
  return { kind: 'tarball', text, path, ...(origin && { origin }) };
}

const tarOptions = (signal?: AbortSignal): Pick<RunOptions, 'env' | 'timeout' | 'cancelSignal'> => ({
  env: { LC_ALL: 'C' },
  timeout: MAX_TAR_SECONDS * 1000,
  ...(signal === undefined ? {} : { cancelSignal: signal }),
});

/** A tarball's members. What tar calls their size counts, holes of sparse files included. */
async function membersOf(
  text: string,
  path: string,
  signal?: AbortSignal,
): Promise<{ name: string; size: number }[]> {
  let listed: Buffer;
  try {
    listed = await runBytesConfined({ readable: [path] }, ['tar', '--numeric-owner', '-tvf', path], {
      ...tarOptions(signal),
      maxBytes: MAX_MEMBER_LIST_BYTES,
    });
  } catch (error) {
    if (error instanceof Dkms2binError && error.fault === 'interrupted') throw error;
    const why = messageOf(error);
    if (why.includes('is not installed')) throw error;
    if (why.includes('ran out of time'))
      throw tooLarge(text, `more than ${MAX_TAR_SECONDS} s of work`, `${MAX_TAR_SECONDS} s`);
    if (why.includes('wrote more than'))
      throw tooLarge(text, 'a longer list of files', `${MAX_MEMBERS} files`);
    throw new Dkms2binError('usage', `${text} cannot be read as a tar archive`, {
      hint: why.split('\n').at(-1) ?? '',
      cause: error,
    });
  }
  const lines = listed.toString('utf8').split('\n').slice(0, -1);
  if (lines.length > MAX_MEMBERS) throw tooLarge(text, `${lines.length} files`, String(MAX_MEMBERS));
  // Mode, owner, size, date, time, name. A device has two numbers in place of its size.
  const members = lines.flatMap((line) => {
    const [, size, name] = /^\S+ +\S+ +(\d+) \S+ \S+ (.*)$/.exec(line) ?? [];
    return name === undefined ? [] : { name: name.replace(/ (?:->|link to) .*$/, ''), size: Number(size) };
  });
  const bytes = members.reduce((sum, { size }) => sum + size, 0);
  if (bytes > MAX_SOURCE_BYTES) throw tooLarge(text, `${bytes} bytes`, String(MAX_SOURCE_BYTES));
  return members;
}

const tooLarge = (text: string, what: string, limit: string): Dkms2binError =>
  new Dkms2binError('usage', `${text} unpacks to ${what}, the limit is ${limit}`, {
    hint: 'The source of a module is far smaller: look at what else is in it (tar -tvf).',
  });

async function list(text: string, path: string, options: ParseOptions): Promise<ModuleSource[]> {
  if (options.inList) throw new Dkms2binError('usage', `A list file inside a list file: ${text}`);
  if ((await stat(path)).size > MAX_LIST_BYTES) {
    throw new Dkms2binError('usage', `${text} is not a DKMS source, and is too large for a list file`);
  }
  const content = await readFile(path, 'utf8');

  if (/[\x00-\x08\x0e-\x1f\ufffd]/.test(content)) {
    throw new Dkms2binError('usage', `${text} is not a kind of source that dkms2bin knows`, {
      hint: KINDS,
    });
  }
  const sources: ModuleSource[] = [];
  for (const [index, raw] of content.split(/\r?\n/).entries()) {
    const line = raw.replace(/(?:^|\s)#.*$/, '').trim();
    if (line === '') continue;
    try {
      sources.push(...(await parse(line, { ...options, inList: true })));
    } catch (error) {
      if (!(error instanceof Dkms2binError)) throw error;
      throw new Dkms2binError(error.fault, `${text}, line ${index + 1}: ${error.message}`, {
        ...(error.hint === undefined ? {} : { hint: error.hint }),
        cause: error,
      });
    }
  }
  if (sources.length === 0) throw new Dkms2binError('usage', `The list file ${text} names no module`);
  return sources;
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

async function firstBytes(path: string, length: number): Promise<Buffer> {
  let handle;
  try {
    handle = await open(path, 'r');
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, 0);
    return buffer.subarray(0, bytesRead);
  } catch (error) {
    throw new Dkms2binError('usage', `Cannot read ${path}: ${messageOf(error)}`);
  } finally {
    await handle?.close();
  }
}

function isDeb(head: Buffer): boolean {
  return (
    head.subarray(0, 8).toString('latin1') === '!<arch>\n' &&
    head.toString('latin1', 8, 21) === 'debian-binary'
  );
}

function isRpm(head: Buffer): boolean {
  return head.length > 4 && head.readUInt32BE(0) === 0xedabeedb;
}

function isZip(head: Buffer): boolean {
  return head.toString('latin1', 0, 4) === 'PK\x03\x04';
}

function isArchive(head: Buffer): boolean {
  const hex = head.toString('hex', 0, 6);
  return (
    hex.startsWith('1f8b') ||
    hex.startsWith('425a68') ||
    hex === 'fd377a585a00' ||
    hex.startsWith('28b52ffd') ||
    head.toString('latin1', 257, 262) === 'ustar'
  );
}

function looksLike(head: Buffer): string {
  if (head.length === 0) return ' (the file is empty)';
  if (isRpm(head)) return ' (it is an RPM package)';
  if (isDeb(head)) return ' (it is a Debian package)';
  return head.every((byte) => byte >= 0x20 || (byte >= 9 && byte <= 13)) ? ' (it is a text file)' : '';
}
