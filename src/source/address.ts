import { Dkms2binError } from '../model/errors.js';
import { credentialsFor, redact, withoutCredentials } from '../lib/credentials.js';
import type { Digest } from '../lib/digest.js';

/** A source in a git repository. */
export interface GitAddress {
  kind: 'git';
  /** As git takes it, without user and password. */
  url: string;
  /** Branch, tag or commit; absent: the repository's default branch. */
  ref?: string;
  /** Of a forge's page: a ref and a folder below it, not told apart. */
  page?: string;
  folder?: string;
}

/** A file of a web server. */
export interface FileAddress {
  kind: 'file';
  /** Without user and password. */
  url: string;
  /** Last part of its path. */
  name: string;
  digest?: Digest;
}

/** A module as `dkms status` prints it. */
export interface ModuleAddress {
  kind: 'module';
  name: string;
  version: string;
}

const FILE = /\.(?:u?deb|rpm|dsc|zip|tar|tar\.gz|tgz|tar\.xz|txz|tar\.zst|tar\.bz2|tbz2?)$/i;
const LIST = /\.(?:txt|list|ya?ml|json|conf|html?)$/i;
/** What a branch, tag or commit consists of here: git itself allows more, which no forge does. */
const REF = /^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+@~-]*$/;
const PART = '(?!\\.\\.?(?:/|$))[A-Za-z0-9_.][A-Za-z0-9 ._+@~,=-]*';
const FOLDER = new RegExp(`^${PART}(?:/${PART})*/?$`);
const HOST = /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$/;
const SCP =
  /^([A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*):((?!\/)[A-Za-z0-9~_][A-Za-z0-9~_./+-]*?)(?:#(.*))?$/;

/**
 * What a --dkms value names that is no path and no package of a distro; null for everything else. Throws fault `usage` for a
 * URL that cannot be used.
 */
export function parseAddress(text: string): GitAddress | FileAddress | ModuleAddress | null {
  const [, host, path, fragment = ''] = SCP.exec(text) ?? [];
  if (host !== undefined && path !== undefined) {
    return { kind: 'git', url: `${host}:${path}`, ...inRepository(text, fragment) };
  }
  const [, scheme, rest = ''] = /^([A-Za-z][A-Za-z0-9+.-]*):(\/\/.*|:.*)$/.exec(text) ?? [];
  return scheme === undefined ? parseStatus(text) : parseUrl(text, scheme, rest);
}

function parseUrl(text: string, scheme: string, rest: string): GitAddress | FileAddress {
  const forced = scheme.toLowerCase().startsWith('git+');
  const protocol = scheme.toLowerCase().replace(/^git\+/, '');
  if (!['https', 'http', 'ssh'].includes(protocol) || !rest.startsWith('//')) throw otherScheme(text, scheme);
  const [where = '', fragment = ''] = splitOnce(`${protocol}:${rest}`, '#');
  const url = remembered(text, where);
  if (!url || !HOST.test(url.host) || /[\x00-\x20"'\\^`{|}]/.test(where) || url.pathname.startsWith('/-'))
    throw new Dkms2binError('usage', `Not a URL that dkms2bin can use: ${redact(text)}`);
  if (!forced && protocol !== 'ssh' && FILE.test(url.pathname)) return fileAddress(text, url, fragment);
  if (!forced && LIST.test(url.pathname)) {
    throw new Dkms2binError('usage', `${redact(text)} is no source and no git repository`, {
      hint: 'A list file has to lie on this machine.',
    });
  }
  return gitAddress(text, { url, fragment, forced });
}

/** The URL without user and password, which are kept for requests to it; null for what is none. */
function remembered(text: string, where: string): URL | null {
  if (!URL.canParse(where)) return null;
  const url = new URL(where);
  if (url.protocol === 'ssh:') return url;
  // A request's texts have lost them already, under the text's own name.
  const known = url.username === '' && url.password === '' ? credentialsFor(text) : undefined;
  if (known) Object.assign(url, known);
  return new URL(withoutCredentials(url.href));
}

function otherScheme(text: string, scheme: string): Dkms2binError {
  const local = /^(?:git\+)?file$/i.test(scheme);
  return new Dkms2binError('usage', `${redact(text)}: ${scheme}: URLs are not fetched`, {
    hint: local
      ? 'Give the path of the folder or file itself; of a bare repository, a clone of it.'
      : 'git repositories are fetched over https, http and ssh; files over https and http.',
  });
}

const splitOnce = (text: string, at: string): string[] => {
  const found = text.indexOf(at);
  return found < 0 ? [text] : [text.slice(0, found), text.slice(found + at.length)];
};

function fileAddress(text: string, url: URL, fragment: string): FileAddress {
  const name = decodeURIComponent(url.pathname.slice(url.pathname.lastIndexOf('/') + 1));
  const common = { kind: 'file' as const, url: url.href, name };
  if (fragment === '') return common;
  const [, algorithm = '', hex = ''] = /^(sha256|sha512)[=:]([0-9a-fA-F]+)$/.exec(fragment) ?? [];
  if (hex.length !== (algorithm === 'sha256' ? 64 : 128)) {
    throw new Dkms2binError('usage', `${redact(text)}: what follows the # is no digest`, {
      hint: 'Write #sha256= and 64 hex digits, or #sha512= and 128.',
    });
  }
  return { ...common, digest: { algorithm: algorithm as Digest['algorithm'], hex: hex.toLowerCase() } };
}

/** A forge's own page of a repository, a branch, a tag, a commit or a folder. */
const PAGE = /^(\/[^/]+(?:\/[^/]+)+?)(?:\/-)?\/(?:tree|src\/branch|src\/tag|commit|releases\/tag)\/(.+?)\/?$/;

function gitAddress(
  text: string,
  { url, fragment, forced }: { url: URL; fragment: string; forced: boolean },
): GitAddress {
  // pip's form.
  const [, before, after] = (forced && /^(.*[^/])@([^@/:][^@:]*)$/.exec(url.pathname)) || [];
  const [, repository, page] = PAGE.exec(url.pathname) ?? [];
  const where = new URL(url);
  where.pathname = before ?? repository ?? url.pathname;
  if (repository !== undefined) where.search = '';
  const place = inRepository(text, fragment, after, decodeURIComponent(page ?? ''));
  // As it was written: a slash that URL adds at the end is none of the repository's name.
  const href = where.href.replace(/\/$/, '');
  return { kind: 'git', url: href, ...place };
}

/** Where in a repository: `REF:FOLDER`, or pip's `subdirectory=FOLDER`. Throws fault `usage` for what git could misread. */
function inRepository(
  text: string,
  fragment: string,
  pipRef = '',
  page = '',
): Pick<GitAddress, 'ref' | 'page' | 'folder'> {
  const named = /^[a-z]+=/.test(fragment);
  const [own = '', below = ''] = named
    ? ['', new URLSearchParams(fragment).get('subdirectory') ?? '']
    : splitOnce(fragment, ':');
  const place = { ref: own || pipRef, page, folder: below.replace(/\/+$/, '') };
  const wrong = { ref: !REF.test(place.ref), page: !FOLDER.test(page), folder: !FOLDER.test(below) };
  for (const [key, what] of [
    ['ref', 'a branch, tag or commit'],
    ['page', 'a branch, tag or commit'],
    ['folder', 'a folder inside the repository'],
  ] as const) {
    if (place[key] !== '' && wrong[key])
      throw new Dkms2binError('usage', `${redact(text)}: not ${what}: ${place[key]}`);
  }
  return Object.fromEntries(Object.entries(place).filter(([, value]) => value !== ''));
}

/**
 * A line of `dkms status`, `NAME/VERSION, KERNEL, ARCH: STATE` in dkms 3 and `NAME, VERSION, …` before, or its first word; null
 * for everything else.
 */
function parseStatus(text: string): ModuleAddress | null {
  const word = '([A-Za-z0-9][A-Za-z0-9_.+-]*)';
  const line = new RegExp(`^${word}(?:/|, )${word}(?:, [^,]+, [^,:]+)?(?:: .*)?$`);
  const [, name, version] = line.exec(text) ?? [];
  if (name === undefined || version === undefined || !/^[vr]?\d/.test(version)) return null;
  return { kind: 'module', name, version };
}

/** The value as it is shown and recorded. */
export const shownAddress = (text: string): string => text.replace(/^((?:git\+)?https?:\/\/)[^/?#]*@/i, '$1');
