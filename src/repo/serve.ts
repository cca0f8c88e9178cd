import { constants } from 'node:fs';
import { open, realpath, stat, type FileHandle } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, sep } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { KEYRING } from './publish.js';
import { noRepository } from './repository.js';

export interface Served extends AsyncDisposable {
  /** With a slash at its end. */
  url: string;
  /** What a client's configuration needs to read the repository at `url`. */
  sources: Sources;
  close(): Promise<void>;
}

export interface Sources {
  /** Lines for /etc/apt/sources.list.d/dkms2bin.list and, meaning the same, dkms2bin.sources; null without .deb files. */
  apt: { line: string; deb822: string } | null;
  /** /etc/yum.repos.d/dkms2bin.repo; null without .rpm files. */
  dnf: string | null;
  /** Where the public key is, null for an unsigned repository. */
  keyUrl: string | null;
  /** Where the lines for apt expect it on a client. */
  keyring: string;
}

const CLIENT_KEYRING = `/etc/apt/keyrings/${KEYRING}`;

/**
 * Serves a repository on 127.0.0.1 until it is closed, to try it out; port 0 takes a free one. Only regular files, no hidden
 * ones, and nothing outside the folder. Throws fault `usage` when the folder is no repository or the port is taken.
 */
export async function serveRepository(dir: string, options: { port?: number } = {}): Promise<Served> {
  const root = await realpath(dir).catch(() => dir);
  const has = async (path: string): Promise<boolean> =>
    (await stat(join(root, path)).catch(() => null)) !== null;
  const kinds = { apt: await has('Release'), dnf: await has('repodata/repomd.xml') };
  if (!kinds.apt && !kinds.dnf) {
    throw await noRepository(dir);
  }
  const signed = (await has('InRelease')) || (await has('repodata/repomd.xml.asc'));
  const server = createServer((request, response) => void answer(root, request, response));
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        new Dkms2binError(
          'usage',
          `Cannot listen on port ${options.port}: ${{ EADDRINUSE: 'it is in use', EACCES: 'permission denied' }[error.code ?? ''] ?? error.message}`,
          { hint: 'Choose another with --port, or leave it out.', cause: error },
        ),
      ),
    );
    server.listen(options.port ?? 0, '127.0.0.1', resolve);
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { url, sources: sourcesFor(url, { ...kinds, signed }), close, [Symbol.asyncDispose]: close };
}

/** The configuration with which apt and dnf read a repository at `url`. */
export function sourcesFor(url: string, repo: { apt: boolean; dnf: boolean; signed: boolean }): Sources {
  const base = url.endsWith('/') ? url : `${url}/`;
  const keyUrl = repo.signed ? `${base}${KEYRING}` : null;
  const apt = {
    line: `deb [${repo.signed ? `signed-by=${CLIENT_KEYRING}` : 'trusted=yes'}] ${base} ./\n`,
    deb822: [
      'Types: deb',
      `URIs: ${base}`,
      'Suites: ./',
      repo.signed ? `Signed-By: ${CLIENT_KEYRING}` : 'Trusted: yes',
      '',
    ].join('\n'),
  };
  // The signed metadata carry each package's digest; the packages have no signature of their own.
  const trust = keyUrl === null ? 'repo_gpgcheck=0' : `repo_gpgcheck=1\ngpgkey=${keyUrl}`;
  const dnf = `[dkms2bin]\nname=dkms2bin\nbaseurl=${base}\nenabled=1\ngpgcheck=0\n${trust}\n`;
  return { apt: repo.apt ? apt : null, dnf: repo.dnf ? dnf : null, keyUrl, keyring: CLIENT_KEYRING };
}

async function answer(root: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const end = (status: number): void => void response.writeHead(status, { 'Content-Length': 0 }).end();
  let file: FileHandle | undefined;
  try {
    if (request.method !== 'GET' && request.method !== 'HEAD') return end(405);
    const path = await fileOf(root, request.url ?? '/');
    if (path === null) return end(404);
    // Open first: all that follows is about one file, whatever is published under its name meanwhile.
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const info = await file.stat();
    if (!info.isFile()) return end(404);
    const modified = Math.floor(info.mtimeMs / 1000) * 1000;
    response.setHeader('Last-Modified', new Date(modified).toUTCString());
    if (Date.parse(request.headers['if-modified-since'] ?? '') === modified) {
      response.writeHead(304).end();
      return;
    }
    response.writeHead(200, { 'Content-Length': info.size, 'Content-Type': 'application/octet-stream' });
    if (request.method === 'HEAD') {
      response.end();
      return;
    }
    const stream = file.createReadStream({ autoClose: false });
    await new Promise<void>((resolve) => {
      stream.once('error', () => response.destroy());
      response.once('close', resolve);
      stream.pipe(response);
    });
    stream.destroy();
  } catch (error) {
    if (response.headersSent) response.destroy();
    else end((error as NodeJS.ErrnoException).code === 'ENOENT' ? 404 : 403);
  } finally {
    await file?.close().catch(() => undefined);
  }
}

/** The file that a request's target means, null for what is not to be served. */
async function fileOf(root: string, target: string): Promise<string | null> {
  let names: string[];
  try {
    names = (target.split('?')[0] ?? '').split('/').map(decodeURIComponent);
  } catch {
    return null;
  }
  names = names.filter((name) => name !== '' && name !== '.');
  // '..' starts with a dot, too.
  if (names.length === 0 || names.some((name) => name.startsWith('.') || /[/\\\x00]/.test(name))) return null;
  const path = await realpath(join(root, ...names));
  return path.startsWith(`${root}${sep}`) ? path : null;
}
