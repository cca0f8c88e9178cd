import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, mkdir, open, readFile, readdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { got, RequestError, type Response } from 'got';
import { Dkms2binError, messageOf } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { lock } from './lock.js';
import { proxyOptions, redact } from './proxy.js';

export interface Digest {
  algorithm: 'sha256' | 'sha512';
  /** Lower case. */
  hex: string;
}

export interface DownloadLimits {
  /** Silence of the server, in ms, that counts as a cut connection. A trickle is no silence. */
  stallMs: number;
  /** Failed tries in a row, without a byte gained, after which the download gives up. */
  retries: number;
  /** The first pause in ms; it doubles up to a minute. */
  backoffMs: number;
  /** Size beyond which a file is refused. */
  maxBytes: number;
}

export const DOWNLOAD_LIMITS: Readonly<DownloadLimits> = {
  stallMs: 60_000,
  retries: 5,
  backoffMs: 1000,
  maxBytes: 20 * 2 ** 30,
};

/** How to reach the network. */
export interface Net {
  emit: Emit;
  signal?: AbortSignal | undefined;
  /** URL of an HTTP proxy; '' for none. Absent: `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` decide. */
  proxy?: string | undefined;
  limits?: Partial<DownloadLimits> | undefined;
}

export interface DownloadRequest extends Net {
  url: string;
  /** Absent: nobody promised one, and what comes whole is taken. */
  digest?: Digest | undefined;
  /** Where the file goes, whole or not at all. */
  to: string;
  /** What progress events call it; the URL's last part otherwise. */
  what?: string;
  /** Permission bits of the finished file. */
  mode?: number;
  /** A last look at the finished file under its temporary name; what it throws refuses the file. */
  accept?: (path: string) => Promise<void>;
}

/** The bytes came whole and are not the ones that were promised. */
export class DigestMismatch extends Dkms2binError {
  constructor(
    url: string,
    readonly expected: Digest,
    readonly got: string,
  ) {
    super(
      'transient',
      `${redact(url)} is not the file that was promised: ${expected.algorithm} expected ${expected.hex}, got ${got}`,
      {
        hint: 'The mirror may be half way through an update: try again later. If it stays so, do not trust the mirror.',
      },
    );
  }
}

/** A fault of the network that the next try may not meet. */
class Passing extends Error {
  constructor(
    message: string,
    readonly waitMs = 0,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** What is known of the part file: beside it as `.part.json`. */
interface PartNote {
  url: string;
  etag?: string;
  lastModified?: string;
  total?: number;
}

/**
 * Downloads `url` to `to` with the given digest, under a lock on `to`. The bytes collect in `TO.KEY.part`, named after
 * the digest or else the URL, which a later try, or a later run, continues where the server can; a digest that comes
 * out wrong removes it.
 * Faults: `transient` network and digest, `not-found` 404 and 410, `host` disk and certificates.
 */
export async function download(request: DownloadRequest): Promise<void> {
  const { to, digest, url } = request;
  const limits = { ...DOWNLOAD_LIMITS, ...request.limits };
  const key = digest?.hex ?? createHash('sha256').update(url).digest('hex');
  const part = `${to}.${key.slice(0, 16)}.part`;
  const what = request.what ?? (basename(new URL(url).pathname) || 'download');
  try {
    await mkdir(dirname(to), { recursive: true });
    await using _held = await lock(`${to}.lock`, 'exclusive', { wait: true, signal: request.signal });
    // Another run may have fetched it while this one waited for the lock.
    if (digest && (await hasDigest(to, digest))) return;

    let highWater = await sizeOf(part);
    let startedOver = false;
    for (;;) {
      const result = await withRetries(
        request,
        limits,
        () => attempt(request, limits, part, what),
        async () => {
          const size = await sizeOf(part);
          const gained = size > highWater;
          highWater = Math.max(size, highWater);
          return gained;
        },
      );
      if (!digest || result.hex === digest.hex) break;
      await removePart(part);
      // Old bytes of the part may be to blame (a power cut, a replaced image whose server gives no ETag): once from zero.
      if (!result.resumed || startedOver) throw new DigestMismatch(url, digest, result.hex);
      startedOver = true;
      request.emit({
        type: 'note',
        level: 'warn',
        message: `${what}: the resumed download is damaged, starting over`,
      });
    }
    try {
      await request.accept?.(part);
    } catch (error) {
      await removePart(part);
      throw error;
    }
    if (request.mode !== undefined) await chmod(part, request.mode);
    await rename(part, to);
    await rm(`${part}.json`, { force: true });
    await syncFolder(dirname(to));
  } catch (error) {
    throw asDiskError(error, to);
  }
}

/** A small file (sums, signatures) as a whole. `secure` refuses to be redirected from https to http. */
export async function fetchSmall(
  url: string,
  net: Net & { maxBytes?: number; secure?: boolean },
): Promise<Buffer> {
  const limits = { ...DOWNLOAD_LIMITS, ...net.limits, maxBytes: net.maxBytes ?? 8 * 2 ** 20 };
  return withRetries(net, limits, async () => {
    const talk = await converse(url, {}, net, limits, net.secure ?? false);
    try {
      if (talk.response.statusCode !== 200) throw httpError(url, talk.response);
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of talk.chunks()) {
        size += chunk.length;
        if (size > limits.maxBytes) throw tooLarge(url, limits.maxBytes);
        chunks.push(chunk);
      }
      const total = lengthOf(talk.response);
      if (total !== undefined && size !== total) throw new Passing(`${redact(url)} ended early`);
      return Buffer.concat(chunks);
    } finally {
      talk.close();
    }
  });
}

/** Removes part files nobody has written to for `olderThanMs`; they are kept that long so that a later run resumes. */
export async function sweepParts(dir: string, olderThanMs = 7 * 24 * 3600_000): Promise<void> {
  const names = await readdir(dir).catch(() => []);
  for (const name of names.filter((n) => /\.[0-9a-f]{16}\.part$/.test(n))) {
    const info = await stat(join(dir, name)).catch(() => null);
    if (info?.isFile() && Date.now() - info.mtimeMs > olderThanMs) await removePart(join(dir, name));
  }
}

/** Whether the file exists with that digest. */
export async function hasDigest(path: string, digest: Digest): Promise<boolean> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
  try {
    const hash = createHash(digest.algorithm);
    await hashFile(handle, hash);
    return hash.digest('hex') === digest.hex;
  } finally {
    await handle.close();
  }
}

