import { createHash } from 'node:crypto';
import { access, constants, mkdir, readdir, readFile, realpath, rm, stat, utimes } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { Dkms2binError, messageOf } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { runBytes } from '../lib/exec.js';
import { lock } from '../lib/lock.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { packagesIndex, releaseDate, releaseHashes, releaseText } from './apt.js';
import {
  dataName,
  filelistsXml,
  otherXml,
  primaryXml,
  repomdDate,
  repomdFiles,
  repomdXml,
  type RepoData,
} from './dnf.js';
import {
  comparePackageVersions,
  scan,
  type DebFile,
  type LeftOut,
  type PackageFile,
  type RpmFile,
} from './package-files.js';
import type { SigningKey } from './signing.js';
import { standardVariable } from '../lib/variables.js';

export interface RepositoryOptions {
  /** Signs the metadata. A repository that is signed stays so: without a key it is refused. */
  key?: SigningKey | undefined;
  /** How many versions of each package (by name and architecture) stay; the files of older ones are deleted. */
  keep?: number | undefined;
  /** Origin and Label that apt shows and pins by. Clients complain when it changes. */
  origin?: string | undefined;
  emit: Emit;
  signal: AbortSignal;
}

export interface RepositoryResult {
  /** What the repository offers now; paths are relative to it. */
  packages: (Pick<PackageFile, 'path' | 'format' | 'name' | 'version' | 'architecture'> & {
    sha256: string;
  })[];
  /** Whether anything was written or deleted. */
  changed: boolean;
  /** Files deleted for `keep`. */
  removed: string[];
  /** Files in the folder that look like packages but cannot be offered: damaged, cut off, something else. */
  leftOut: LeftOut[];
  /** For which package managers there are metadata now. */
  kinds: ('apt' | 'dnf')[];
  /** Fingerprint of the key, null for an unsigned repository. */
  signedBy: string | null;
}

export const KEYRING = 'dkms2bin-archive-keyring.asc';
export const DEFAULT_ORIGIN = 'dkms2bin';

/** Superseded indexes stay for a day and, however old, the last three generations of three files. */
const SUPERSEDED_SECONDS = 86_400;
const SUPERSEDED_FILES = 9;

/**
 * Makes the folder a flat apt repository of the .deb files in it and a dnf repository of the .rpm files; packages stay
 * where they are. Everything a client reads is replaced in such an order, and older indexes are kept so long, that one
 * that reads meanwhile finds a matching set. Runs wait for each other; one that was killed is put right by the next.
 * The same packages give the same indexes, and nothing is written when nothing changed.
 *
 * Throws fault `usage` when two different files are the same package (then nothing is changed), `host` for no space.
 */
export async function publishRepository(dir: string, options: RepositoryOptions): Promise<RepositoryResult> {
  const { key, keep, signal, emit } = options;
  const origin = options.origin ?? DEFAULT_ORIGIN;
  if (!/^\S([^\x00-\x1f\x7f-\x9f]*\S)?$/.test(origin)) {
    throw new Dkms2binError('usage', `Not an origin for a repository: ${JSON.stringify(origin)}`);
  }
  if (keep !== undefined && (!Number.isSafeInteger(keep) || keep < 1)) {
    throw new Dkms2binError('usage', `Not a number of versions to keep: ${keep}`);
  }
  await checkFolder(dir, key);
  await using _held = await lock(join(dir, '.dkms2bin-repo.lock'), 'exclusive', { wait: true, signal });
  const repo = new Repository(dir, key, emit, signal);
  await repo.checkStaysSigned();

  const found = await scan(dir, signal);
  const warn = (message: string): void => emit({ type: 'note', level: 'warn', message });
  for (const path of found.links) warn(`${path} is a symbolic link, which is not followed; it is left out`);
  for (const { path, reason } of found.leftOut) warn(`${path} is left out of the repository: ${reason}`);
  const offered = distinct(found.packages);
  const old = keep === undefined ? new Set<PackageFile>() : outdated(offered, keep);
  const packages = offered.filter((each) => !old.has(each));
  const removed = found.packages
    .filter((each) => [...old].some((gone) => identity(gone) === identity(each)))
    .map(({ path }) => path);
  const debs = packages.filter((each): each is DebFile => each.format === 'deb');
  const rpms = packages.filter((each): each is RpmFile => each.format === 'rpm');

  const kinds: RepositoryResult['kinds'] = [];
  // Metadata that are there already must not go on naming packages that are gone.
  if (debs.length > 0 || (await repo.read('Release')) !== null) kinds.push('apt');
  if (rpms.length > 0 || (await repo.read('repodata/repomd.xml')) !== null) kinds.push('dnf');
  if (key && kinds.length > 0) await repo.write(KEYRING, key.publicKey);
  if (kinds.includes('apt')) await publishApt(repo, debs, origin);
  if (kinds.includes('dnf')) await publishDnf(repo, rpms);
  // Last: no index names them any more.
  for (const path of removed) await repo.remove(path);

  return {
    packages: packages.map(({ path, format, name, version, architecture, sha256 }) => ({
      path,
      format,
      name,
      version,
      architecture,
      sha256,
    })),
    changed: repo.changed,
    removed,
    leftOut: found.leftOut,
    kinds,
    signedBy: key && kinds.length > 0 ? key.fingerprint : null,
  };
}

