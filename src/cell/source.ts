import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { ModuleSource } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { run, runBytes } from '../lib/exec.js';
import { readCapped } from '../lib/read-capped.js';
import { runBytesConfined } from '../lib/sandbox.js';
import { cacheDir } from '../lib/paths.js';
import {
  fetchDkmsPackage,
  findDkmsPackage,
  parseInstalled,
  unmetDependency,
  type FindOptions,
  type FoundPackage,
} from '../distro/dkms-package.js';
import type { DistroRow } from '../distro/row.js';
import { contentDigest } from '../cache/entries.js';
import { Unreadable } from '../formats/bytes.js';
import { readDeb, readDebControl } from '../formats/deb.js';
import type { PackageEntry } from '../formats/package.js';
import { filesTar, tarEntries } from '../formats/tar.js';
import { readRpmFile } from '../formats/rpm.js';
import { evrOf } from '../formats/rpm-header.js';
import type { KernelLayer } from '../environment/kernel-layer.js';
import type { Machine } from '../environment/boot.js';
import { EPOCH } from '../lib/epoch.js';

export { EPOCH } from '../lib/epoch.js';

/** A source that the host can read. */
export type LocalSource = Exclude<ModuleSource, { kind: 'repo' }>;

/** How a cell's source reaches its build VM. */
export interface Prepared {
  source: ModuleSource;
  /** The version that a repository name means, as the index says; of an .rpm, as its header says. */
  package: { name: string; version: string } | null;
  /** Other sources of the request that BUILD_DEPENDS name, each after those that it needs itself. */
  with: (LocalSource & { digest: string })[];
  /** DKMS names of the modules that those bring. */
  brings: string[];
  /** SHA-256 of the source: of a file, of a folder's tar as the guest gets it, of the package that an index names. */
  digest: string;
  /** Whether the guest has to fetch something itself, so that it needs the network before the build. */
  network: boolean;
}

export interface Lookup extends Pick<FindOptions, 'mirror' | 'offline' | 'proxy'> {
  row: DistroRow;
  /** What was found already, by the name asked for. */
  known?: Map<string, Promise<FoundPackage>>;
}

type RepositorySource = Extract<ModuleSource, { kind: 'repo' }>;

/** The package that a name means in the distro, by its index. Throws what `findDkmsPackage` throws. */
export function packageOf(
  source: RepositorySource,
  { row, known = new Map<string, Promise<FoundPackage>>(), ...where }: Lookup,
  { arch, emit, signal }: Pick<Machine, 'arch' | 'emit' | 'signal'>,
): Promise<FoundPackage> {
  const key = `${row.id} ${source.name}=${source.version ?? ''}`;
  const before = known.get(key);
  if (before) return before;
  const found = findDkmsPackage(row, source, {
    ...where,
    ...{ arch, cacheDir: cacheDir(), signal },
    warn: (message) => emit({ type: 'note', level: 'warn', message }),
  });
  known.set(key, found);
  // What went wrong may go well for another cell.
  found.catch(() => known.delete(key));
  return found;
}

/** Of a cell, what decides its source. */
export interface SourceInput {
  source: ModuleSource;
  /** All sources of the request: they may bring what this one's BUILD_DEPENDS name. */
  otherSources: readonly ModuleSource[];
  environment: { layer: KernelLayer };
  lookup: Lookup;
  machine: Machine;
}

/**
 * Finds on the host what the guest would need minutes of emulation for: a repository's package is downloaded here when a
 * verified index names it, and the request's other sources bring build dependencies.
 * Throws what the look-up throws: `not-found`, `transient`.
 */