/** One request, continuing the part where it can. Resolves once the body has come whole. */
async function attempt(
  request: DownloadRequest,
  limits: DownloadLimits,
  part: string,
  what: string,
): Promise<{ hex: string; resumed: boolean }> {
  const { url, digest, emit, to } = request;
  const algorithm = digest?.algorithm ?? 'sha256';
  const handle = await open(part, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    const note = await readNote(part, url);
    let hash = createHash(algorithm);
    // A weak ETag is not allowed in If-Range. Without either the digest alone guards the join, or there is none.
    const validator = note?.etag && !note.etag.startsWith('W/') ? note.etag : note?.lastModified;
    let done = note && (digest || validator) ? (await handle.stat()).size : 0;
    if (done > 0) await hashFile(handle, hash);
    else await handle.truncate(0);
    if (done > 0 && done === note?.total) return { hex: hash.digest('hex'), resumed: true };

    const headers: Record<string, string> = {};
    if (done > 0) {
      headers.range = `bytes=${done}-`;
      if (validator) headers['if-range'] = validator;
    }
    const talk = await converse(url, headers, request, limits, false);
    try {
      const { response } = talk;
      let total: number | undefined;
      let resumed = false;
      if (response.statusCode === 206 && done > 0) {
        const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers['content-range'] ?? '');
        total = range?.[2] && range[2] !== '*' ? Number(range[2]) : note?.total;
        if (Number(range?.[1]) !== done || (note?.total !== undefined && total !== note.total)) {
          await removePart(part);
          throw new Passing(`${redact(url)}: the server answered another range than asked`);
        }
        resumed = true;
        emit({ type: 'note', level: 'info', message: `${what}: continues at byte ${done}` });
      } else if (response.statusCode === 200) {
        if (done > 0) {
          emit({ type: 'note', level: 'info', message: `${what}: the server starts from the beginning` });
          await handle.truncate(0);
          hash = createHash(algorithm);
          done = 0;
        }
        total = lengthOf(response);
      } else if (response.statusCode === 416) {
        await removePart(part);
        throw new Passing(`${redact(url)}: the server refused to continue`);
      } else {
        throw httpError(url, response);
      }
      if (total !== undefined) {
        if (total > limits.maxBytes) throw tooLarge(url, limits.maxBytes);
        await requireSpace(dirname(to), total - done, what);
      }
      const { etag, 'last-modified': lastModified } = response.headers;
      const fresh: PartNote = {
        url,
        ...(etag && { etag }),
        ...(lastModified && { lastModified }),
        ...(total !== undefined && { total }),
      };
      await writeFile(`${part}.json`, JSON.stringify(fresh), { mode: 0o600 });

      const report = (): void =>
        emit({ type: 'progress', what, done, ...(total !== undefined && { total }) });
      report();
      let reported = Date.now();
      for await (const chunk of talk.chunks()) {
        if (done + chunk.length > Math.min(limits.maxBytes, total ?? Infinity))
          throw tooLarge(url, limits.maxBytes);
        hash.update(chunk);
        await writeAll(handle, chunk, done);
        done += chunk.length;
        if (Date.now() - reported >= 200) {
          reported = Date.now();
          report();
        }
      }
      if (total !== undefined && done < total)
        throw new Passing(`${redact(url)} ended at byte ${done} of ${total}`);
      await handle.sync();
      report();
      return { hex: hash.digest('hex'), resumed };
    } finally {
      talk.close();
    }
  } finally {
    await handle.close();
  }
}

