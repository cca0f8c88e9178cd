import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { z } from 'zod';
import type { Arch } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { runChunks } from '../lib/exec.js';
import { keyOf, verifyDetached, type KeySource } from '../formats/openpgp.js';
import { fetchBytes } from './fetch.js';
import { cachedIndex } from './index-cache.js';
import type { KernelIndex, LookupOptions } from './kernel-index.js';
import { packageSets } from './packages.js';
import { parseRepomd, primaryParser, RpmPackage, type PrimaryQuery } from './repomd.js';
import type { DistroRow } from './row.js';
import { kernelsOf, newestOf } from './rpm-kernels.js';
import { fillKnown } from './templates.js';

/** What is kept of a repository. */
const RepoIndex = z.object({
  /** Seconds since 1970. */
  fetchedAt: z.number(),
  present: z.boolean(),
  packages: z.array(RpmPackage),
});
type RepoIndex = z.infer<typeof RepoIndex>;

const MAX_REPOMD_BYTES = 4 << 20;
const MAX_KEY_BYTES = 1 << 20;
const MAX_PRIMARY_BYTES = 256 << 20;
/** Fedora's primary metadata unpack to some 300 MB. */
const MAX_OPEN_BYTES = 2 ** 31;

/** The kernels of all repositories of a dnf or zypper row; a repository that is not there counts as empty. */
export async function listRpmKernels(
  row: DistroRow,
  arch: Arch,
  mirror: string,
  options: LookupOptions,
): Promise<KernelIndex> {
  const repos = await Promise.all(
    (row.repos ?? []).map(async ({ name, url, mirrorList, key }) => {
      const filled = fillKnown(url, { mirror, arch });
      const signer = key && { ...key, keyUrl: key.keyUrl && fillKnown(key.keyUrl, { mirror, arch }) };
      const index = await readRepo(row, arch, filled, { ...options, mirrorList, signer });
      return { name, url: filled, ...index };
    }),
  );
  const kernels = repos.flatMap((repo) => kernelsOf(row, arch, repo));
  return {
    kernels: kernels.map(({ entry }) => entry),
    metas: newestOf(kernels),
    places: repos.map(({ name, url, present }) => ({ suite: name, url, present })),
  };
}

interface RepoOptions extends LookupOptions {
  mirrorList?: boolean;
  /** Whose signature repomd.xml has to have. */
  signer?: KeySource | undefined;
}

/** The row's kernel packages in one repository. */
export async function readRepo(
  row: DistroRow,
  arch: Arch,
  url: string,
  options: RepoOptions,
): Promise<RepoIndex> {
  const names = packageSets(row)
    .flatMap(({ set }) => [...set.image, ...set.modules, ...set.extra, ...set.headers])
    .flatMap((name) => (row.arch[arch]?.kernelFlavours ?? ['']).map((f) => name.replace('{flavour}', f)));
  const wanted = new Set(names);
  const key = createHash('sha256')
    .update(JSON.stringify([3, url, arch, [...wanted].sort(), options.signer?.keyFingerprint ?? null]))
    .digest('hex')
    .slice(0, 20);
  const read = async (): Promise<RepoIndex> => {
    const fetchedAt = Date.now() / 1000;
    const base = (options.mirrorList ? await firstMirror(url, arch, options) : url).replace(/\/+$/, '');
    const packages = await readPrimary({ base, names: wanted, arch }, row, options);
    return { fetchedAt, present: packages !== undefined, packages: packages ?? [] };
  };
  return cachedIndex(
    { name: `rpm-${row.id}-${key}.json`, what: `the index of ${url}`, schema: RepoIndex, read },
    options,
  );
}

/** Amazon names a repository of the current release in the first line of a file. */
async function firstMirror(url: string, arch: string, options: LookupOptions): Promise<string> {
  const text = (await fetchBytes(url, 1 << 16, options))?.toString('utf8') ?? '';
  const first = text
    .replace(/\n[^]*$/, '')
    .trim()
    .replaceAll('$basearch', arch);
  if (/^https?:\/\/[^\s]+$/.test(first)) return first;
  throw new Dkms2binError('transient', `${url} does not name a repository`);
}