async function checkFolder(dir: string, key: SigningKey | undefined): Promise<void> {
  try {
    if (!(await stat(dir)).isDirectory()) throw new Error('not a folder');
    await access(dir, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const why = { ENOENT: 'no such folder', EACCES: 'permission denied', EROFS: 'read-only file system' }[
      code ?? ''
    ];
    throw new Dkms2binError('usage', `Cannot make a repository of ${dir}: ${why ?? message}`, {
      cause: error,
    });
  }
  if (key && (await realpath(key.file).catch(() => key.file)).startsWith(`${await realpath(dir)}${sep}`)) {
    throw new Dkms2binError(
      'usage',
      `The secret key ${key.file} lies in the repository, for everyone to read`,
      {
        hint: 'Move it elsewhere. If the folder was served already, the key is no secret any more: make a new one.',
      },
    );
  }
}

/** What makes two files the same package to a package manager. */
const identity = ({ format, name, version, architecture }: PackageFile): string =>
  [format, name, version, architecture].join(' ');

/** One file of each package. Throws when two files of one package differ. */
function distinct(packages: readonly PackageFile[]): PackageFile[] {
  const first = new Map<string, PackageFile>();
  const clashes: string[] = [];
  for (const each of packages) {
    const other = first.get(identity(each));
    if (!other) first.set(identity(each), each);
    else if (other.sha256 !== each.sha256) {
      clashes.push(`${each.name} ${each.version} (${each.architecture}): ${other.path} and ${each.path}`);
    }
  }
  if (clashes.length > 0) {
    throw new Dkms2binError(
      'usage',
      `The same package twice, with different content:\n${clashes.join('\n')}`,
      {
        hint: 'Remove one of the two, or build it with a version of its own. Nothing was changed.',
      },
    );
  }
  return [...first.values()];
}

/** The packages (which come sorted) of which `keep` newer versions are there. */
function outdated(packages: readonly PackageFile[], keep: number): Set<PackageFile> {
  const groups = new Map<string, PackageFile[]>();
  for (const each of packages) {
    const group = [each.format, each.name, each.architecture].join(' ');
    groups.set(group, [each, ...(groups.get(group) ?? [])]);
  }
  const old = new Set<PackageFile>();
  for (const newestFirst of groups.values()) {
    let versions = 0;
    let last: PackageFile | undefined;
    for (const each of newestFirst) {
      if (!last || comparePackageVersions(last, each) !== 0) versions += 1;
      last = each;
      if (versions > keep) old.add(each);
    }
  }
  return old;
}

/** The folder, and whether this run changed anything in it. */
class Repository {
  changed = false;

  constructor(
    readonly dir: string,
    readonly key: SigningKey | undefined,
    readonly emit: Emit,
    readonly signal: AbortSignal,
  ) {}

  /** Null when there is no such file. */
  async read(path: string): Promise<string | null> {
    try {
      return await readFile(join(this.dir, path), 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw new Dkms2binError('usage', `Cannot read ${path} of ${this.dir}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async write(path: string, content: Buffer | string): Promise<void> {
    if (this.signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
    const { status } = await writeAtomic(Buffer.from(content), join(this.dir, path));
    this.changed ||= status === 'written';
  }

  async remove(path: string): Promise<void> {
    try {
      await rm(join(this.dir, path), { force: true });
      this.changed = true;
    } catch (error) {
      throw new Dkms2binError('usage', `Cannot delete ${path} of ${this.dir}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async folder(path: string): Promise<void> {
    try {
      await mkdir(join(this.dir, path), { recursive: true });
    } catch (error) {
      const fault = (error as NodeJS.ErrnoException).code === 'ENOSPC' ? 'host' : 'usage';
      throw new Dkms2binError(fault, `Cannot make ${path} in ${this.dir}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** An unsigned index beside an old signature would break all clients, one without it those that want it signed. */
  async checkStaysSigned(): Promise<void> {
    if (this.key) return;
    const signatures = ['InRelease', 'Release.gpg', 'repodata/repomd.xml.asc'];
    const there: string[] = [];
    for (const path of signatures) if ((await this.read(path)) !== null) there.push(path);
    if (there.length === 0) return;
    throw new Dkms2binError('usage', `The repository ${this.dir} is signed, and no key was given`, {
      hint: `Give its key with --repo-key. To make it an unsigned one, remove ${there.join(', ')} first.`,
    });
  }

  /**
   * The time for new metadata, in seconds since 1970; later than `previous`, the time of what they replace, and than when
   * `last`, the file that is written last, was written.
   */
  async now(previous: number | undefined, last: string): Promise<number> {
    const epoch = standardVariable('SOURCE_DATE_EPOCH');
    if (epoch !== undefined && !/^\d{1,11}$/.test(epoch)) {
      throw new Dkms2binError('usage', `Not a time (SOURCE_DATE_EPOCH): ${JSON.stringify(epoch)}`);
    }
    const seconds = (): number => Math.floor(Date.now() / 1000);
    const written = await stat(join(this.dir, last)).then(
      ({ mtimeMs }) => Math.floor(mtimeMs / 1000),
      () => undefined,
    );
    // HTTP knows times by the second: to a client that has just read the old one, the new one must look newer.
    if (!epoch && (previous === seconds() || written === seconds())) {
      await sleep(1005 - (Date.now() % 1000), undefined, { signal: this.signal }).catch(() => undefined);
    }
    const now = epoch ? Number(epoch) : seconds();
    if (previous !== undefined && now < previous) {
      this.emit({
        type: 'note',
        level: 'warn',
        message: `The repository was last published with the later date ${new Date(previous * 1000).toISOString()}: apt clients that have read it take nothing older. Is this host's clock, or SOURCE_DATE_EPOCH, right?`,
      });
    }
    return now;
  }

  /** Starts the time for which superseded files are kept. */
  async supersede(folder: string, names: Iterable<string>, current: ReadonlySet<string>): Promise<void> {
    const now = new Date();
    for (const name of new Set(names)) {
      // Gone, or another user's: then its time has started before.
      if (!current.has(name)) await utimes(join(this.dir, folder, name), now, now).catch(() => undefined);
    }
  }

  /** Deletes files of a shape that were superseded long ago. */
  async expire(folder: string, shape: RegExp, current: ReadonlySet<string>): Promise<void> {
    const files: { name: string; at: number }[] = [];
    for (const name of await readdir(join(this.dir, folder))) {
      if (!shape.test(name) || current.has(name)) continue;
      const info = await stat(join(this.dir, folder, name)).catch(() => null);
      if (info) files.push({ name, at: info.mtimeMs });
    }
    files.sort((a, b) => b.at - a.at);
    for (const { name, at } of files.slice(SUPERSEDED_FILES)) {
      if (Date.now() - at > SUPERSEDED_SECONDS * 1000) await this.remove(`${folder}/${name}`);
    }
  }
}

const BY_HASH = 'by-hash/SHA256';

async function publishApt(repo: Repository, packages: readonly DebFile[], origin: string): Promise<void> {
  const index = packagesIndex(packages);
  const xz = await runBytes('xz', ['-6', '-T1', '-c'], {
    input: index,
    maxBytes: index.length + (1 << 20),
    ...(repo.signal && { cancelSignal: repo.signal }),
  });
  const files = [
    { name: 'Packages', bytes: index },
    { name: 'Packages.gz', bytes: gzipSync(index, { level: 9 }) },
    { name: 'Packages.xz', bytes: xz },
  ].map((each) => ({ ...each, size: each.bytes.length, sha256: sha256(each.bytes) }));
  const current = new Set(files.map((each) => each.sha256));
  const before = { release: await repo.read('Release'), inRelease: await repo.read('InRelease') };

  const architectures = [...new Set(packages.map((each) => each.architecture))].sort();
  const text = (date: number): string => releaseText({ origin, architectures, files, date });
  // Before anything is written: it may have to wait until a new file looks newer than the old one.
  const last = before.inRelease === null ? 'Release' : 'InRelease';
  const release = await dated(repo, before.release, last, releaseDate, text);
  await repo.folder(BY_HASH);
  for (const { bytes, sha256 } of files) await repo.write(`${BY_HASH}/${sha256}`, bytes);
  for (const { bytes, name } of files) await repo.write(name, bytes);

  const named = [before.release, before.inRelease].flatMap((each) => releaseHashes(each ?? ''));
  await repo.supersede(BY_HASH, named, current);
  const { key } = repo;
  // InRelease, which all but the oldest clients read, is one file and comes last.
  if (key) {
    await writeSignature(
      repo,
      'Release.gpg',
      (there) => key.isDetachSigned(there, release),
      () => key.detachSign(release),
    );
  }
  await repo.write('Release', release);
  if (key) {
    await writeSignature(
      repo,
      'InRelease',
      (there) => key.isClearSigned(there, release),
      () => key.clearSign(release),
    );
  }
  await repo.expire(BY_HASH, /^[0-9a-f]{64}$/, current);
}

async function publishDnf(repo: Repository, packages: readonly RpmFile[]): Promise<void> {
  const data = (
    [
      ['primary', primaryXml(packages)],
      ['filelists', filelistsXml(packages)],
      ['other', otherXml(packages)],
    ] as const
  ).map(([type, text]) => {
    const open = Buffer.from(text);
    const bytes = gzipSync(open, { level: 9 });
    const about: RepoData = {
      type,
      sha256: sha256(bytes),
      size: bytes.length,
      open: { sha256: sha256(open), size: open.length },
    };
    return { about, bytes, name: dataName(about) };
  });
  const current = new Set(data.map((each) => each.name));
  const before = await repo.read('repodata/repomd.xml');

  await repo.folder('repodata');
  for (const { bytes, name } of data) await repo.write(`repodata/${name}`, bytes);
  const text = (date: number): string =>
    repomdXml(
      data.map((each) => each.about),
      date,
    );
  const repomd = await dated(repo, before, 'repodata/repomd.xml', repomdDate, text);
  await repo.supersede('repodata', repomdFiles(before ?? ''), current);
  const { key } = repo;
  if (key) {
    const path = 'repodata/repomd.xml.asc';
    await writeSignature(
      repo,
      path,
      (there) => key.isDetachSigned(there, repomd),
      () => key.detachSign(repomd),
    );
  }
  await repo.write('repodata/repomd.xml', repomd);
  await repo.expire('repodata', /^[0-9a-f]{64}-(primary|filelists|other)\.xml\.gz$/, current);
}

/** The text with the date of what is there when nothing but the date would change, else with a new one. */
async function dated(
  repo: Repository,
  before: string | null,
  last: string,
  dateOf: (text: string) => number | undefined,
  make: (date: number) => string,
): Promise<string> {
  const previous = before === null ? undefined : dateOf(before);
  if (previous !== undefined && !standardVariable('SOURCE_DATE_EPOCH') && make(previous) === before) return before;
  return make(await repo.now(previous, last));
}

/** A signature has a time in it: one that is good stays as it is. */
async function writeSignature(
  repo: Repository,
  path: string,
  isGood: (there: string) => Promise<boolean>,
  make: () => Promise<string>,
): Promise<void> {
  const there = await repo.read(path);
  if (there === null || !(await isGood(there))) await repo.write(path, await make());
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