interface Conversation {
  response: Response;
  /** The body, as the server sent it. Throws when the connection is cut or silent. */
  chunks(): AsyncGenerator<Buffer>;
  close(): void;
}

async function converse(
  url: string,
  headers: Record<string, string>,
  net: Net,
  limits: DownloadLimits,
  secure: boolean,
): Promise<Conversation> {
  if (net.signal?.aborted) throw interrupted();
  const stream = got.stream(url, {
    headers: { 'user-agent': 'dkms2bin', 'accept-encoding': 'identity', ...headers },
    decompress: false,
    throwHttpErrors: false,
    retry: { limit: 0 },
    ...proxyOptions(url, net.proxy),
    hooks: {
      beforeRedirect: [
        (next) => {
          if (secure && url.startsWith('https:') && new URL(String(next.url)).protocol !== 'https:') {
            throw new Dkms2binError(
              'transient',
              `${redact(url)} redirects to plain http: ${redact(String(next.url))}`,
            );
          }
        },
      ],
    },
  });
  // got wraps what destroys it, so the true reason is kept here.
  let reason: Error | undefined;
  const end = (error: Error): void => {
    reason ??= error;
    stream.destroy(error);
  };
  let timer: NodeJS.Timeout | undefined;
  const disarm = (): void => clearTimeout(timer);
  const arm = (): void => {
    disarm();
    timer = setTimeout(
      () => end(new Passing(`${redact(url)}: the server was silent for ${limits.stallMs / 1000} s`)),
      limits.stallMs,
    );
  };
  const abort = (): void => end(interrupted());
  net.signal?.addEventListener('abort', abort, { once: true });
  const close = (): void => {
    disarm();
    net.signal?.removeEventListener('abort', abort);
    stream.destroy();
  };
  // Also keeps an error between two reads from ending the process.
  stream.on('error', disarm);
  stream.on('redirect', arm);
  arm();
  try {
    const response = await new Promise<Response>((resolve, reject) => {
      stream.once('response', resolve);
      stream.once('error', reject);
      stream.once('close', () => reject(new Passing(`${redact(url)}: closed without an answer`)));
    });
    disarm();
    return {
      response,
      close,
      async *chunks() {
        const reader = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
        try {
          for (;;) {
            // Armed only while the network is waited for: a slow disk is not the server's silence.
            arm();
            const next = await reader.next();
            disarm();
            if (next.done) return;
            yield next.value;
          }
        } catch (error) {
          throw networkError(url, reason ?? error);
        } finally {
          close();
        }
      },
    };
  } catch (error) {
    close();
    throw networkError(url, reason ?? error);
  }
}

/** Runs `work` until it succeeds or fails for good. `gained` tells whether the failed try still brought it forward. */
async function withRetries<T>(
  net: Net,
  limits: DownloadLimits,
  work: () => Promise<T>,
  gained: () => Promise<boolean> = () => Promise.resolve(false),
): Promise<T> {
  for (let failures = 0; ;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Passing)) throw error;
      failures = (await gained()) ? 1 : failures + 1;
      // A name that does not resolve will not in a minute either; one more try is for a resolver's hiccup.
      const allowed = /\bENOTFOUND\b/.test(error.message) ? Math.min(1, limits.retries) : limits.retries;
      if (failures > allowed) {
        throw new Dkms2binError('transient', `${error.message} (${failures} tries)`, {
          hint: 'Try again later, or through another mirror or proxy.',
          cause: error,
        });
      }
      const wait = Math.min(60_000, Math.max(error.waitMs, limits.backoffMs * 2 ** (failures - 1)));
      net.emit({ type: 'note', level: 'warn', message: `${error.message}; next try in ${wait / 1000} s` });
      try {
        await sleep(wait, undefined, net.signal ? { signal: net.signal } : {});
      } catch {
        throw interrupted();
      }
    }
  }
}

