import { spawn } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import * as openpgp from 'openpgp';
import type { Event } from '../../src/model/events.js';
import { makeDeb } from '../../src/pack/deb.js';
import {
  loadSigningKey,
  publishRepository,
  type RepositoryOptions,
  type RepositoryResult,
  type SigningKey,
} from '../../src/repo/index.js';

/** A folder of a test's own. */
export function tempFolder(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'dk2b-repo-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** The bytes of a small .deb; `text` makes two of one version differ. */
export function deb(name: string, version: string, architecture = 'amd64', text = version): Buffer {
  return makeDeb({
    control: {
      package: name,
      version,
      architecture,
      maintainer: 'A Person <person@example.org>',
      section: 'kernel',
      priority: 'optional',
      description: { synopsis: `${name} for a test`, lines: ['Two', '', 'paragraphs.'] },
    },
    files: [{ path: `/usr/share/${name}/text`, mode: 0o644, bytes: Buffer.from(text) }],
    scripts: {},
    mtime: 1_600_000_000,
  });
}

/** Writes `name_version_architecture.deb` into a folder. */
export function addDeb(dir: string, name: string, version: string, architecture = 'amd64'): string {
  const file = `${name}_${version}_${architecture}.deb`;
  writeFileSync(join(dir, file), deb(name, version, architecture));
  return file;
}

export async function publishQuietly(
  dir: string,
  options: Partial<RepositoryOptions> & { events?: Event[] } = {},
): Promise<RepositoryResult> {
  const { events, ...rest } = options;
  return publishRepository(dir, {
    emit: (event) => void events?.push(event),
    signal: new AbortController().signal,
    ...rest,
  });
}

/** Makes a key, writes its secret part to a file and loads it. */
export async function makeKey(
  folder: string,
  options: { passphrase?: string; date?: Date; keyExpirationTime?: number; load?: boolean } = {},
): Promise<{ file: string; key: SigningKey | undefined; publicKey: string }> {
  const { load = true, ...rest } = options;
  const made = await openpgp.generateKey({
    // What gpg makes by default; apt knows no version 6 keys.
    type: 'ecc',
    curve: 'ed25519Legacy',
    userIDs: [{ name: 'Repository', email: 'repo@example.org' }],
    ...rest,
  });
  const file = join(folder, `key-${Math.random().toString(36).slice(2)}.asc`);
  writeFileSync(file, made.privateKey, { mode: 0o600 });
  const key = load ? await loadSigningKey(file, { passphrase: options.passphrase }) : undefined;
  return { file, key, publicKey: made.publicKey };
}

export interface Ended {
  code: number | null;
  /** stdout and stderr. */
  text: string;
}

export function command(file: string, args: string[], env: Record<string, string> = {}): Promise<Ended> {
  const child = spawn(file, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C.UTF-8', ...env },
  });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return new Promise((done, fail) => {
    child.once('error', fail);
    child.once('close', (code) => done({ code, text }));
  });
}

/** apt with a root of its own, as an ordinary process: it neither reads nor changes this host's configuration. */
export class Apt {
  private readonly env: Record<string, string>;

  constructor(readonly root: string) {
    for (const each of [
      'state/lists/partial',
      'cache/archives/partial',
      'etc/preferences.d',
      'etc/trusted.d',
    ]) {
      mkdirSync(join(root, each), { recursive: true });
    }
    writeFileSync(join(root, 'status'), '');
    const config = {
      Dir: root,
      'Dir::State': join(root, 'state'),
      'Dir::State::status': join(root, 'status'),
      'Dir::Cache': join(root, 'cache'),
      'Dir::Etc': join(root, 'etc'),
      'Dir::Etc::main': '/dev/null',
      'Dir::Etc::parts': '/dev/null',
      'Dir::Etc::sourceparts': '/dev/null',
      'Dir::Etc::trusted': '/dev/null',
      'Dir::Etc::trustedparts': join(root, 'etc/trusted.d'),
      'APT::Architecture': 'amd64',
      'APT::Architectures': 'amd64',
      'APT::Sandbox::User': userInfo().username,
      'Acquire::Languages': 'none',
      'Acquire::http::Proxy': 'DIRECT',
      'Acquire::Retries': '0',
      'Debug::NoLocking': 'true',
    };
    const file = join(root, 'apt.conf');
    writeFileSync(
      file,
      Object.entries(config)
        .map(([key, value]) => `${key} "${value}";\n`)
        .join(''),
    );
    this.env = { APT_CONFIG: file };
  }

  sources(text: string): void {
    writeFileSync(join(this.root, 'etc/sources.list'), text);
  }

  get(...args: string[]): Promise<Ended> {
    return command('apt-get', args, this.env);
  }

  /** Where a relative --print-uris or download goes does not matter: everything is under the root. */
  cache(...args: string[]): Promise<Ended> {
    return command('apt-cache', args, this.env);
  }
}

/** Passes requests on to `url`; `before` is awaited with each request's path. */
export async function between(
  url: string,
  before: (path: string) => Promise<void>,
): Promise<{ url: string; server: Server }> {
  const server = createServer((request, response) => {
    void (async () => {
      await before(request.url ?? '');
      const got = await fetch(new URL((request.url ?? '').replace(/^\/+/, ''), url));
      response.writeHead(got.status).end(Buffer.from(await got.arrayBuffer()));
    })();
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, server };
}

/** Translates the sources, unchecked, so that the tool can run as a process of its own; returns the path of its main. */
export async function translate(folder: string): Promise<string> {
  // No other test pays for loading it.
  const { default: ts } = await import('typescript');
  const root = resolve(import.meta.dirname, '../..');
  const walk = (from: string): void => {
    for (const entry of readdirSync(join(root, from), { withFileTypes: true })) {
      const path = join(from, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (entry.name.endsWith('.ts')) {
        const to = join(folder, path.replace(/^src/, 'dist').replace(/\.ts$/, '.js'));
        mkdirSync(dirname(to), { recursive: true });
        const { outputText } = ts.transpileModule(readFileSync(join(root, path), 'utf8'), {
          compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
        });
        writeFileSync(to, outputText);
      }
    }
  };
  walk('src');
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module","version":"0.0.0"}');
  return join(folder, 'dist', 'main.js');
}
