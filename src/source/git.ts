import { Dkms2binError, messageOf } from '../model/errors.js';
import { run, runBytes } from '../lib/exec.js';
import { credentialsFor, redact } from '../lib/credentials.js';
import { proxyFromEnv } from '../lib/proxy.js';
import { standardVariable } from '../lib/variables.js';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { GitAddress } from './address.js';
import { TREE_LIMITS } from './tree.js';

/** What a repository says of itself (`git ls-remote`). */
export interface Advertised {
  /** Object by the full name of the ref; of an annotated tag, also what it names, with `^{}`. */
  refs: ReadonlyMap<string, string>;
}

export interface Commit {
  id: string;
  date: Date;
  /** As a tar, whole. */
  tar: Buffer;
}

export interface GitMeans {
  signal: AbortSignal;
  /** `--proxy`; '' for none, undefined leaves it to the environment. */
  proxy?: string | undefined;
}

const SECONDS = { list: 120, fetch: 900 };
/** Largest pack, and each file of it: the kernel's own history has more. */
const MAX_PACK_BYTES = 1 << 30;
/** Address space of git: what a server says of its refs is held in memory, however much that is. */
const MEMORY_BYTES = { list: 512 << 20, fetch: 2 * 2 ** 30 };
const MAX_LIST_BYTES = 64 << 20;

/**
 * git as it is run here: without the configuration of user and system, hooks, helpers, submodules and prompts, and with one
 * protocol. What it may write is limited by the kernel.
 */
function command(
  { url }: GitAddress,
  { proxy }: GitMeans,
  args: readonly string[],
  memory = MEMORY_BYTES.fetch,
): { args: string[]; env: Record<string, string | undefined> } {
  const protocol = /^([a-z]+):\/\//.exec(url)?.[1] ?? 'ssh';
  // A server may send a request of plain http on to https, never the other way.
  const protocols = protocol === 'http' ? ['http', 'https'] : [protocol];
  const through = protocol === 'ssh' ? undefined : (proxy ?? proxyFromEnv(url));
  const login = protocol === 'ssh' ? undefined : credentialsFor(url);
  const config: [string, string][] = [
    ['protocol.allow', 'never'],
    ...protocols.map((each): [string, string] => [`protocol.${each}.allow`, 'always']),
    ['core.hooksPath', '/dev/null'],
    ['core.fsmonitor', 'false'],
    ['core.attributesFile', '/dev/null'],
    ['credential.helper', ''],
    ['submodule.recurse', 'false'],
    ['fetch.recurseSubmodules', 'false'],
    ['gc.auto', '0'],
    ['maintenance.auto', 'false'],
    // git writes objects of its own only for what is small; the rest stays the one pack that came.
    ['fetch.unpackLimit', '1'],
    ['core.packedGitWindowSize', '64m'],
    ['core.packedGitLimit', '256m'],
    ['core.bigFileThreshold', '64m'],
    ['pack.threads', '2'],
    ['http.lowSpeedLimit', '1000'],
    ['http.lowSpeedTime', '60'],
    ['http.proxy', withLogin(through ?? '')],
  ];
  if (login) {
    const basic = Buffer.from(`${login.username}:${login.password}`).toString('base64');
    config.push([`http.${new URL(url).origin}/.extraHeader`, `Authorization: Basic ${basic}`]);
  }
  const env: Record<string, string | undefined> = {
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_CONFIG_GLOBAL: '/dev/null',
    GIT_CONFIG_COUNT: String(config.length),
    GIT_TERMINAL_PROMPT: '0',
    GIT_ASKPASS: '/bin/false',
    SSH_ASKPASS: '/bin/false',
    GIT_SSH_COMMAND: 'ssh -oBatchMode=yes -oPermitLocalCommand=no -oClearAllForwardings=yes',
    GIT_ALLOW_PROTOCOL: protocols.join(':'),
    GIT_PROTOCOL_FROM_USER: '0',
    GIT_NO_REPLACE_OBJECTS: '1',
    GIT_OPTIONAL_LOCKS: '0',
    LC_ALL: 'C',
    ...(protocol === 'ssh' && { SSH_AUTH_SOCK: standardVariable('SSH_AUTH_SOCK') }),
  };
  // Not on the command line, which everybody on this machine can read.
  for (const [at, [key, value]] of config.entries()) {
    env[`GIT_CONFIG_KEY_${at}`] = key;
    env[`GIT_CONFIG_VALUE_${at}`] = value;
  }
  return {
    args: [`--fsize=${MAX_PACK_BYTES}`, `--as=${memory}`, '--core=0', 'git', '--no-pager', ...args],
    env,
  };
}

