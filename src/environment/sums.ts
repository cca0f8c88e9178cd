import { basename } from 'node:path';
import { Dkms2binError, messageOf } from '../model/errors.js';
import type { Digest } from '../lib/download.js';
import type { SumsForm } from '../distro/catalogue.js';

const HEX_LENGTH = { sha256: 64, sha512: 128 } as const;

/** The digest of `name` in a sums file. Throws when the file does not name it, or names it with two digests. */
export function parseSums(text: string, form: SumsForm, name: string, where = 'the sums file'): Digest {
  const found = form === 'json' ? fromJson(text, name, where) : fromLines(text, form, name);
  // The strongest kind a file offers; two digests of one kind for one name mean the file cannot be trusted.
  const strongest = found.some(({ algorithm }) => algorithm === 'sha512') ? 'sha512' : 'sha256';
  const distinct = new Map(found.map((digest) => [digestText(digest), digest]));
  const best = [...distinct.values()].filter(({ algorithm }) => algorithm === strongest);
  const [only] = best;
  if (!only) throw new Dkms2binError('transient', `${where} (${form}) does not list ${name}`);
  if (best.length > 1) {
    throw new Dkms2binError('transient', `${where} lists ${name} with ${best.length} different digests`);
  }
  return only;
}

/** The one file name in a sums file that fits `pattern`, in which `*` stands for anything. */
export function nameLike(text: string, form: SumsForm, pattern: string, where = 'the sums file'): string {
  const expression = new RegExp(
    `^${pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '[^/\\s]*')}$`,
  );
  const all = form === 'json' ? jsonNames(text, where) : lines(text, form).map(({ file }) => file);
  const names = [...new Set(all.map((each) => basename(each)))].filter((each) => expression.test(each));
  const [only] = names;
  if (only !== undefined && names.length === 1) return only;
  throw new Dkms2binError(
    'transient',
    `${where} (${form}) lists ${names.length === 0 ? 'nothing' : names.join(' and ')} like ${pattern}`,
  );
}

/** `sha512:HEX` or `sha256:HEX`. Throws fault `usage` for anything else. */
export function parseDigest(text: string): Digest {
  const [, name, hex = ''] = /^(sha256|sha512):([0-9a-f]+)$/.exec(text) ?? [];
  const algorithm = algorithmOf(name);
  if (!algorithm || hex.length !== HEX_LENGTH[algorithm]) {
    throw new Dkms2binError('usage', `Not a digest: ${text}`, {
      hint: 'Give sha256: or sha512: and all of its hex digits, in lower case.',
    });
  }
  return { algorithm, hex };
}

export const digestText = ({ algorithm, hex }: Digest): string => `${algorithm}:${hex}`;

function algorithmOf(name = ''): Digest['algorithm'] | undefined {
  const lower = name.toLowerCase();
  return lower === 'sha256' || lower === 'sha512' ? lower : undefined;
}

function fromLines(text: string, form: SumsForm, name: string): Digest[] {
  return lines(text, form)
    .filter(({ file }) => file === name)
    .map(({ digest }) => digest);
}

function lines(text: string, form: SumsForm): { file: string; digest: Digest }[] {
  return text.split(/\r?\n/).flatMap((line) => {
    const bsd = /^(SHA256|SHA512) \((?<file>.+)\) = (?<hex>[0-9a-fA-F]+)\s*$/;
    // openSUSE has written one blank where GNU writes two.
    const gnu = /^(?<hex>[0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *]?(?<file>.+?)\s*$/;
    const found = (form === 'bsd-checksum' ? bsd : gnu).exec(line);
    const { file = '', hex = '' } = found?.groups ?? {};
    const algorithm = algorithmOf(form === 'bsd-checksum' ? found?.[1] : form.replace('sums', ''));
    if (!found || !algorithm || hex.length !== HEX_LENGTH[algorithm]) return [];
    return [{ file: file.replace(/^\.\//, ''), digest: { algorithm, hex: hex.toLowerCase() } }];
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

const isFile = (text: string, file: string): boolean => text === file || text.endsWith(`/${file}`);

/**
 * JSON sums have no common shape (Debian's upload lists, Oracle's templates, simplestreams): the digest is taken from
 * the smallest object that holds both the file's name (alone, or as the end of a path or URL) and a digest.
 */
function fromJson(text: string, file: string, where: string): Digest[] {
  const taken: Digest[] = [];
  search(parseJson(text, where), file, taken);
  return taken;
}

interface Part {
  /** Whether the file's name stands in it. */
  names: boolean;
  digests: Digest[];
  /** An object in it had both: what is around it no longer counts. */
  settled: boolean;
}

/** What a part of the document has; the digests of the smallest objects go into `taken`. */
function search(node: unknown, file: string, taken: Digest[], depth = 0): Part {
  if (typeof node === 'string') return { names: isFile(node, file), digests: [], settled: false };
  if (typeof node !== 'object' || node === null || depth > 32) {
    return { names: false, digests: [], settled: false };
  }
  const members = Object.entries(node).map(([key, value]) => {
    const inner = search(value, file, taken, depth + 1);
    const own = typeof value === 'string' ? jsonDigest(key, value) : null;
    return { ...inner, key, digests: own ? [own, ...inner.digests] : inner.digests };
  });
  const isObject = !Array.isArray(node);
  const open = members.filter(({ settled }) => !settled);
  const part = {
    names: open.some(({ names }) => names) || (isObject && members.some(({ key }) => isFile(key, file))),
    digests: open.flatMap(({ digests }) => digests),
    settled: open.length < members.length,
  };
  if (isObject && !part.settled && part.names && part.digests.length > 0) {
    taken.push(...part.digests);
    part.settled = true;
  }
  return part;
}

function jsonDigest(key: string, value: string): Digest | null {
  const prefixed = /^(sha256|sha512):(.+)$/i.exec(value);
  const algorithm = algorithmOf(prefixed?.[1] ?? /sha(?:256|512)/i.exec(key.replace('-', ''))?.[0]);
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
