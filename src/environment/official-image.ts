import { chmod, mkdir, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Arch } from '../model/cell.js';
import {
  type Digest,
  DigestMismatch,
  download,
  fetchSmall,
  hasDigest,
  type Net,
  sweepParts,
} from '../lib/download.js';
import { archRow } from '../distro/row.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { missingTool, run } from '../lib/exec.js';
import { keyOf, verifyClearsigned, verifyDetached } from '../formats/openpgp.js';
import { cacheDir } from '../lib/paths.js';
import type { CatalogueRow, Signature, SumsForm } from '../distro/catalogue.js';

const HEX_LENGTH = { sha256: 64, sha512: 128 } as const;

export interface FetchOptions extends Net {
  /** Root of the cache; images lie in its folder `images`. `cacheDir()` unless given. */
  cacheDir?: string | undefined;
  /** Only what the cache holds: the image last verified for the row, hashed again. */
  offline?: boolean | undefined;
  /** Another place that holds the same tree: takes the stead of scheme and host, its path goes in front. */
  baseOverride?: string | undefined;
}

/** Whether the cache holds an image of the row that was verified once; `fetchOfficial` hashes it again. */
export async function officialInCache(row: CatalogueRow, arch: Arch, cache = cacheDir()): Promise<boolean> {
  const dir = join(cache, 'images');
  const { image } = archRow(row, arch);
  const digest = image.digest
    ? parseDigest(image.digest)
    : await readRecord(recordOf(dir, row, arch), image.url);
  return digest !== null && (await stat(join(dir, `${digest.hex}.qcow2`)).catch(() => null)) !== null;
}

/**
 * The official image of a row in the cache: `images/<digest>.qcow2`, read-only, verified against the pinned digest or
 * the distro's (signed) sums, and checked to stand alone. A cached file is hashed again before it is handed out.
 * When the sums cannot be reached, the image last verified for the row is taken, with a warning.
 */
export async function fetchOfficial(row: CatalogueRow, arch: Arch, options: FetchOptions): Promise<string> {
  const { emit, baseOverride } = options;
  const { image } = archRow(row, arch);
  const at = (url: string): string => (baseOverride ? rebase(url, baseOverride) : url);
  const dir = join(options.cacheDir ?? cacheDir(), 'images');
  const record = recordOf(dir, row, arch);
  await mkdir(dir, { recursive: true });
  await sweepParts(dir);

  const pattern = image.url.slice(image.url.lastIndexOf('/') + 1);
  let name = pattern;
  const expected = async (): Promise<Digest> => {
    if (image.digest) return parseDigest(image.digest);
    const found = await upstream(row, arch, options);
    name = found.name;
    return found.digest;
  };
  const obtain = async (digest: Digest): Promise<string> => {
    const url = at(image.url.slice(0, -pattern.length) + name);
    const path = join(dir, `${digest.hex}.qcow2`);
    await download({
      ...options,
      url,
      digest,
      to: path,
      what: `${row.id} image`,
      mode: 0o444,
      accept: (part) => requireStandalone(part, url, options.signal),
    });
    // A cache restored by cp or rsync may have lost it.
    await chmod(path, 0o444);
    await writeFile(record, JSON.stringify({ url: image.url, digest: `${digest.algorithm}:${digest.hex}` }));
    return path;
  };

  if (options.offline) {
    const last = image.digest ? parseDigest(image.digest) : await readRecord(record, image.url);
    const path = last && join(dir, `${last.hex}.qcow2`);
    if (path && (await hasDigest(path, last))) return path;
    throw new Dkms2binError(
      'not-found',
      `No verified image of ${row.id} is in the cache, and nothing may be fetched`,
      {
        hint: 'Run once without --offline.',
      },
    );
  }
  let digest: Digest;
  try {
    digest = await expected();
  } catch (error) {
    const last = error instanceof Unreachable ? await readRecord(record, image.url) : null;
    if (!last) throw error;
    emit({
      type: 'note',
      level: 'warn',
      message: `${messageOf(error)}; taking the ${row.id} image verified before`,
    });
    const path = join(dir, `${last.hex}.qcow2`);
    if (await hasDigest(path, last)) return path;
    if (pattern.includes('*')) throw error;
    return obtain(last);
  }
  if (!image.digest && image.signature.kind === 'none') {
    const how = new URL(at(image.sums.url)).protocol === 'https:' ? 'https' : 'nothing';
    emit({
      type: 'note',
      level: how === 'https' ? 'debug' : 'warn',
      message: `${row.id} publishes no signature: its sums are vouched for by ${how} alone`,
    });
  }
  try {
    return await obtain(digest);
  } catch (error) {
    if (!(error instanceof DigestMismatch) || image.digest) throw error;
    // `latest` may have moved on between the sums and the image.
    const again = await expected();
    if (again.hex === digest.hex) throw error;
    return obtain(again);
  }
}

