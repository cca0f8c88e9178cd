import { access, constants, realpath, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { lock } from '../lib/lock.js';
import { scan, type DebFile, type LeftOut, type PackageFile, type RpmFile } from './package-files.js';
import { publishApt } from './publish-apt.js';
import { publishDnf } from './publish-dnf.js';
import { Repository } from './repository.js';
import { sameModules } from './same-modules.js';
import { selectPackages } from './selection.js';
import type { SigningKey } from './signing.js';

export interface RepositoryOptions {
  /** Signs the metadata. A repository that is signed stays so: without a key it is refused. */
  key?: SigningKey | undefined;
  /** How many versions of each package (by name and architecture) stay; the files of older ones are deleted. */
  keep?: number | undefined;
  /** Origin and Label that apt shows and pins by. Clients complain when it changes. */
  origin?: string | undefined;
  /** Puts packages into the folder that are made of those in it; no other run publishes meanwhile. */
  prepare?: (() => Promise<void>) | undefined;
  /** When it says that it was made, in seconds since 1970; now without. */
  date?: number | undefined;
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
const DEFAULT_ORIGIN = 'dkms2bin';

/**
 * Makes the folder a flat apt repository of the .deb files in it and a dnf repository of the .rpm files; packages stay
 * where they are. Everything a client reads is replaced in such an order, and older indexes are kept so long, that one
 * that reads meanwhile finds a matching set. Runs wait for each other; one that was killed is put right by the next.
 * The same packages give the same indexes, and nothing is written when nothing changed.
 *
 * Throws fault `usage` when two different files are the same package (then nothing is changed), `host` for no space.
 */
export async function publishRepository(dir: string, options: RepositoryOptions): Promise<RepositoryResult> {
  const { key, keep, signal, emit, origin = DEFAULT_ORIGIN, date } = options;
  checkOptions(origin, keep);
  await checkFolder(dir, key);
  await using _held = await lock(join(dir, '.dkms2bin-repo.lock'), 'exclusive', { wait: true, signal });
  const repo = new Repository(dir, { key, emit, signal, date });
  await repo.checkStaysSigned();
  await options.prepare?.();

  const found = await scan(dir, signal);
  const warn = (message: string): void => emit({ type: 'note', level: 'warn', message });
  for (const path of found.links) warn(`${path} is a symbolic link, which is not followed; it is left out`);
  for (const { path, reason } of found.leftOut) warn(`${path} is left out of the repository: ${reason}`);
  const { offered, outdated } = selectPackages(found.packages, keep);
  for (const message of sameModules(offered)) warn(message);
  const debs = offered.filter((each): each is DebFile => each.format === 'deb');
  const rpms = offered.filter((each): each is RpmFile => each.format === 'rpm');

  const kinds = await kindsOf(repo, { debs, rpms });
  const signer = kinds.length > 0 ? key : undefined;
  if (signer) await repo.write(KEYRING, signer.publicKey);
  if (kinds.includes('apt')) await publishApt(repo, { packages: debs, origin, signal });
  if (kinds.includes('dnf')) await publishDnf(repo, rpms);
  // Last: no index names them any more.
  for (const { path } of outdated) await repo.remove(path);

  return {
    packages: offered.map(({ path, format, name, version, architecture, sha256 }) => ({
      path,
      format,
      name,
      version,
      architecture,
      sha256,
    })),
    changed: repo.changed,
    removed: outdated.map(({ path }) => path),
    leftOut: found.leftOut,
    kinds,
    signedBy: signer?.fingerprint ?? null,
  };
}

async function kindsOf(
  repo: Repository,
  { debs, rpms }: { debs: readonly DebFile[]; rpms: readonly RpmFile[] },
): Promise<RepositoryResult['kinds']> {
  const kinds: RepositoryResult['kinds'] = [];
  // Metadata that are there already must not go on naming packages that are gone.
  if (debs.length > 0 || (await repo.read('Release')) !== null) kinds.push('apt');
  if (rpms.length > 0 || (await repo.read('repodata/repomd.xml')) !== null) kinds.push('dnf');
  return kinds;
}

function checkOptions(origin: string, keep: number | undefined): void {
  if (!/^\S([^\x00-\x1f\x7f-\x9f]*\S)?$/.test(origin)) {
    throw new Dkms2binError('usage', `Not an origin for a repository: ${JSON.stringify(origin)}`);
  }
  if (keep !== undefined && (!Number.isSafeInteger(keep) || keep < 1)) {
    throw new Dkms2binError('usage', `Not a number of versions to keep: ${keep}`);
  }
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
        hint: 'Move it elsewhere. If the folder was served already, the key is no longer secret: make a new one.',
      },
    );
  }
}
