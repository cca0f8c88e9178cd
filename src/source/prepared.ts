import { mkdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { ModuleSource, SourceOrigin } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { redact } from '../lib/credentials.js';
import { readCapped } from '../lib/read-capped.js';
import { runConfined } from '../lib/sandbox.js';
import { scratch } from '../lib/scratch.js';
import { shownAddress, type FileAddress, type GitAddress, type ModuleAddress } from './address.js';
import { readConfNames } from './conf-text.js';
import { findConf, type ConfHints, type FoundConf } from './conf.js';
import { dscFiles, fetchDsc, fetchFile, fetchGit, keepMade, type FetchMeans } from './fetched.js';
import { tagsOfFolder } from './local-git.js';
import { SourceTree, TREE_LIMITS, treeOfArchive, treeOfFolder, unpackedBytes } from './tree.js';

/** What sources are made ready with. */
export interface SourceMeans extends FetchMeans {
  /** `--module-version`. */
  moduleVersion?: string | undefined;
}

/** A folder that dkms cannot take as it is: its dkms.conf is found deeper, or filled, or made. */
export async function folderSource(text: string, path: string, means: SourceMeans): Promise<ModuleSource> {
  const found = await confOfFolder(text, path, means);
  tell(text, found, means);
  if (found.asGiven) return { kind: 'folder', text, path: join(path, found.folder) };
  return made(text, found.tree, basename(path));
}

/** What `folderSource` and `dkms2bin init` find in a folder. */
export async function confOfFolder(
  text: string,
  path: string,
  { moduleVersion, signal }: Pick<SourceMeans, 'moduleVersion' | 'signal'>,
): Promise<FoundConf> {
  const tags = await tagsOfFolder(path);
  return findConf(await treeOfFolder(path, signal), {
    text,
    name: basename(path),
    given: moduleVersion,
    tags,
  });
}

/** An archive that dkms cannot take as it is, or that is no tar. */
export async function archiveSource(
  text: string,
  path: string,
  means: SourceMeans,
  origin?: SourceOrigin,
): Promise<ModuleSource> {
  const tree = await treeOfArchive(await readCapped(path, TREE_LIMITS.packed), text);
  const { top } = tree;
  const [, name = basename(path)] =
    /^(.+?)-v?\d/.exec(top) ?? /^(.+?)(?:-v?\d.*)?\.(?:tar|t[a-z]z|zip)/i.exec(basename(path)) ?? [];
  const hints: ConfHints = { text, name, given: means.moduleVersion, tags: top === '' ? [] : [top] };
  const found = findConf(tree.below(top), hints);
  tell(text, found, means);
  const isTar = (await readFile(path)).toString('latin1', 0, 2) !== 'PK';
  if (found.asGiven && isTar) return { kind: 'tarball', text, path, ...(origin && { origin }) };
  return made(text, found.tree, name, origin);
}

/** A Debian source package: unpacked, with its patches. */
export async function dscSource(
  text: string,
  path: string,
  means: SourceMeans,
  origin?: SourceOrigin,
): Promise<ModuleSource> {
  const files = (await dscFiles(path, text)).map(({ name }) => join(dirname(path), name));
  const lacking: string[] = [];
  for (const each of files) if (!(await stat(each).catch(() => null))) lacking.push(basename(each));
  if (lacking.length > 0) {
    throw new Dkms2binError('usage', `${text} names files that are not beside it: ${lacking.join(', ')}`, {
      hint: 'Fetch them as well (dget does), or give the URL of the .dsc.',
    });
  }
  await requireSmall(path, files, means.signal);
  await using work = await scratch();
  const box = join(work.dir, 'box');
  await mkdir(box);
  const out = join(box, 'source');
  const readable = [path, ...files].map((each) => resolve(each));
  const limits = ['prlimit', `--fsize=${TREE_LIMITS.unpacked}`, '--'];
  // It compares all files with the digests of the .dsc; who signed that is not looked at.
  const command = [...limits, 'dpkg-source', '--no-copy', '-x', resolve(path), out];
  await runConfined({ readable, writable: [box] }, command, {
    ...{ timeout: TREE_LIMITS.seconds * 1000, cancelSignal: means.signal, fault: 'usage', cwd: box },
    env: { LC_ALL: 'C' },
  });
  const [name = 'module'] = basename(path).split('_');
  const tree = await treeOfFolder(out, means.signal);
  const found = findConf(tree, { text, name: name.replace(/-dkms$/, ''), given: means.moduleVersion });
  tell(text, found, means);
  return made(text, found.tree, name, origin);
}

/** What a Debian source package's files unpack to, patches included, before a program writes it to the disk. */
async function requireSmall(dsc: string, files: readonly string[], signal: AbortSignal): Promise<void> {
  let left = TREE_LIMITS.unpacked;
  for (const path of files) {
    const name = `${basename(dsc)}: ${basename(path)}`;
    if (/\.asc$/.test(path)) continue;
    const packed = await readCapped(path, TREE_LIMITS.packed);
    const bytes = await unpackedBytes(packed, name);
    signal.throwIfAborted();
    // What it holds as files: holes, and what hard links stand for, count.
    const held = /\.tar\./.test(path) ? (await treeOfArchive(bytes, name)).bytes : 0;
    left -= Math.max(held, bytes.length);
    if (left < 0) {
      throw new Dkms2binError('usage', `${name} is not taken: more than ${TREE_LIMITS.unpacked} bytes`);
    }
  }
}

/** A git repository's source. */
export async function gitSource(
  value: string,
  address: GitAddress,
  means: SourceMeans,
): Promise<ModuleSource> {
  const text = shownAddress(value);
  const commit = await fetchGit(address, means);
  const tree = await treeOfArchive(commit.tar, text);
  const within = address.folder ?? commit.folder ?? '';
  if (!tree.hasFolder(within)) {
    throw new Dkms2binError('not-found', `${text}: commit ${commit.id.slice(0, 12)} has no folder ${within}`);
  }
  const name = basename(address.url.replace(/[/:]+$/, '')).replace(/\.git$/, '') || 'module';
  const hints = { text, name, within, given: means.moduleVersion, tags: commit.tags, commit };
  const found = findConf(tree, hints);
  tell(`${text} (commit ${commit.id.slice(0, 12)})`, found, means);
  noteSubmodules(text, tree, means);
  // `git@host:path` is no URL.
  const url = address.url.replace(/^([^/:@]+@[^/:]+):(?!\/)/, 'ssh://$1/');
  return made(text, found.tree, name, { url: redact(url), commit: commit.id });
}

function noteSubmodules(text: string, tree: SourceTree, { emit }: SourceMeans): void {
  const paths = [...(tree.text('.gitmodules') ?? '').matchAll(/^\s*path\s*=\s*(\S+)\s*$/gm)].map(
    ([, path]) => path,
  );
  if (paths.length === 0) return;
  const message = `${text} has git submodules, which are not fetched: ${paths.slice(0, 8).join(', ')}`;
  emit({ type: 'note', level: 'warn', message });
}

/** A web server's file on this machine, and where it came from; a .dsc has its files beside it. */
export async function fetchedFile(
  address: FileAddress,
  means: SourceMeans,
): Promise<{ path: string; origin: SourceOrigin }> {
  const fetched = await (/\.dsc$/i.test(address.name) ? fetchDsc : fetchFile)(address, means);
  return { path: fetched.path, origin: { url: redact(address.url) } };
}

/** What `dkms status` of this machine names, by its source here; null when it is not here. */
export async function installedSource(
  text: string,
  { name, version }: ModuleAddress,
): Promise<{ text: string; path: string } | null> {
  for (const path of [`/usr/src/${name}-${version}`, `/var/lib/dkms/${name}/${version}/source`]) {
    if (await stat(join(path, 'dkms.conf')).catch(() => null)) return { text, path };
  }
  return null;
}

/** The same source as the tar that dkms gets. Throws fault `usage` for a name or version, given or found, that cannot be used. */
async function made(
  text: string,
  tree: SourceTree,
  name: string,
  origin?: SourceOrigin,
): Promise<ModuleSource> {
  const depth = (path: string): number => path.split('/').length;
  const confs = tree.paths.filter((path) => basename(path) === 'dkms.conf');
  const least = Math.min(...confs.map(depth));
  for (const path of confs.filter((each) => depth(each) === least)) {
    const conf = tree.text(path);
    if (conf !== undefined) readConfNames(conf, `${path} made of ${text}`);
  }
  const { path } = await keepMade(tree.tar(), `${name}.tar`);
  return { kind: 'tarball', text, path, ...(origin && { origin }) };
}

/** Says what was found or made, and shows what was made. */
function tell(text: string, { said, made: conf, warnings }: FoundConf, { emit }: SourceMeans): void {
  if (said !== null) emit({ type: 'note', level: 'info', message: `${text}: ${said}` });
  for (const message of warnings) emit({ type: 'note', level: 'warn', message });
  for (const line of (conf ?? '').trimEnd().split('\n').slice(1))
    emit({ type: 'note', level: 'info', message: `    ${line}` });
}
