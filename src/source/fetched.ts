import { mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { Dkms2binError } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { parseParagraph } from '../formats/deb822.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { download, hasDigest, type Digest } from '../lib/download.js';
import { cacheDir } from '../lib/paths.js';
import { redact } from '../lib/credentials.js';
import { readCapped } from '../lib/read-capped.js';
import { proxyFor } from '../distro/mirrors.js';
import type { FileAddress, GitAddress } from './address.js';
import { chooseRef, fetchCommit, listRefs, tagsOf, type Wanted } from './git.js';
import { TREE_LIMITS } from './tree.js';

/** How sources are reached. */
export interface FetchMeans {
  offline: boolean;
  proxy?: string | undefined;
  emit: Emit;
  signal: AbortSignal;
}

/** A repository's commit in the cache. */
export interface FetchedCommit {
  id: string;
  date: Date;
  tags: string[];
  /** All its files, as a tar. */
  tar: Buffer;
  /** What a forge's page says of the folder. */
  folder: string | null;
}

export interface FetchedFile {
  path: string;
  sha256: string;
}

const folder = (): string => join(cacheDir(), 'sources');
const keyOf = (...parts: readonly string[]): string =>
  createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 40);

const Hex = z.string().regex(/^[0-9a-f]{40}(?:[0-9a-f]{24})?$/);
const GitRecord = z.strictObject({
  id: Hex,
  date: z.iso.datetime(),
  tags: z.array(z.string()),
  folder: z.string().nullable(),
});
const FileRecord = z.strictObject({ sha256: z.string().regex(/^[0-9a-f]{64}$/) });

/** What was written of it before; undefined when there is none, or it is damaged. */
async function recorded<T>(key: string, form: z.ZodType<T>): Promise<T | undefined> {
  try {
    return form.parse(JSON.parse(await readFile(join(folder(), key, 'known.json'), 'utf8')));
  } catch {
    return undefined;
  }
}

async function record(key: string, value: unknown): Promise<void> {
  await mkdir(join(folder(), key), { recursive: true });
  await writeAtomic(Buffer.from(JSON.stringify(value)), join(folder(), key, 'known.json'));
}

const lacks = (what: string): Dkms2binError =>
  new Dkms2binError('not-found', `--offline is given, but ${what} is not in the cache`, {
    hint: 'Run once without --offline.',
  });

/** A commit of a repository: asked for each time, since branches move, but fetched once. */
export async function fetchGit(address: GitAddress, means: FetchMeans): Promise<FetchedCommit> {
  const asked = keyOf('git', address.url, address.ref ?? '', address.page ?? '');
  const shown = redact(address.url);
  if (means.offline) {
    const known = await recorded(asked, GitRecord);
    const tar = known && (await storedTar(address, known.id));
    if (!known || !tar) throw lacks(`${shown}${address.ref === undefined ? '' : ` ${address.ref}`}`);
    return { ...known, date: new Date(known.date), tar };
  }
  const gitMeans = { signal: means.signal, proxy: await proxyFor(means.proxy) };
  const advertised = await listRefs(address, gitMeans);
  const wanted = chooseRef(address, advertised);
  const found = (await stored(address, wanted)) ?? (await fetchNow(address, wanted, means, gitMeans));
  const tags = tagsOf(found.id, advertised);
  await record(asked, { id: found.id, date: found.date.toISOString(), tags, folder: wanted.folder });
  return { ...found, tags, folder: wanted.folder };
}

const commitKey = ({ url }: GitAddress, id: string): string => keyOf('commit', url, id);

async function stored(
  address: GitAddress,
  { commit }: Wanted,
): Promise<{ id: string; date: Date; tar: Buffer } | null> {
  if (commit === null) return null;
  const tar = await storedTar(address, commit);
  const known = await recorded(commitKey(address, commit), GitRecord);
  return tar && known ? { id: known.id, date: new Date(known.date), tar } : null;
}

/** Its tar, when it is there and as it was. */
async function storedTar(address: GitAddress, id: string): Promise<Buffer | null> {
  const dir = join(folder(), commitKey(address, id));
  try {
    const tar = await readFile(join(dir, 'tree.tar'));
    const digest = await readFile(join(dir, 'sha256'), 'utf8');
    return createHash('sha256').update(tar).digest('hex') === digest ? tar : null;
  } catch {
    return null;
  }
}