function interrupted(): Dkms2binError {
  return new Dkms2binError('interrupted', 'Interrupted');
}

function tooLarge(url: string, maxBytes: number): Dkms2binError {
  return new Dkms2binError('transient', `${redact(url)} sends more than it should (limit ${maxBytes} bytes)`);
}

function lengthOf(response: Response): number | undefined {
  const length = response.headers['content-length'];
  return length !== undefined && /^\d+$/.test(length) ? Number(length) : undefined;
}

function httpError(url: string, response: Response): Error {
  const { statusCode } = response;
  const via = response.url && response.url !== url ? ` (from ${redact(response.url)})` : '';
  const text = `${redact(url)}: HTTP ${statusCode} ${response.statusMessage ?? ''}`.trim() + via;
  if (statusCode === 404 || statusCode === 410) return new Dkms2binError('not-found', text);
  if (statusCode === 408 || statusCode === 425 || statusCode === 429 || statusCode >= 500) {
    const after = Number(response.headers['retry-after']);
    return new Passing(text, Number.isFinite(after) ? after * 1000 : 0);
  }
  return new Dkms2binError('transient', text);
}

function networkError(url: string, error: unknown): Error {
  if (error instanceof Passing || error instanceof Dkms2binError) return error;
  if (!(error instanceof RequestError)) return error instanceof Error ? error : new Error(String(error));
  if (error.cause instanceof Dkms2binError || error.cause instanceof Passing) return error.cause;
  const text = `${redact(url)}: ${error.message || error.code}`;
  if (/CERT|ISSUER|LEAF_SIGNATURE/.test(error.code)) {
    return new Dkms2binError('host', text, {
      hint: "The server's certificate is not trusted here: check the clock, or name your proxy's CA in NODE_EXTRA_CA_CERTS.",
      cause: error,
    });
  }
  if (/^ERR_(TOO_MANY_REDIRECTS|INVALID_URL|UNSUPPORTED_PROTOCOL)$/.test(error.code)) {
    return new Dkms2binError('transient', text, { cause: error });
  }
  return new Passing(text, 0, { cause: error });
}

/** Errors of the file system are this host's, with the remedy for a full disk. */
function asDiskError(error: unknown, path: string): unknown {
  if (error instanceof Dkms2binError || !(error instanceof Error)) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined) return error;
  if (code === 'ENOSPC' || code === 'EDQUOT') return noSpace(dirname(path), messageOf(error), error);
  return new Dkms2binError('host', `Cannot write ${path}: ${messageOf(error)}`, { cause: error });
}

function noSpace(dir: string, detail: string, cause?: unknown): Dkms2binError {
  return new Dkms2binError('host', `No space left in ${dir}: ${detail}`, {
    hint: 'Free some space, or point DKMS2BIN_CACHE at a larger disk.',
    cause,
  });
}

async function requireSpace(dir: string, bytes: number, what: string): Promise<void> {
  const info = await statfs(dir);
  const free = info.bavail * info.bsize;
  if (free < bytes) throw noSpace(dir, `${what} needs ${bytes} bytes more, ${free} are free`);
}

async function readNote(part: string, url: string): Promise<PartNote | null> {
  try {
    const note = JSON.parse(await readFile(`${part}.json`, 'utf8')) as PartNote;
    return note.url === url ? note : null;
  } catch {
    return null;
  }
}

async function removePart(part: string): Promise<void> {
  await rm(part, { force: true });
  await rm(`${part}.json`, { force: true });
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => null))?.size ?? 0;
}

async function hashFile(handle: FileHandle, hash: Hash): Promise<void> {
  const buffer = Buffer.allocUnsafe(1 << 20);
  for (let at = 0; ;) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, at);
    if (bytesRead === 0) return;
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}

async function writeAll(handle: FileHandle, chunk: Buffer, at: number): Promise<void> {
  for (let sent = 0; sent < chunk.length;) {
    sent += (await handle.write(chunk, sent, chunk.length - sent, at + sent)).bytesWritten;
  }
}

async function syncFolder(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