/** What the distro's (signed) sums say of a row's image now: its name, for a URL with `*`, and digest. */
export async function upstream(
  row: CatalogueRow,
  arch: Arch,
  options: FetchOptions,
): Promise<{ name: string; digest: Digest }> {
  const image = row.arch[arch]!.image;
  const at = (url: string): string => (options.baseOverride ? rebase(url, options.baseOverride) : url);
  const dir = join(options.cacheDir ?? cacheDir(), 'images');
  await mkdir(dir, { recursive: true });
  const text = await fetchSums(row, image.sums.url, image.signature, at, dir, options);
  const { form, url } = image.sums;
  const pattern = image.url.slice(image.url.lastIndexOf('/') + 1);
  const name = pattern.includes('*') ? nameLike(text, form, pattern, at(url)) : pattern;
  let digest: Digest;
  try {
    digest = parseSums(text, form, name, at(url));
  } catch (error) {
    throw like(text, form, pattern) ?? error;
  }
  return { name, digest };
}

/** The image has another name now: the same but for its numbers. */
export class Renamed extends Dkms2binError {}

function like(text: string, form: SumsForm, name: string): Renamed | undefined {
  const similar = name.replace(/\d+/g, '*');
  try {
    const now = nameLike(text, form, similar);
    return new Renamed('transient', `${name} is called ${now} now`, {
      hint: 'Bring the row up to date: url and digest.',
    });
  } catch {
    return undefined;
  }
}

/** The digest of `name` in a sums file. Throws when the file does not name it, or names it with two digests. */
export function parseSums(text: string, form: SumsForm, name: string, where = 'the sums file'): Digest {
  const found = form === 'json' ? fromJson(text, name, where) : fromLines(text, form, name);
  const distinct = [...new Map(found.map((d) => [`${d.algorithm}:${d.hex}`, d])).values()];
  // The strongest kind a file offers; two digests of one kind for one name mean the file cannot be trusted.
  const best = distinct.filter(
    (d) => d.algorithm === (distinct.some((x) => x.algorithm === 'sha512') ? 'sha512' : 'sha256'),
  );
  if (best.length === 1) return best[0]!;
  if (best.length === 0) throw new Dkms2binError('transient', `${where} (${form}) does not list ${name}`);
  throw new Dkms2binError('transient', `${where} lists ${name} with ${best.length} different digests`);
}

/** The one file name in a sums file that fits `pattern`, in which `*` stands for anything. */
export function nameLike(text: string, form: SumsForm, pattern: string, where = 'the sums file'): string {
  const expression = new RegExp(
    `^${pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '[^/\\s]*')}$`,
  );
  const all = form === 'json' ? jsonNames(text, where) : lines(text, form).map(({ file }) => file);
  const names = [...new Set(all.map((each) => basename(each)))].filter((each) => expression.test(each));
  if (names.length === 1) return names[0]!;
  throw new Dkms2binError(
    'transient',
    `${where} (${form}) lists ${names.length === 0 ? 'nothing' : names.join(' and ')} like ${pattern}`,
  );
}

/** `sha512:HEX` or `sha256:HEX`. */
export function parseDigest(text: string): Digest {
  const match = /^(sha256|sha512):([0-9a-f]+)$/.exec(text);
  const algorithm = match?.[1] as Digest['algorithm'] | undefined;
  if (!match || !algorithm || match[2]!.length !== HEX_LENGTH[algorithm]) {
    throw new Dkms2binError('usage', `Not a digest: ${text}`);
  }
  return { algorithm, hex: match[2]! };
}

/**
 * Refuses a qcow2 that refers to another file. The header is read here first, since older qemu-img opens an external
 * data file while it looks (CVE-2024-4467); qemu-img then runs under limits with the format given.
 */
