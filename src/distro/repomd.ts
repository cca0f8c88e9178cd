import sax from 'sax';
import { z } from 'zod';
import { Dkms2binError } from '../model/errors.js';

/** Longer than any text that is wanted; a gigabyte would be more than a string holds. */
const MAX_TEXT = 4096;

/** A path below a repository that cannot lead out of it. */
const SafePath = z
  .string()
  .regex(/^[\w.+~^%:-]+(?:\/[\w.+~^%:-]+)*$/)
  .refine((path) => !path.split('/').includes('..'));
const Sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const VersionPart = z.string().regex(/^[\w.+~^]+$/);

/** A package of a repository's primary metadata. */
export const RpmPackage = z.object({
  name: z.string(),
  arch: z.string(),
  epoch: z.string().regex(/^\d+$/).catch('0'),
  version: VersionPart,
  release: VersionPart,
  url: z.string(),
  sha256: Sha256,
  /** What it provides as `kernel-uname-r`: what `uname -r` will say. */
  unameR: z
    .string()
    .regex(/^[\w.+~-]+$/)
    .optional()
    .catch(undefined),
});
export type RpmPackage = z.infer<typeof RpmPackage>;

const DataFile = z.object({
  href: SafePath,
  algorithm: z.enum(['sha256', 'sha512']),
  hex: z.string(),
  /** Bytes. */
  size: z.coerce.number().positive().optional().catch(undefined),
});

/** A file that repomd.xml names. */
export type DataFile = z.infer<typeof DataFile>;

/** Where repomd.xml says that the primary metadata are. */
export function parseRepomd(bytes: Buffer, where: string): DataFile {
  let inPrimary = false;
  let text = '';
  const data: Record<string, string | undefined> = {};
  const parser = strictParser(where, (name, attributes) => {
    text = '';
    if (name === 'data') inPrimary = attributes.type === 'primary';
    else if (inPrimary && name === 'location') data.href = attributes.href;
    else if (inPrimary && name === 'checksum') data.algorithm = attributes.type;
  });
  parser.ontext = (more) => {
    if (text.length < MAX_TEXT) text += more;
  };
  parser.onclosetag = (name) => {
    if (inPrimary && name === 'checksum') data.hex = text.trim().toLowerCase();
    if (inPrimary && name === 'size') data.size = text.trim();
  };
  parser.write(bytes.toString('utf8')).close();
  const parsed = DataFile.safeParse(data);
  if (parsed.success) return parsed.data;
  throw new Dkms2binError('transient', `${where} does not name usable primary metadata`);
}

/** Which packages of the primary metadata at `where` are wanted, and where their repository is. */
export interface PrimaryQuery {
  where: string;
  /** URL of the repository, without a trailing slash. */
  base: string;
  names: ReadonlySet<string>;
  arch: string;
}

/** Reads primary metadata piece by piece; `close` resolves to what was found. What is not fit for a URL is passed over. */
export function primaryParser({ where, base, names, arch }: PrimaryQuery): {
  write(chunk: Buffer): void;
  close(): RpmPackage[];
} {
  const found: RpmPackage[] = [];
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
    if (depth === 3 && text.length < MAX_TEXT) text += more;
  };
  parser.onclosetag = (name) => {
    if (depth === 3 && (name === 'name' || name === 'arch')) now[name] = text;
    if (depth === 3 && name === 'checksum' && now.checksum === 'sha256')
      now.sha256 = text.trim().toLowerCase();
    if (depth === 2 && name === 'package') take();
    depth--;
  };
  const take = (): void => {
    const { href, ver: version, rel: release, ...rest } = now;
    if (!names.has(rest.name ?? '') || (rest.arch !== arch && rest.arch !== 'noarch')) return;
    if (!SafePath.safeParse(href).success) return;
    const parsed = RpmPackage.safeParse({ ...rest, version, release, url: `${base}/${href}` });
    if (parsed.success) found.push(parsed.data);
  };
  return {
    write: (chunk) => void parser.write(decoder.decode(chunk, { stream: true })),
    close: () => {
      parser.write(decoder.decode()).close();
      return found;
    },
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
    throw new Dkms2binError('transient', `${where} is not XML: ${error.message.split('\n')[0] ?? ''}`);
  };
  return parser;
}