export async function prepareSource({
  source,
  otherSources,
  environment: { layer },
  lookup,
  machine,
}: SourceInput): Promise<Prepared> {
  const { arch, signal } = machine;
  const installed = parseInstalled(await readFile(join(layer.entry.dir, 'packages'), 'utf8'), arch);
  let local: LocalSource;
  let there: Prepared['package'] = null;
  let digest: string;
  const needs: Relations[] = [];
  if (source.kind === 'repo') {
    const { offline, proxy } = lookup;
    const found = await packageOf(source, lookup, machine);
    there = { name: found.name, version: found.version };
    digest = found.sha256;
    // Without a verified index the package is the guest's apt to check.
    if (!found.verified) {
      return {
        ...{ source, package: there, digest, with: [], brings: [] },
        network: true,
      };
    }
    const { emit } = machine;
    const path = await fetchDkmsPackage(found, { cacheDir: cacheDir(), offline, proxy, emit, signal });
    local = { kind: 'deb', text: source.text, path };
    needs.push({ ...found, line: '' });
  } else {
    local = source;
    digest = await localDigest(source, signal);
    if (source.kind === 'rpm') there = await rpmPackage(source);
  }
  const along = await dependenciesOf(local, otherSources, signal);
  // Of a repository's package the index has them. An .rpm's are not looked at: what builds a module is in every layer.
  const debs = [...along.with, ...(local === source ? [local] : [])].filter((each) => each.kind === 'deb');
  const fields = [...needs, ...(await Promise.all(debs.map((each) => fieldsOf(each.path))))];
  const brought = await Promise.all(
    along.with.map(async (each) => ({ ...each, digest: await localDigest(each, signal) })),
  );
  const known = [...installed, ...fields.flatMap((each) => parseInstalled(each.line, arch))];
  const has = (need: string): boolean =>
    [`${need}-dkms`, `${need.toLowerCase().replaceAll('_', '-')}-dkms`].some((name) =>
      installed.some((each) => each.name === name),
    );
  return {
    source: local,
    package: there,
    digest,
    with: brought,
    brings: along.brings,
    network:
      !along.plain ||
      !along.missing.every(has) ||
      fields.some((each) => unmetDependency(each, known, arch) !== null),
  };
}

/** Name and version of an .rpm with a DKMS source in it. Throws fault `usage` for any other. */
async function rpmPackage({ path, text }: LocalSource): Promise<NonNullable<Prepared['package']>> {
  const { header, files } = await readRpmFile(path);
  if (header.arch === 'src' || !files.some((each) => DKMS_IN_RPM.test(each.path))) {
    throw new Dkms2binError('usage', `The package ${text} holds no DKMS source`, {
      hint: 'It must be a binary package with /usr/src/NAME-VERSION/dkms.conf in it.',
    });
  }
  return { name: header.name, version: evrOf(header) };
}

/** The old form carries a tarball that `dkms ldtarball` takes. */
const DKMS_IN_RPM = /^\/usr\/src\/[^/]+\/dkms\.conf$|^\/usr\/share\/[^/]+\/[^/]+\.dkms\.tar\.gz$/;

/** An .rpm's files as a tar of `/`: rpm2cpio is not in every guest. */
export async function rpmTar(path: string): Promise<Buffer> {
  const { files } = await readRpmFile(path);
  return filesTar(
    files.flatMap((each) =>
      each.type === 'file' ? [{ path: each.path, mode: each.mode & 0o777, bytes: each.bytes() }] : [],
    ),
    files.flatMap(({ path: to, target }) => (target === undefined ? [] : [{ path: to, target }])),
    EPOCH,
  );
}

/** A package's relations, and its line as `parseInstalled` reads it. */
interface Relations {
  depends: string;
  preDepends: string;
  line: string;
}

async function fieldsOf(path: string): Promise<Relations> {
  try {
    const control = await readDebControl(path);
    const field = (name: string): string => control.get(name) ?? '';
    const line = [field('Package'), field('Version'), field('Provides')].join('\t');
    return { depends: field('Depends'), preDepends: field('Pre-Depends'), line };
  } catch (error) {
    if (!(error instanceof Dkms2binError)) throw error;
    // None that can be read: the guest's apt has to look.
    return { depends: 'unknown', preDepends: '', line: '' };
  }
}

/** What dkms.conf files say about who needs whom. */
export interface ConfText {
  /** PACKAGE_NAMEs. */
  names: string[];
  /** PACKAGE_VERSIONs; of each name one, when there are as many. */
  versions: string[];
  /** Words of BUILD_DEPENDS. */
  needs: string[];
  /** False when BUILD_DEPENDS may hold more than plain words say. */
  plain: boolean;
}

