import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import sax from 'sax';
import type { Arch } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { runChunks } from '../lib/exec.js';
import { keyOf, verifyDetached, type KeySource } from '../formats/openpgp.js';
import {
  fetchBytes,
  type IndexOptions,
  type KernelEntry,
  type KernelIndex,
  type MetaEntry,
} from './apt-index.js';
import { cachedIndex } from './index-cache.js';
import { packageSetOf, packageSets, suseRelease } from './packages.js';
import type { DistroRow } from './row.js';
import { compareRpmVersions } from '../formats/versions.js';

export type RpmIndexOptions = Pick<
  IndexOptions,
  'cacheDir' | 'offline' | 'signal' | 'maxAge' | 'warn' | 'proxy'
>;

/** A package of a repository's primary metadata. */
export interface RpmPackage {
  name: string;
  arch: string;
  epoch: string;
  version: string;
  release: string;
  url: string;
  sha256: string;
  /** What it provides as `kernel-uname-r`: what `uname -r` will say. */
  unameR?: string;
}

interface RepoIndex {
  fetchedAt: number;
  present: boolean;
  packages: RpmPackage[];
}

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
  options: RpmIndexOptions,
): Promise<KernelIndex> {
  const repos = await Promise.all(
    (row.repos ?? []).map(async ({ name, url, mirrorList, key }) => {
      const filled = fillUrl(url, { mirror, arch });
      const signer = key && { ...key, keyUrl: key.keyUrl && fillUrl(key.keyUrl, { mirror, arch }) };
      const index = await readRepo(row, arch, filled, { ...options, mirrorList, signer });
      return { name, url: filled, index };
    }),
  );
  const kernels = repos.flatMap(({ name, index }) => kernelsOf(row, arch, name, index.packages));
  return {
    kernels: kernels.map(({ entry }) => entry),
    metas: newestOf(kernels),
    places: repos.map(({ name, url, index }) => ({ suite: name, url, present: index.present })),
  };
}

export function fillUrl(template: string, values: Record<string, string>): string {
  return template.replace(/\{(\w+)\}/g, (whole, key: string) => values[key] ?? whole);
}

interface RepoOptions extends RpmIndexOptions {
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
  return cachedIndex<RepoIndex>(
    `rpm-${row.id}-${key}.json`,
    `the index of ${url}`,
    options,
    ({ packages }) => Array.isArray(packages),
    async () => {
      const fetchedAt = Date.now() / 1000;
      const base = (options.mirrorList ? await firstMirror(url, arch, options) : url).replace(/\/+$/, '');
      const packages = await readPrimary(row, base, wanted, arch, options);
      return { fetchedAt, present: packages !== undefined, packages: packages ?? [] };
    },
  );
}

/** Amazon names a repository of the current release in the first line of a file. */
async function firstMirror(url: string, arch: string, options: RpmIndexOptions): Promise<string> {
  const text = (await fetchBytes(url, 1 << 16, options))?.toString('utf8') ?? '';
  const first = text.split('\n')[0]!.trim().replaceAll('$basearch', arch);
  if (/^https?:\/\/[^\s]+$/.test(first)) return first;
  throw new Dkms2binError('transient', `${url} names no repository`);
}

async function readPrimary(
  row: DistroRow,
  base: string,
  names: ReadonlySet<string>,
  arch: string,
  options: RepoOptions,
): Promise<RpmPackage[] | undefined> {
  const repomdUrl = `${base}/repodata/repomd.xml`;
  const repomd = await fetchBytes(repomdUrl, MAX_REPOMD_BYTES, options);
  if (repomd === undefined) return undefined;
  if (options.signer) await checkSignature(row, repomd, repomdUrl, options.signer, options);
  const primary = parseRepomd(repomd, repomdUrl);
  const url = `${base}/${primary.href}`;
  const bytes = await fetchBytes(
    url,
    Math.min(primary.size ?? MAX_PRIMARY_BYTES, MAX_PRIMARY_BYTES),
    options,
  );
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
  const found: RpmPackage[] = [];
  const parser = primaryParser(base, url, names, arch, found);
  await eachChunk(bytes, url, (chunk) => parser.write(chunk));
  parser.close();
  return found;
}

