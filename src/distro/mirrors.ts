import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { parseParagraphs } from '../formats/deb822.js';
import { withoutCredentials } from '../lib/credentials.js';
import { run } from '../lib/exec.js';
import type { DistroRow } from './row.js';

export interface HostMirrors {
  main?: string;
  security?: string;
}

interface Source {
  uris: string[];
  suites: string[];
  components: string[];
  signedBy: string;
}

const SUITE =
  /^(?:(?:old)*stable|testing|unstable|sid|buster|bullseye|bookworm|trixie|forky|duke)(?:-(?:updates|security|backports|proposed-updates)|\/updates)?$/;

function readDeb822(text: string): Source[] {
  return parseParagraphs(text).flatMap((paragraph) => {
    const words = (name: string): string[] => (paragraph.get(name) ?? '').split(/\s+/).filter(Boolean);
    const disabled = /^(no|false|0|off)$/i.test(paragraph.get('Enabled') ?? '');
    if (disabled || !words('Types').includes('deb')) return [];
    return [
      {
        uris: words('URIs'),
        suites: words('Suites'),
        components: words('Components'),
        signedBy: paragraph.get('Signed-By') ?? '',
      },
    ];
  });
}

function readOneLine(text: string): Source[] {
  return text.split('\n').flatMap((line) => {
    const [, options = '', uri, suite, components = ''] =
      /^\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)/.exec(line) ?? [];
    if (uri === undefined || suite === undefined) return [];
    const signedBy = /(?:^|\s)signed-by=(\S+)/i.exec(options)?.[1] ?? '';
    return [{ uris: [uri], suites: [suite], components: components.split(/\s+/).filter(Boolean), signedBy }];
  });
}

/**
 * The Debian mirrors that this host's apt uses, without a trailing slash; empty on a host of another distro. Other
 * vendors' repositories for Debian also end in `/debian`, so one signed by a key that is not Debian's is passed over.
 */
export async function hostMirrors(etcApt = '/etc/apt'): Promise<HostMirrors> {
  const names = await readdir(join(etcApt, 'sources.list.d')).catch(() => []);
  const files = [
    join(etcApt, 'sources.list'),
    ...names.sort().map((name) => join(etcApt, 'sources.list.d', name)),
  ];
  const mirrors: HostMirrors = {};
  for (const file of files.filter((name) => /\.(?:list|sources)$/.test(name))) {
    const text = await readFile(file, 'utf8').catch(() => '');
    const sources = file.endsWith('.sources') ? readDeb822(text) : readOneLine(text);
    for (const source of sources.filter(isDebians)) await takeMirrors(source, mirrors);
  }
  return mirrors;
}

const isDebians = ({ components, signedBy }: Source): boolean =>
  components.includes('main') && (signedBy === '' || signedBy.includes('debian-archive'));

/** Fills in what `mirrors` lacks from a source; the first one of each kind counts. */
async function takeMirrors(source: Source, mirrors: HostMirrors): Promise<void> {
  const suites = source.suites.filter((suite) => SUITE.test(suite));
  if (suites.length === 0) return;
  const security = suites.every(
    (suite) => /[-/](security|updates)$/.test(suite) && !suite.endsWith('-updates'),
  );
  for (const listed of source.uris) {
    const uri = withoutCredentials(await followList(listed)).replace(/\/+$/, '');
    if (!/^https?:\/\//.test(uri)) continue;
    if (security || uri.endsWith('/debian-security')) mirrors.security ??= uri;
    else if (uri.endsWith('/debian') || source.signedBy !== '') mirrors.main ??= uri;
  }
}

/** Debian's cloud images name their mirrors through a list file. */
async function followList(uri: string): Promise<string> {
  if (!uri.startsWith('mirror+file:')) return uri;
  const text = await readFile(uri.replace(/^mirror\+file:(?:\/\/)?/, ''), 'utf8').catch(() => '');
  return text.split(/\s+/).find((word) => /^https?:\/\//.test(word)) ?? '';
}

export interface MirrorOptions {
  /** `--mirror`, for the main archive; security is taken from the same place when it ends in `/debian`. */
  mirror?: string | undefined;
  securityMirror?: string | undefined;
}

/** Mirrors of a row: `--mirror`, then those of the host's apt when it is a Debian, then the catalogue's. */
export async function mirrorsOf(
  row: DistroRow,
  options: MirrorOptions,
  arch: Arch = 'x86_64',
): Promise<{ main: string; security: string | undefined }> {
  const host = row.family === 'debian' ? await hostMirrors() : {};
  const given = options.mirror?.replace(/\/+$/, '');
  const own = row.arch[arch]?.mirrors ?? row.mirrors;
  let derived: string | undefined;
  if (given !== undefined && row.family !== 'debian') derived = given;
  else if (given !== undefined && /\/debian$/.test(given)) derived = `${given}-security`;
  return {
    main: given ?? host.main ?? own.main,
    security: options.securityMirror ?? derived ?? host.security ?? own.security,
  };
}

/** The HTTP proxy of this host's apt configuration, if any. */
export async function hostProxy(signal?: AbortSignal): Promise<string | undefined> {
  try {
    const args = ['dump', '--format', '%v', 'Acquire::http::Proxy'];
    const { stdout } = await run('apt-config', args, { ...(signal && { cancelSignal: signal }) });
    return /^https?:\/\/\S+$/.test(stdout.trim()) ? withoutCredentials(stdout.trim()) : undefined;
  } catch (error) {
    if (signal?.aborted) throw error;
    // No apt on this host.
    return undefined;
  }
}

let ofThisHost: Promise<string | undefined> | undefined;

/** The proxy `given` ('' for none), else that of this host's apt, which is asked once; undefined leaves it to the environment. */
export async function proxyFor(given: string | undefined): Promise<string | undefined> {
  return given ?? (await (ofThisHost ??= hostProxy()));
}