async function fetchNow(
  address: GitAddress,
  wanted: Wanted,
  { emit }: FetchMeans,
  means: { signal: AbortSignal; proxy: string | undefined },
): Promise<{ id: string; date: Date; tar: Buffer }> {
  const shown = `${redact(address.url)}${wanted.ref === null ? '' : ` ${wanted.ref}`}`;
  emit({ type: 'note', level: 'info', message: `Fetching ${shown}` });
  await mkdir(cacheDir(), { recursive: true });
  const dir = await mkdtemp(join(cacheDir(), 'tmp-git-'));
  try {
    const commit = await fetchCommit(address, wanted, dir, means);
    const key = commitKey(address, commit.id);
    await mkdir(join(folder(), key), { recursive: true });
    await writeAtomic(commit.tar, join(folder(), key, 'tree.tar'));
    await writeAtomic(
      Buffer.from(createHash('sha256').update(commit.tar).digest('hex')),
      join(folder(), key, 'sha256'),
    );
    await record(key, { id: commit.id, date: commit.date.toISOString(), tags: [], folder: null });
    return commit;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** A file of a web server. One without a digest is downloaded each time: it may have changed. */
export async function fetchFile({ url, name, digest }: FileAddress, means: FetchMeans): Promise<FetchedFile> {
  const asked = keyOf('file', url);
  const known = await recorded(asked, FileRecord);
  const file = plainName(name);
  const at = (sha256: string): string => join(folder(), sha256, file);
  if (known && (means.offline || digest)) {
    const there = at(known.sha256);
    const whole = await hasDigest(there, { algorithm: 'sha256', hex: known.sha256 });
    if (whole && (!digest || (await hasDigest(there, digest)))) return { path: there, sha256: known.sha256 };
  }
  if (means.offline) throw lacks(redact(url));
  await mkdir(folder(), { recursive: true });
  const dir = await mkdtemp(join(cacheDir(), 'tmp-source-'));
  try {
    const part = join(dir, file);
    await download({
      ...{ url, to: part, digest, what: file, mode: 0o444, secure: url.startsWith('https:') },
      limits: { maxBytes: TREE_LIMITS.packed },
      ...{ emit: means.emit, signal: means.signal, proxy: await proxyFor(means.proxy) },
    });
    const sha256 = createHash('sha256')
      .update(await readFile(part))
      .digest('hex');
    await mkdir(dirname(at(sha256)), { recursive: true });
    await writeAtomic({ file: part }, at(sha256));
    await record(asked, { sha256 });
    if (!digest) noteUnpinned(url, sha256, known?.sha256, means.emit);
    return { path: at(sha256), sha256 };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function noteUnpinned(url: string, sha256: string, before: string | undefined, emit: Emit): void {
  const plain = url.startsWith('http:');
  if (before === sha256 && !plain) return;
  const why = plain ? ' came over plain http, which anybody on the way can change' : '';
  const message = `${redact(url)}${why}: with #sha256=${sha256} at its end no other file is taken`;
  emit({ type: 'note', level: plain ? 'warn' : 'info', message });
}

const plainName = (name: string): string =>
  name.replaceAll(/[^A-Za-z0-9._+~-]/g, '_').replace(/^[.-]+/, '') || 'source';

/** The files that a .dsc names beside itself, by their SHA-256. Throws fault `usage` for what is no .dsc. */
export async function dscFiles(path: string, text: string): Promise<{ name: string; digest: Digest }[]> {
  const body = (await readCapped(path, 1 << 20)).toString('utf8');
  const signed =
    /-----BEGIN PGP SIGNED MESSAGE-----\n(?:[^\n]+\n)*\n(.*?)\n-----BEGIN PGP SIGNATURE-----/s.exec(
      body,
    )?.[1];
  const fields = parseParagraph((signed ?? body).replace(/\r/g, ''));
  const lines = (fields.get('Checksums-Sha256') ?? '').split('\n').filter((line) => line.trim() !== '');
  const files = lines.map((line) =>
    /^\s*([0-9a-f]{64}) (\d+) ([A-Za-z0-9][A-Za-z0-9._+~:-]*)\s*$/.exec(line),
  );
  if (fields.get('Source') === undefined || files.length === 0 || files.includes(null)) {
    throw new Dkms2binError('usage', `${text} is not a Debian source package (.dsc)`, {
      hint: 'It names its files by Checksums-Sha256.',
    });
  }
  const bytes = files.reduce((sum, found) => sum + Number(found?.[2]), 0);
  if (bytes > TREE_LIMITS.packed) {
    const message = `${text} names files of ${bytes} bytes together, the limit of a source is ${TREE_LIMITS.packed}`;
    throw new Dkms2binError('usage', message);
  }
  return files.map((found) => ({
    name: found?.[3] ?? '',
    digest: { algorithm: 'sha256', hex: found?.[1] ?? '' },
  }));
}

/** A web server's .dsc and what it names, in one folder; its path there. */
export async function fetchDsc(address: FileAddress, means: FetchMeans): Promise<FetchedFile> {
  const dsc = await fetchFile(address, means);
  for (const { name, digest } of await dscFiles(dsc.path, redact(address.url))) {
    const to = join(dirname(dsc.path), name);
    if (await hasDigest(to, digest)) continue;
    const url = new URL(encodeURIComponent(name), address.url).href;
    const { path } = await fetchFile({ kind: 'file', url, name, digest }, means);
    await writeAtomic({ file: path }, to);
  }
  return dsc;
}

/** Keeps a source that was made here in the cache, by its content. */
export async function keepMade(tar: Buffer, name: string): Promise<FetchedFile> {
  const sha256 = createHash('sha256').update(tar).digest('hex');
  const path = join(folder(), sha256, plainName(name));
  if (
    !(await stat(path).catch(() => null)) ||
    !(await hasDigest(path, { algorithm: 'sha256', hex: sha256 }))
  ) {
    await mkdir(dirname(path), { recursive: true });
    await writeAtomic(tar, path);
  }
  return { path, sha256 };
}