/** A proxy's URL with what it asks for. */
function withLogin(proxy: string): string {
  const login = proxy === '' ? undefined : credentialsFor(proxy);
  return login ? Object.assign(new URL(proxy), login).href : proxy;
}

/** Asks a repository which branches and tags it has. */
export async function listRefs(address: GitAddress, means: GitMeans): Promise<Advertised> {
  const { args, env } = command(address, means, ['ls-remote', '--', address.url], MEMORY_BYTES.list);
  const output = await asking(address, means, () =>
    runBytes('prlimit', args, {
      ...{ env, maxBytes: MAX_LIST_BYTES, timeout: SECONDS.list * 1000, cancelSignal: means.signal },
      fault: 'transient',
    }),
  );
  const lines = output.toString('utf8').matchAll(/^([0-9a-f]{40}(?:[0-9a-f]{24})?)\t(\S+)$/gm);
  return { refs: new Map([...lines].map(([, id = '', name = '']) => [name, id])) };
}

const COMMIT = /^[0-9a-f]{7,64}$/i;

export interface Wanted {
  /** What to fetch: the full name of a ref, or a whole object id. */
  fetch: string;
  /** The commit, as far as it is known; of an abbreviated id null. */
  commit: string | null;
  /** As a person reads it. */
  ref: string | null;
  /** What of a forge's page follows the ref. */
  folder: string | null;
}