/** By the text alone: dkms.conf is shell and never run here. A name that the shell would put together is not seen. @internal */
export function readConfText(text: string): ConfText {
  const code = text.replaceAll(/(^|\s)#.*$/gm, '$1');
  const plain = (key: string): string[] =>
    [
      ...code.matchAll(
        new RegExp(
          `^\\s*(?:export\\s+)?${key}=(["']?)([A-Za-z0-9][A-Za-z0-9._+:~-]*)\\1[ \\t\\r]*(?:;|$)`,
          'gm',
        ),
      ),
    ].map(([, , value = '']) => value);
  const values = [...code.matchAll(/^[ \t]*BUILD_DEPENDS(?:\[\d+\])?\+?=(\([^)]*\)|[^\n;]*)/gm)];
  const words = values.flatMap(([, value = '']) => value.split(/[\s()"']+/)).filter((word) => word !== '');
  const needs = words.filter((word) => /^[A-Za-z0-9][A-Za-z0-9._+-]*$/.test(word));
  return {
    names: plain('PACKAGE_NAME'),
    versions: plain('PACKAGE_VERSION'),
    needs: [...new Set(needs)],
    plain: needs.length === words.length && values.length === (code.match(/\bBUILD_DEPENDS\b/g) ?? []).length,
  };
}

/**
 * Names of the modules that a source seems to bring, so that it can be told what it is a newer version of: of a local one,
 * what its dkms.conf says in plain words; of a distro's package, what its name says.
 */
export async function moduleNames(source: ModuleSource, signal: AbortSignal): Promise<string[]> {
  if (source.kind === 'repo') return [source.name.replace(/-dkms$/, '')];
  return source.kind === 'rpm' ? [] : (await confOf(source, signal)).names;
}

/** NAME/VERSION of the modules that a source brings, as far as its dkms.conf files say so in plain words. */
export async function moduleIds(source: LocalSource, signal: AbortSignal): Promise<string[]> {
  const { names, versions } = await confOf(source, signal);
  return names.length === versions.length ? names.map((name, at) => `${name}/${versions[at]}`) : [];
}

/** What the dkms.conf files of a source say. Empty, and not plain, when they cannot be read. */
export async function confOf(source: LocalSource, signal: AbortSignal): Promise<ConfText> {
  try {
    switch (source.kind) {
      case 'folder':
        return readConfText(await folderConf(source.path, signal));
      case 'tarball':
        return readConfText(await confsInTar(source.path, signal));
      case 'deb':
        return packageConf((await readDeb(source.path)).files);
      case 'rpm':
        return packageConf((await readRpmFile(source.path)).files);
    }
  } catch (error) {
    if (signal.aborted) throw error;
    // An old-style package carries its dkms.conf in a tarball of its own.
    return { names: [], versions: [], needs: [], plain: false };
  }
}

const MAX_CONF_BYTES = 2 ** 20;

/** The text of all dkms.conf files in a tarball, one after the other. */
export async function confsInTar(path: string, signal: AbortSignal): Promise<string> {
  const at = resolve(path);
  const command = ['tar', '-xOf', at, '--wildcards', '*dkms.conf'];
  const bytes = await runBytesConfined({ readable: [at] }, command, {
    ...{ cancelSignal: signal, maxBytes: MAX_CONF_BYTES, timeout: MAX_TAR_SECONDS * 1000 },
  });
  return bytes.toString('utf8');
}

async function folderConf(path: string, signal: AbortSignal): Promise<string> {
  if ((await stat(path)).isFile()) return textInTar(await folderTar(path, signal), 'dkms.conf');
  return (await readCapped(join(path, 'dkms.conf'), MAX_CONF_BYTES)).toString('utf8');
}

/** What dkms reads of a package's modules, the administrator's additions among it. */
const CONF = /^\/usr\/src\/[^/]+\/dkms\.conf$|^\/etc\/dkms\/[^/]+\.conf$/;

/** What the dkms.conf files of a package say. An old one brings its source in a tarball, and some by a script. */
export function packageConf(files: readonly PackageEntry[]): ConfText {
  const confs = files.filter(({ path }) => CONF.test(path));
  if (confs.length === 0) return { names: [], versions: [], needs: [], plain: false };
  return readConfText(confs.map((each) => each.bytes().toString()).join('\n'));
}

export interface Dependencies {
  with: LocalSource[];
  brings: string[];
  /** Words of BUILD_DEPENDS that no source of the request brings. */
  missing: string[];
  plain: boolean;
}

/** What a source's BUILD_DEPENDS, and theirs in turn, name; a cycle ends where it closes, for build.sh to report. */
export async function dependenciesOf(
  source: LocalSource,
  otherSources: readonly ModuleSource[],
  signal: AbortSignal,
): Promise<Dependencies> {
  const own = await confOf(source, signal);
  const result: Dependencies = { with: [], brings: [], missing: [], plain: own.plain };
  if (own.needs.length === 0) return result;
  const others: { source: LocalSource; conf: ConfText }[] = [];
  for (const each of otherSources) {
    if (each.kind === 'repo' || each.path === source.path) continue;
    others.push({ source: each, conf: await confOf(each, signal) });
  }
  const seen = new Set<ConfText>();
  const visit = (conf: ConfText): void => {
    for (const need of conf.needs) {
      if (own.names.includes(need) || conf.names.includes(need)) continue;
      const other = others.find((each) => each.conf.names.includes(need));
      if (!other) result.missing.push(need);
      if (!other || seen.has(other.conf)) continue;
      seen.add(other.conf);
      visit(other.conf);
      result.with.push(other.source);
      result.brings.push(...other.conf.names);
      result.plain &&= other.conf.plain;
    }
  };
  visit(own);
  return result;
}

/** SHA-256 of a local source: of the file, or of the tar that a folder is sent as. */
export async function localDigest(
  source: Exclude<ModuleSource, { kind: 'repo' }>,
  signal: AbortSignal,
): Promise<string> {
  if (source.kind !== 'folder') return contentDigest(source.path, 'sha256');
  return createHash('sha256')
    .update(await folderTar(source.path, signal))
    .digest('hex');
}

/** Largest source, a folder as its tar. */
export const MAX_SOURCE_BYTES = 2 ** 30;
const MAX_TAR_SECONDS = 300;

/**
 * A folder as a tar whose bytes depend on its content alone. On another machine than its own the folder is that tar already.
 * Throws fault `usage` for one that is too large.
 */
export async function folderTar(path: string, signal: AbortSignal): Promise<Buffer> {
  if ((await stat(path)).isFile()) return readCapped(path, MAX_SOURCE_BYTES);
  await requireSmall(path, signal);
  const same = ['--sort=name', `--mtime=@${EPOCH}`, '--owner=0', '--group=0', '--numeric-owner'];
  return runBytes('tar', [...same, '--exclude-vcs', '-cf', '-', '-C', path, '.'], {
    ...{ maxBytes: MAX_SOURCE_BYTES, cancelSignal: signal, timeout: MAX_TAR_SECONDS * 1000 },
  });
}

/** Before a sparse file of terabytes is read. What version control keeps may be as large again. */
async function requireSmall(path: string, signal: AbortSignal): Promise<void> {
  const vcs = ['.git', '.svn', '.hg', '.bzr', 'CVS'].map((name) => `--exclude=${name}`);
  const { stdout } = await run('du', ['--apparent-size', '-s', '-B1', ...vcs, '--', path], {
    cancelSignal: signal,
    timeout: MAX_TAR_SECONDS * 1000,
  });
  const bytes = Number(/^\d+/.exec(stdout)?.[0] ?? 0);
  if (bytes <= MAX_SOURCE_BYTES) return;
  throw new Dkms2binError(
    'usage',
    `The folder ${path} has ${bytes} bytes, the limit of a source is ${MAX_SOURCE_BYTES}`,
    {
      hint: 'Give the folder of the module alone, without build products. Holes of sparse files count as bytes.',
    },
  );
}

/** The one file of that name in a folder's tar. */
function textInTar(tar: Buffer, name: string): string {
  const text = textIn(tar, name);
  if (text === undefined) throw new Unreadable(`no ${name} in the tar`);
  return text;
}

/** Undefined when there is no such file, or several. */
export function textIn(tar: Buffer, name: string): string | undefined {
  const found = [...tarEntries(tar, MAX_TAR_ENTRIES)].filter(({ path }) => path === `/${name}`);
  return found.length === 1 && found[0]?.type === 'file' ? found[0].bytes.toString('utf8') : undefined;
}

const MAX_TAR_ENTRIES = 200_000;