export async function requireStandalone(path: string, url = path, signal?: AbortSignal): Promise<void> {
  const refuse = (why: string): never => {
    throw new Dkms2binError('transient', `${url} is no image to use: ${why}`);
  };
  const header = Buffer.alloc(104);
  await using file = await open(path, 'r');
  const { bytesRead } = await file.read(header, 0, header.length, 0);
  if (bytesRead < 72 || header.toString('latin1', 0, 4) !== 'QFI\xfb') return refuse('not a qcow2 file');
  const version = header.readUInt32BE(4);
  if (version !== 2 && version !== 3) refuse(`qcow2 version ${version}`);
  if (header.readBigUInt64BE(8) !== 0n) refuse('it has a backing file');
  if (version === 3) {
    const incompatible = header.readBigUInt64BE(72);
    if (incompatible & 4n) refuse('it keeps its data in another file');
    if (incompatible & 2n) refuse('it is marked corrupt');
  }

  const limits = ['--as=1073741824', '--cpu=30'];
  let stdout: string;
  try {
    ({ stdout } = await run(
      'prlimit',
      [...limits, 'qemu-img', 'info', '--output=json', '-f', 'qcow2', path],
      {
        timeout: 60_000,
        ...(signal && { cancelSignal: signal }),
      },
    ));
  } catch (error) {
    if (/failed to execute qemu-img/.test(messageOf(error))) throw missingTool('qemu-img');
    throw error;
  }
  const info = JSON.parse(stdout) as {
    format?: string;
    'backing-filename'?: string;
    'full-backing-filename'?: string;
    'virtual-size'?: number;
    'format-specific'?: { data?: { 'data-file'?: string; corrupt?: boolean } };
  };
  if (info.format !== 'qcow2') refuse(`qemu-img calls it ${String(info.format)}`);
  if (info['backing-filename'] ?? info['full-backing-filename']) refuse('it has a backing file');
  if (info['format-specific']?.data?.['data-file']) refuse('it keeps its data in another file');
  if (info['format-specific']?.data?.corrupt) refuse('it is marked corrupt');
}

/** The sums could not be had, as opposed to being bad. */
export class Unreachable extends Dkms2binError {}

async function fetchSums(
  row: CatalogueRow,
  sumsUrl: string,
  signature: Signature,
  at: (url: string) => string,
  dir: string,
  net: Net,
): Promise<string> {
  const get = async (url: string): Promise<Buffer> => {
    try {
      // A signature vouches for itself; unsigned sums are worth what their connection is.
      return await fetchSmall(url, { ...net, secure: signature.kind === 'none' });
    } catch (error) {
      if (!(error instanceof Dkms2binError) || error.fault !== 'transient') throw error;
      throw new Unreachable('transient', error.message, {
        ...(error.hint && { hint: error.hint }),
        cause: error,
      });
    }
  };
  if (signature.kind === 'none') return (await get(at(sumsUrl))).toString('utf8');

  const pinned = await keyOf(row.id, signature, dir, (url) => get(at(url)));
  const signed = async (url: string): Promise<Buffer> => {
    try {
      return await get(url);
    } catch (error) {
      if (!(error instanceof Dkms2binError) || error.fault !== 'not-found') throw error;
      throw new Dkms2binError('transient', `The signature of ${row.id}'s sums is missing: ${error.message}`, {
        hint: 'Unsigned sums are not taken. The mirror may be half way through an update: try again later.',
        cause: error,
      });
    }
  };
  if (signature.kind === 'clearsigned') {
    const url = at(signature.url ?? sumsUrl);
    return verifyClearsigned((await signed(url)).toString('utf8'), pinned, url);
  }
  const data = await get(at(sumsUrl));
  await verifyDetached(data, await signed(at(signature.url)), pinned, at(sumsUrl));
  return data.toString('utf8');
}

function fromLines(text: string, form: SumsForm, name: string): Digest[] {
  return lines(text, form)
    .filter(({ file }) => file === name)
    .map(({ digest }) => digest);
}