/** Throws unless repomd.xml has a good signature of the row's key for the repository. It names what all other files have to be. */
async function checkSignature(
  row: DistroRow,
  repomd: Buffer,
  url: string,
  signer: KeySource,
  options: RpmIndexOptions,
): Promise<void> {
  const get = async (from: string): Promise<Buffer> => {
    const bytes = await fetchBytes(from, MAX_KEY_BYTES, options);
    if (bytes) return bytes;
    throw new Dkms2binError(
      'transient',
      `${from} is missing, so ${signer.keyFingerprint} does not vouch for ${url}`,
      {
        hint: 'The mirror may be in the middle of an update, or leave signatures out; use another --mirror.',
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

interface DataFile {
  href: string;
  algorithm: 'sha256' | 'sha512';
  hex: string;
  size: number | undefined;
}

/** Where repomd.xml says that the primary metadata are. */
export function parseRepomd(bytes: Buffer, where: string): DataFile {
  let inPrimary = false;
  let text = '';
  const data: Partial<Record<'href' | 'type' | 'hex' | 'size', string | undefined>> = {};
  const parser = strictParser(where, (name, attributes) => {
    text = '';
    if (name === 'data') inPrimary = attributes.type === 'primary';
    else if (inPrimary && name === 'location') data.href = attributes.href;
    else if (inPrimary && name === 'checksum') data.type = attributes.type;
  });
  parser.ontext = (more) => (text += more);
  parser.onclosetag = (name) => {
    if (inPrimary && name === 'checksum') data.hex = text.trim().toLowerCase();
    if (inPrimary && name === 'size') data.size = text.trim();
  };
  parser.write(bytes.toString('utf8')).close();
  const { href, type, hex, size } = data;
  if (
    href === undefined ||
    !safePath(href) ||
    hex === undefined ||
    (type !== 'sha256' && type !== 'sha512')
  ) {
    throw new Dkms2binError('transient', `${where} names no usable primary metadata`);
  }
  const bytesOf = Number(size);
  return { href, algorithm: type, hex, size: size !== undefined && bytesOf > 0 ? bytesOf : undefined };
}

/** A parser that adds the packages of `names` to `found`; what is not fit for a URL is passed over. */
function primaryParser(
  base: string,
  where: string,
  names: ReadonlySet<string>,
  arch: string,
  found: RpmPackage[],
): { write(chunk: Buffer): void; close(): void } {
  const decoder = new TextDecoder();
  let depth = 0;
  let text = '';
  let relation = '';
  let now: Record<string, string | undefined> = {};
  const parser = strictParser(where, (name, attributes) => {
    depth++;
    if (depth === 2) now = {};
    if (depth === 4) relation = name;
    if (depth === 5 && relation === 'rpm:provides' && attributes.name === 'kernel-uname-r') {
      now.unameR = [attributes.ver, attributes.rel].filter(Boolean).join('-');
    }
    if (depth !== 3) return;
    text = '';
    if (name === 'version') {
      for (const key of ['epoch', 'ver', 'rel']) now[key] = attributes[key];
    } else if (name === 'checksum') now.checksum = attributes.type;
    else if (name === 'location' && attributes['xml:base'] === undefined) now.href = attributes.href;
  });
  parser.ontext = (more) => {
    if (depth === 3) text += more;
  };
  parser.onclosetag = (name) => {
    if (depth === 3 && (name === 'name' || name === 'arch')) now[name] = text;
    if (depth === 3 && name === 'checksum' && now.checksum === 'sha256')
      now.sha256 = text.trim().toLowerCase();
    if (depth === 2 && name === 'package') take();
    depth--;
  };
  const take = (): void => {
    const { name = '', ver = '', rel = '', href = '', sha256 = '', epoch = '' } = now;
    if (!names.has(name) || (now.arch !== arch && now.arch !== 'noarch')) return;
    if (
      !/^[\w.+~^]+$/.test(ver) ||
      !/^[\w.+~^]+$/.test(rel) ||
      !safePath(href) ||
      !/^[0-9a-f]{64}$/.test(sha256)
    )
      return;
    found.push({
      name,
      arch: now.arch,
      epoch: /^\d+$/.test(epoch) ? epoch : '0',
      version: ver,
      release: rel,
      url: `${base}/${href}`,
      sha256,
      ...(/^[\w.+~-]+$/.test(now.unameR ?? '') && { unameR: now.unameR! }),
    });
  };
  return {
    write: (chunk) => void parser.write(decoder.decode(chunk, { stream: true })),
    close: () => void parser.write(decoder.decode()).close(),
  };
}

function strictParser(
  where: string,
  onTag: (name: string, attributes: Record<string, string | undefined>) => void,
): sax.SAXParser {
  const parser = sax.parser(true, { position: false });
  // Without xmlns, attributes are plain strings.
  parser.onopentag = ({ name, attributes }) => onTag(name, attributes as Record<string, string>);
  parser.onerror = (error) => {
    throw new Dkms2binError('transient', `${where} is no XML: ${error.message.split('\n')[0]!}`);
  };
  return parser;
}

const safePath = (path: string): boolean =>
  /^[\w.+~^%:-]+(?:\/[\w.+~^%:-]+)*$/.test(path) && !path.split('/').includes('..');

/** What `uname -r` says with an image package, undefined for a package that is no image of this row. */
function releaseOf(row: DistroRow, rpm: RpmPackage): { release: string; flavour: string } | undefined {
  for (const { set, suffix } of packageSets(row)) {
    for (const template of set.image) {
      if (row.packageManager === 'zypper') {
        const [head = '', tail = ''] = template.split('{flavour}');
        if (!rpm.name.startsWith(head) || !rpm.name.endsWith(tail)) continue;
        const flavour = rpm.name.slice(head.length, rpm.name.length - tail.length);
        const release = suseRelease(rpm.version, rpm.release, flavour);
        if (packageSetOf(row, release).set === set) return { release, flavour };
      } else if (template === rpm.name) {
        // Some packages of a variant provide the name of the plain kernel beside which they are built.
        const made = `${rpm.version}-${rpm.release}.${rpm.arch}${suffix}`;
        const release = rpm.unameR?.endsWith(suffix) ? rpm.unameR : made;
        if (packageSetOf(row, release).set === set)
          return {
            release,
            flavour: suffix.slice(1) || /\.rt\d|uek/.exec(release)?.[0].replace(/[.\d]/g, '') || '',
          };
      }
    }
  }
  return undefined;
}

interface Kernel {
  name: string;
  entry: KernelEntry;
}

function kernelsOf(row: DistroRow, arch: Arch, repo: string, packages: readonly RpmPackage[]): Kernel[] {
  return packages.flatMap((rpm) => {
    const found = rpm.arch === arch ? releaseOf(row, rpm) : undefined;
    if (!found) return [];
    return [{ name: rpm.name, entry: { ...found, packageVersion: versionOf(rpm), suite: repo } }];
  });
}

export function versionOf({ epoch, version, release }: RpmPackage): string {
  return `${epoch === '0' ? '' : `${epoch}:`}${version}-${release}`;
}

/** RPM distros have no metapackage that names a kernel: the default one is the newest package of its name. */
function newestOf(kernels: readonly Kernel[]): MetaEntry[] {
  const newest = new Map<string, MetaEntry>();
  for (const { name, entry } of kernels) {
    const known = newest.get(name);
    if (known && compareRpmVersions(entry.packageVersion, known.packageVersion) <= 0) continue;
    newest.set(name, {
      name,
      release: entry.release,
      packageVersion: entry.packageVersion,
      suite: entry.suite,
    });
  }
  return [...newest.values()];
}