/** Finds what an address means among a repository's refs. Throws `not-found` with what is there. */
export function chooseRef({ url, ref, page }: GitAddress, { refs }: Advertised): Wanted {
  const full = (name: string): Omit<Wanted, 'folder'> | null => {
    for (const each of [name, `refs/tags/${name}`, `refs/heads/${name}`]) {
      const id = refs.get(`${each}^{}`) ?? refs.get(each);
      if (id !== undefined && (each === 'HEAD' || each.startsWith('refs/')))
        return { fetch: each, commit: id, ref: name };
    }
    return COMMIT.test(name) ? commitOf(name.toLowerCase(), refs) : null;
  };
  if (page !== undefined) {
    // The longest name that is one: branches have slashes, too.
    const parts = page.split('/');
    for (let count = parts.length; count > 0; count--) {
      const found = full(parts.slice(0, count).join('/'));
      if (found) return { ...found, folder: parts.slice(count).join('/') || null };
    }
  }
  if (ref === undefined && page === undefined) {
    const head = refs.get('HEAD');
    if (head !== undefined) return { fetch: 'HEAD', commit: head, ref: null, folder: null };
  }
  const found = ref === undefined ? null : full(ref);
  if (found) return { ...found, folder: null };
  const names = [...refs.keys()].filter(
    (name) => /^refs\/(?:heads|tags)\//.test(name) && !name.endsWith('^{}'),
  );
  const some = names.slice(-12).map((name) => name.replace(/^refs\/(?:heads|tags)\//, ''));
  const what = ref ?? page ?? 'default branch';
  throw new Dkms2binError('not-found', `${redact(url)} has no branch, tag or commit ${what}`, {
    ...(some.length > 0 && { hint: `It has ${some.join(', ')}${names.length > 12 ? ' and more' : ''}.` }),
  });
}

/** A commit by its id; of an abbreviated one only the whole history can tell. */
function commitOf(id: string, refs: ReadonlyMap<string, string>): Omit<Wanted, 'folder'> {
  const whole = id.length === 40 || id.length === 64 ? id : null;
  const known = [...new Set(refs.values())].filter((each) => each.startsWith(id));
  return {
    fetch: known.length === 1 ? (known[0] ?? '') : (whole ?? ''),
    commit: whole ?? (known.length === 1 ? (known[0] ?? null) : null),
    ref: id,
  };
}

/** Tags that name a commit. */
export function tagsOf(commit: string, { refs }: Advertised): string[] {
  const names = [...refs].filter(([name, id]) => id === commit && name.startsWith('refs/tags/'));
  return [...new Set(names.map(([name]) => name.replace(/^refs\/tags\//, '').replace(/\^\{\}$/, '')))];
}

/**
 * Fetches one commit, without history where the server allows that, and gives its files. No working tree is made: the content
 * is read out of git's own store, whose objects are what their names say. `dir` is empty and the caller's to remove.
 */
export async function fetchCommit(
  address: GitAddress,
  wanted: Pick<Wanted, 'fetch' | 'commit' | 'ref'>,
  dir: string,
  means: GitMeans,
): Promise<Commit> {
  const { signal } = means;
  const git = (args: string[], timeout: number): Promise<Buffer> => {
    const { args: all, env } = command(address, means, ['--git-dir', dir, ...args]);
    const options = { maxBytes: TREE_LIMITS.unpacked, timeout: timeout * 1000, cancelSignal: signal };
    return runBytes('prlimit', all, { ...options, env, fault: 'transient' });
  };
  await asking(address, means, async () => {
    await run('git', ['init', '--quiet', '--bare', '--template=', dir], {
      env: { GIT_CONFIG_NOSYSTEM: '1', GIT_CONFIG_GLOBAL: '/dev/null' },
      cancelSignal: signal,
    });
    const fetch = (what: string[], depth: string[]): Promise<Buffer> =>
      git(
        [
          'fetch',
          '--quiet',
          '--no-tags',
          '--no-recurse-submodules',
          '--no-write-fetch-head',
          ...depth,
          '--',
          address.url,
          ...what,
        ],
        SECONDS.fetch,
      );
    const all = ['+refs/heads/*:refs/dkms2bin/heads/*', '+refs/tags/*:refs/dkms2bin/tags/*'];
    if (wanted.fetch === '') return fetch(all, []);
    try {
      return await fetch([`+${wanted.fetch}:refs/dkms2bin/wanted`], ['--depth=1']);
    } catch (error) {
      if (signal.aborted || wanted.fetch.startsWith('refs/') || wanted.fetch === 'HEAD') throw error;
      // A server that gives no commit by its id.
      return fetch(all, []);
    }
  });
  // What .gitattributes of the repository would leave out of an archive, or put into it, stays as it is in a clone.
  await mkdir(join(dir, 'info'), { recursive: true });
  await writeFile(join(dir, 'info/attributes'), '* -export-ignore -export-subst\n');
  const name = wanted.commit ?? wanted.ref ?? 'refs/dkms2bin/wanted';
  let line: string;
  try {
    line = (
      await git(
        ['log', '-1', '--no-show-signature', '--format=%H %ct', '--end-of-options', `${name}^{commit}`],
        60,
      )
    )
      .toString('utf8')
      .trim();
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Dkms2binError('not-found', `${redact(address.url)} has no commit ${wanted.ref ?? name}`, {
      cause: error,
    });
  }
  const [, id = '', seconds = ''] = /^([0-9a-f]{40,64}) (\d+)$/.exec(line) ?? [];
  if (id === '' || (wanted.commit !== null && id !== wanted.commit))
    throw new Dkms2binError(
      'transient',
      `${redact(address.url)} gave another commit than it promised: ${id || line}`,
    );
  return { id, date: new Date(Number(seconds) * 1000), tar: await git(['archive', '--format=tar', id], 300) };
}

/** Says what a failed answer of the repository means, in one line of git's. */
async function asking<T>({ url }: GitAddress, { signal }: GitMeans, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (signal.aborted || !(error instanceof Dkms2binError) || error.fault !== 'transient') throw error;
    const text = messageOf(error);
    const where = redact(url);
    if (
      /not found|does not appear to be a git repository|HTTP code 404|returned error: 404|not valid: is this a git repository/i.test(
        text,
      )
    ) {
      throw new Dkms2binError('not-found', `There is no git repository at ${where}`, {
        hint: 'A file is told by the end of its name: .deb, .rpm, .dsc, .zip, .tar.gz and the like.',
        cause: error,
      });
    }
    if (
      /could not read Username|Authentication failed|Permission denied|terminal prompts disabled|Host key verification failed/i.test(
        text,
      )
    ) {
      throw new Dkms2binError('not-found', `${where} is not there, or not for everybody`, {
        hint: 'Put user and token into the URL (https://USER:TOKEN@HOST/…), or use ssh with a key of its agent and a host that ssh knows.',
        cause: error,
      });
    }
    if (/File size limit exceeded|File too large|wrote more than|[Oo]ut of memory|SIGXFSZ/.test(text)) {
      throw new Dkms2binError(
        'usage',
        `${where} sends more than a source may have (limit ${MAX_PACK_BYTES / 2 ** 20} MiB)`,
        {
          cause: error,
        },
      );
    }
    if (/ran out of time/.test(text))
      throw new Dkms2binError('transient', `${where} did not deliver in time`, { cause: error });
    const line =
      text
        .split('\n')
        .filter((each) => /^(?:fatal|error|remote):/.test(each))
        .at(-1) ??
      text.split('\n').at(-1) ??
      '';
    throw new Dkms2binError('transient', `git cannot fetch ${where}: ${line}`, {
      hint: 'Check the URL, the network and --proxy.',
      cause: error,
    });
  }
}