function lines(text: string, form: SumsForm): { file: string; digest: Digest }[] {
  return text.split(/\r?\n/).flatMap((line) => {
    const bsd = /^(SHA256|SHA512) \((.+)\) = ([0-9a-fA-F]+)\s*$/.exec(line);
    // openSUSE has written one blank where GNU writes two.
    const gnu = /^([0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *]?(.+?)\s*$/.exec(line);
    let digest: Digest;
    let file: string;
    if (form === 'bsd-checksum' && bsd) {
      digest = { algorithm: bsd[1]!.toLowerCase() as Digest['algorithm'], hex: bsd[3]!.toLowerCase() };
      file = bsd[2]!;
    } else if (form !== 'bsd-checksum' && gnu) {
      digest = { algorithm: form === 'sha512sums' ? 'sha512' : 'sha256', hex: gnu[1]!.toLowerCase() };
      file = gnu[2]!;
    } else return [];
    return digest.hex.length === HEX_LENGTH[digest.algorithm]
      ? [{ file: file.replace(/^\.\//, ''), digest }]
      : [];
  });
}

/** Every string of a JSON document, keys included. */
function jsonNames(text: string, where: string): string[] {
  const visit = (node: unknown, depth: number): string[] => {
    if (typeof node === 'string') return [node];
    if (typeof node !== 'object' || node === null || depth > 32) return [];
    return Object.entries(node).flatMap(([key, value]) => [key, ...visit(value, depth + 1)]);
  };
  return visit(parseJson(text, where), 0);
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new Dkms2binError('transient', `${where} is not JSON: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * JSON sums have no common shape (Debian's upload lists, Oracle's templates, simplestreams): the digest is taken from
 * the smallest object that holds both the file's name (alone, or as the end of a path or URL) and a digest.
 */
function fromJson(text: string, name: string, where: string): Digest[] {
  const root = parseJson(text, where);
  const results: Digest[] = [];
  const visit = (node: unknown, depth: number): { names: boolean; digests: Digest[]; settled: boolean } => {
    const sum = { names: false, digests: [] as Digest[], settled: false };
    if (typeof node === 'string') {
      sum.names = node === name || node.endsWith(`/${name}`);
      return sum;
    }
    if (typeof node !== 'object' || node === null || depth > 32) return sum;
    for (const [key, value] of Object.entries(node)) {
      const own = typeof value === 'string' ? jsonDigest(key, value) : null;
      if (own) sum.digests.push(own);
      if (!Array.isArray(node) && (key === name || key.endsWith(`/${name}`))) sum.names = true;
      const inner = visit(value, depth + 1);
      sum.settled ||= inner.settled;
      sum.names ||= inner.names && !inner.settled;
      if (!inner.settled) sum.digests.push(...inner.digests);
    }
    if (!Array.isArray(node) && !sum.settled && sum.names && sum.digests.length > 0) {
      results.push(...sum.digests);
      sum.settled = true;
    }
    return sum;
  };
  visit(root, 0);
  return results;
}

function jsonDigest(key: string, value: string): Digest | null {
  const prefixed = /^(sha256|sha512):(.+)$/i.exec(value);
  const algorithm = (prefixed?.[1] ?? /sha(?:256|512)/i.exec(key.replace('-', ''))?.[0])?.toLowerCase() as
    Digest['algorithm'] | undefined;
  if (!algorithm) return null;
  const body = prefixed?.[2] ?? value;
  if (/^[0-9a-fA-F]+$/.test(body)) {
    return body.length === HEX_LENGTH[algorithm] ? { algorithm, hex: body.toLowerCase() } : null;
  }
  // Debian writes `sha512:` and base64 without its padding.
  const bytes = Buffer.from(body, 'base64');
  return prefixed && bytes.length * 2 === HEX_LENGTH[algorithm]
    ? { algorithm, hex: bytes.toString('hex') }
    : null;
}

function rebase(url: string, base: string): string {
  const { pathname, search } = new URL(url);
  return base.replace(/\/+$/, '') + pathname + search;
}

function recordOf(dir: string, row: CatalogueRow, arch: Arch): string {
  return join(dir, `${row.id}.${arch}.json`);
}

async function readRecord(path: string, url: string): Promise<Digest | null> {
  try {
    const record = JSON.parse(await readFile(path, 'utf8')) as { url: string; digest: string };
    return record.url === url ? parseDigest(record.digest) : null;
  } catch {
    // A broken record is worth nothing; the next good download writes it anew.
    await rm(path, { force: true });
    return null;
  }
}
