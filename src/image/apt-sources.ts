import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../core/exec.js';

export interface Mirrors {
  /** Root of the main archive, as in apt's `URIs`. */
  main?: string;
  security?: string;
}

interface Source {
  uri: string;
  suites: string[];
  signedBy: string;
}

/** The Debian mirrors this host's apt uses, so that a bootstrap goes where the administrator wants it to go. */
export async function hostMirrors(etc = '/etc/apt'): Promise<Mirrors> {
  const folder = join(etc, 'sources.list.d');
  const names = (await readdir(folder).catch(() => [])).sort();
  const paths = [join(etc, 'sources.list'), ...names.map((name) => join(folder, name))];
  const sources: Source[] = [];
  for (const path of paths) {
    const text = await readFile(path, 'utf8').catch(() => '');
    if (path.endsWith('.list')) sources.push(...parseOneLine(text));
    else if (path.endsWith('.sources')) sources.push(...parseDeb822(text));
  }
  const isSecurity = (source: Source): boolean => source.suites.some((s) => /-security$|\/updates$/.test(s));
  const debian = sources.filter(isDebian);
  const main = await resolveMirror(debian.find((source) => !isSecurity(source))?.uri);
  const security = await resolveMirror(debian.find(isSecurity)?.uri);
  return { ...(main && { main }), ...(security && { security }) };
}

/** The HTTP proxy of this host's apt configuration, if any. */
export async function hostProxy(signal?: AbortSignal): Promise<string | undefined> {
  try {
    const args = ['dump', '--format', '%v', 'Acquire::http::Proxy'];
    const { stdout } = await run('apt-config', args, { ...(signal && { cancelSignal: signal }) });
    return /^https?:\/\/\S+$/.test(stdout.trim()) ? stdout.trim() : undefined;
  } catch (error) {
    if (signal?.aborted) throw error;
    // No apt on this host.
    return undefined;
  }
}

/** Ubuntu's and third parties' archives must not pass: by the path, or by the key that signs it. */
function isDebian({ uri, signedBy }: Source): boolean {
  return (
    /\/debian(-security)?\/*$/.test(new URL(uri).pathname) || /debian-archive/.test(`${signedBy} ${uri}`)
  );
}

export function parseOneLine(text: string): Source[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)/.exec(line);
    const [, options = '', uri = '', suite = ''] = match ?? [];
    return URL.canParse(uri) ? [{ uri, suites: [suite], signedBy: options }] : [];
  });
}

export function parseDeb822(text: string): Source[] {
  const lines = text.split('\n').filter((line) => !line.startsWith('#'));
  const stanzas = lines.join('\n').split(/\n\s*\n/);
  return stanzas.flatMap((stanza) => {
    const field = (name: string): string =>
      (new RegExp(`^${name}:((?:.*)(?:\\n[ \\t].*)*)`, 'im').exec(stanza)?.[1] ?? '').trim();
    if (!field('Types').split(/\s+/).includes('deb') || /^no$/i.test(field('Enabled'))) return [];
    const suites = field('Suites').split(/\s+/);
    return field('URIs')
      .split(/\s+/)
      .filter((uri) => URL.canParse(uri))
      .map((uri) => ({ uri, suites, signedBy: field('Signed-By') }));
  });
}

/** Debian's cloud images name their mirrors through a list file, which the guest does not have. */
async function resolveMirror(uri: string | undefined): Promise<string | undefined> {
  if (uri === undefined) return undefined;
  if (!uri.startsWith('mirror+file:')) return /^https?:/.test(uri) ? uri : undefined;
  const list = await readFile(new URL(uri).pathname, 'utf8').catch(() => '');
  return list.split(/\s+/).find((word) => /^https?:/.test(word));
}