/** The wanted packages of the repository at `base`, undefined when it is not there. */
async function readPrimary(
  query: Omit<PrimaryQuery, 'where'>,
  row: DistroRow,
  options: RepoOptions,
): Promise<RpmPackage[] | undefined> {
  const { base } = query;
  const repomdUrl = `${base}/repodata/repomd.xml`;
  const repomd = await fetchBytes(repomdUrl, MAX_REPOMD_BYTES, options);
  if (repomd === undefined) return undefined;
  if (options.signer) await checkSignature(repomd, repomdUrl, row, { ...options, signer: options.signer });
  const primary = parseRepomd(repomd, repomdUrl);
  const url = `${base}/${primary.href}`;
  const limit = Math.min(primary.size ?? MAX_PRIMARY_BYTES, MAX_PRIMARY_BYTES);
  const bytes = await fetchBytes(url, limit, options);
  const actual = bytes && createHash(primary.algorithm).update(bytes).digest('hex');
  if (bytes === undefined || actual !== primary.hex) {
    throw new Dkms2binError(
      'transient',
      bytes ? `${url} does not have the checksum that repomd.xml gives` : `${url} is missing`,
      {
        hint: 'The mirror may be in the middle of an update; try again in a few minutes, or use another --mirror.',
      },
    );
  }
  const parser = primaryParser({ ...query, where: url });
  await eachChunk(bytes, url, (chunk) => parser.write(chunk));
  return parser.close();
}

/** Throws unless repomd.xml has a good signature of the row's key for the repository. It names what all other files have to be. */
async function checkSignature(
  repomd: Buffer,
  url: string,
  row: DistroRow,
  options: RepoOptions & { signer: KeySource },
): Promise<void> {
  const { signer } = options;
  const get = async (from: string): Promise<Buffer> => {
    const bytes = await fetchBytes(from, MAX_KEY_BYTES, options);
    if (bytes) return bytes;
    throw new Dkms2binError(
      'transient',
      `${from} is missing, so ${signer.keyFingerprint} does not vouch for ${url}`,
      {
        hint: 'The mirror may be in the middle of an update, or does not carry signatures; use another --mirror.',
      },
    );
  };
  const keys = join(options.cacheDir, 'keys');
  await mkdir(keys, { recursive: true });
  const key = await keyOf(row.id, signer, keys, get);
  await verifyDetached(repomd, await get(`${url}.asc`), key, url);
}

/** Feeds the unpacked bytes to `take`, without ever holding them all. */
async function eachChunk(bytes: Buffer, url: string, take: (text: Buffer) => void): Promise<void> {
  let left = MAX_OPEN_BYTES;
  const capped = (chunk: Buffer): void => {
    left -= chunk.length;
    if (left < 0) throw new Dkms2binError('transient', `${url} unpacks to more than ${MAX_OPEN_BYTES} bytes`);
    take(chunk);
  };
  if (/\.(?:xz|zst)$/.test(url)) {
    // Node 20 has neither.
    const tool = url.endsWith('.xz') ? 'xz' : 'zstd';
    return runChunks(tool, ['-dcq', tool === 'xz' ? '-M256MiB' : '--memory=256MB'], {
      input: bytes,
      maxBytes: MAX_OPEN_BYTES,
      onChunk: capped,
      fault: 'transient',
      timeout: 600_000,
    });
  }
  if (!/\.gz$/.test(url)) return capped(bytes);
  try {
    for await (const chunk of Readable.from([bytes]).pipe(createGunzip())) capped(chunk as Buffer);
  } catch (error) {
    if (error instanceof Dkms2binError) throw error;
    throw new Dkms2binError('transient', `${url} cannot be unpacked: ${messageOf(error)}`, { cause: error });
  }
}
