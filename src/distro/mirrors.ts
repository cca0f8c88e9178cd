import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../lib/exec.js';

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

function parseDeb822(text: string): Source[] {
  const sources: Source[] = [];
  for (const stanza of text.replace(/^#.*\n?/gm, '').split(/\n[ \t]*\n/)) {
    const fields = new Map<string, string>();
    let last: string | undefined;
    for (const line of stanza.split('\n')) {
      const field = /^([A-Za-z-]+):(.*)$/.exec(line);
      if (field) {
        last = field[1]!.toLowerCase();
        fields.set(last, field[2]!.trim());
      } else if (last !== undefined && /^[ \t]/.test(line)) {
        fields.set(last, `${fields.get(last)!} ${line.trim()}`);
      }
    }
    const words = (name: string): string[] => (fields.get(name) ?? '').split(/\s+/).filter(Boolean);
    if (!words('types').includes('deb') || /^(no|false|0|off)$/i.test(fields.get('enabled') ?? '')) continue;
    sources.push({
      uris: words('uris'),
      suites: words('suites'),
      components: words('components'),
      signedBy: fields.get('signed-by') ?? '',
    });
  }
  return sources;
}

function parseOneLine(text: string): Source[] {
  const sources: Source[] = [];
  for (const line of text.split('\n')) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)/.exec(line);
    if (!match) continue;
    sources.push({
      uris: [match[2]!],
      suites: [match[3]!],
      components: match[4]!.split(/\s+/).filter(Boolean),
      signedBy: /(?:^|\s)signed-by=(\S+)/i.exec(match[1] ?? '')?.[1] ?? '',
    });
  }
  return sources;
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
  for (const file of files) {
    const parse = file.endsWith('.sources') ? parseDeb822 : file.endsWith('.list') ? parseOneLine : undefined;
    if (!parse) continue;
    const text = await readFile(file, 'utf8').catch(() => '');
    for (const source of parse(text)) {
      if (!source.components.includes('main')) continue;
      if (source.signedBy !== '' && !source.signedBy.includes('debian-archive')) continue;
      for (const listed of source.uris) {
        const raw = await followList(listed);
        if (!/^https?:\/\//.test(raw)) continue;
        const uri = raw.replace(/\/+$/, '');
        const suites = source.suites.filter((suite) => SUITE.test(suite));
        if (suites.length === 0) continue;
        if (
          /\/debian-security$/.test(uri) ||
          suites.every((suite) => /[-/](security|updates)$/.test(suite) && !suite.endsWith('-updates'))
        ) {
          mirrors.security ??= uri;
        } else if (/\/debian$/.test(uri) || source.signedBy !== '') {
          mirrors.main ??= uri;
        }
      }
    }
  }
  return mirrors;
}

/** Debian's cloud images name their mirrors through a list file. */
async function followList(uri: string): Promise<string> {
  if (!uri.startsWith('mirror+file:')) return uri;
  const text = await readFile(uri.replace(/^mirror\+file:(?:\/\/)?/, ''), 'utf8').catch(() => '');
  return text.split(/\s+/).find((word) => /^https?:\/\//.test(word)) ?? '';
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

let ofThisHost: Promise<string | undefined> | undefined;

/** The proxy `given` ('' for none), else that of this host's apt, which is asked once; undefined leaves it to the environment. */
export async function proxyFor(given: string | undefined): Promise<string | undefined> {
  return given ?? (await (ofThisHost ??= hostProxy()));
}
