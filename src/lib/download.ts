import { mkdir } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import type { Response } from 'got';
import { Dkms2binError } from '../model/errors.js';
import { hasDigest, type Digest } from './digest.js';
import { asDiskError, requireSpace } from './download/disk.js';
import { ask, httpError, lengthOf, tooLarge, type Answer } from './download/http.js';
import { DOWNLOAD_LIMITS, Passing, type DownloadLimits, type Net } from './download/net.js';
import { PartFile, partPath, partSize, publishPart, removePart } from './download/part-file.js';
import { withRetries } from './download/retry.js';
import { lock } from './lock.js';
import { redact } from './credentials.js';

export { hasDigest, type Digest } from './digest.js';
export type { Net } from './download/net.js';
export { sweepParts } from './download/part-file.js';

export interface DownloadRequest extends Net {
  url: string;
  /** Absent: nobody promised one, and what comes whole is taken. */
  digest?: Digest | undefined;
  /** Where the file goes, whole or not at all. */
  to: string;
  /** What progress events call it; the URL's last part otherwise. */
  what?: string;
  /** Refuses to be redirected from https to http. */
  secure?: boolean;
  /** Permission bits of the finished file. */
  mode?: number;
  /** A last look at the finished file under its temporary name; what it throws refuses the file. */
  accept?: (path: string) => Promise<void>;
}

/** All bytes came, but they are not the promised ones. */
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
        hint: 'The mirror may be halfway through an update: try again later. If it persists, do not trust the mirror.',
      },
    );
  }
}

/**
 * Downloads `url` to `to` with the given digest, under a lock on `to`. The bytes collect in `TO.KEY.part`, named after
 * the digest or else the URL, which a later try, or a later run, continues where the server can; a digest that comes
 * out wrong removes it.
 * Faults: `transient` network and digest, `not-found` 404 and 410, `host` disk and certificates.
 */
export async function download(request: DownloadRequest): Promise<void> {
  const { to, digest, url, signal } = request;
  const part = partPath(to, url, digest);
  try {
    await mkdir(dirname(to), { recursive: true });
    await using _held = await lock(`${to}.lock`, 'exclusive', { wait: true, signal });
    // Another run may have fetched it while this one waited for the lock.
    if (digest && (await hasDigest(to, digest))) {
      // A run that was killed right after it gave the file its name left the note.
      await removePart(part);
      return;
    }
    await fetchWhole({
      ...request,
      part,
      what: request.what ?? (basename(new URL(url).pathname) || 'download'),
      limits: { ...DOWNLOAD_LIMITS, ...request.limits },
    });
    try {
      await request.accept?.(part);
    } catch (error) {
      await removePart(part);
      throw error;
    }
    await publishPart(part, to, request.mode);
  } catch (error) {
    throw asDiskError(error, to);
  }
}

/** A request whose open choices are made. */
interface Task extends DownloadRequest {
  part: string;
  what: string;
  limits: DownloadLimits;
}

/** Fills the part until it is whole and, where one is promised, has the digest. */
async function fetchWhole(task: Task): Promise<void> {
  const { part, digest, url, what } = task;
  let highWater = await partSize(part);
  const gained = async (): Promise<boolean> => {
    const size = await partSize(part);
    const grown = size > highWater;
    highWater = Math.max(size, highWater);
    return grown;
  };
  for (let startedOver = false; ; startedOver = true) {
    const result = await withRetries(task, task.limits, () => attempt(task), gained);
    if (!digest || result.hex === digest.hex) return;
    await removePart(part);
    // Old bytes of the part may be to blame (a power cut, a replaced image whose server gives no ETag): once from zero.
    if (!result.resumed || startedOver) throw new DigestMismatch(url, digest, result.hex);
    const message = `${what}: the resumed download is damaged, starting over`;
    task.emit({ type: 'note', level: 'warn', message });
  }
}

/** One request, continuing the part where it can. Resolves once the body has come whole. */
async function attempt(task: Task): Promise<{ hex: string; resumed: boolean }> {
  const { url, limits, what, to } = task;
  await using part = await PartFile.open(task.part, url, task.digest);
  if (part.size > 0 && part.size === part.total) return { hex: await part.finish(), resumed: true };
  using answer = await ask(
    { url, headers: part.headers, stallMs: limits.stallMs, secure: task.secure ?? false },
    task,
  );
  const { response } = answer;
  const resumed = await begin(task, part, response);
  const total = resumed ? (rangeOf(response)?.total ?? part.total) : lengthOf(response);
  if (total !== undefined) {
    if (total > limits.maxBytes) throw await refused(task, part);
    await requireSpace(dirname(to), total - part.size, what);
  }
  const { etag, 'last-modified': lastModified } = response.headers;
  await part.remember({ url, etag, lastModified, total });
  await receive(task, part, answer, total);
  return { hex: await part.finish(), resumed };
}

/** Reads the answer's status; whether it continues the part, which otherwise begins anew. */
async function begin({ url, emit, what }: Task, part: PartFile, response: Response): Promise<boolean> {
  const tell = (message: string): void =>
    emit({ type: 'note', level: 'info', message: `${what}: ${message}` });
  const refuse = async (why: string): Promise<never> => {
    await removePart(part.path);
    throw new Passing(`${redact(url)}: ${why}`);
  };
  if (response.statusCode === 416) return refuse('the server refused to continue');
  if (response.statusCode === 206 && part.size > 0) {
    const range = rangeOf(response);
    const sameTotal = part.total === undefined || (range?.total ?? part.total) === part.total;
    if (range?.from !== part.size || !sameTotal)
      return refuse('the server answered another range than asked');
    tell(`continues at byte ${part.size}`);
    return true;
  }
  if (response.statusCode !== 200) throw httpError(url, response);
  if (part.size > 0) {
    tell('the server starts from the beginning');
    await part.restart();
  }
  return false;
}

function rangeOf(response: Response): { from: number; total: number | undefined } | undefined {
  const [, from, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers['content-range'] ?? '') ?? [];
  return from === undefined
    ? undefined
    : { from: Number(from), total: total === '*' ? undefined : Number(total) };
}

/** Appends the body to the part and tells how far it is, five times a second at most. */
async function receive(task: Task, part: PartFile, answer: Answer, total: number | undefined): Promise<void> {
  const { url, what, limits, emit } = task;
  const report = (): void =>
    emit({ type: 'progress', what, done: part.size, ...(total !== undefined && { total }) });
  const most = Math.min(limits.maxBytes, total ?? Infinity);
  report();
  let reported = Date.now();
  for await (const chunk of answer.chunks()) {
    if (part.size + chunk.length > most) throw await refused(task, part);
    await part.append(chunk);
    if (Date.now() - reported >= 200) {
      reported = Date.now();
      report();
    }
  }
  if (total !== undefined && part.size < total)
    throw new Passing(`${redact(url)} ended at byte ${part.size} of ${total}`);
  report();
}

/** What is too large. No later run goes on with it. */
async function refused({ url, limits }: Task, { path }: PartFile): Promise<Error> {
  await removePart(path);
  return tooLarge(url, limits.maxBytes);
}

/** A small file (sums, signatures) as a whole. `secure` refuses to be redirected from https to http. */
export async function fetchSmall(
  url: string,
  net: Net & { maxBytes?: number; secure?: boolean },
): Promise<Buffer> {
  const limits = { ...DOWNLOAD_LIMITS, ...net.limits, maxBytes: net.maxBytes ?? 8 * 2 ** 20 };
  return withRetries(net, limits, async () => {
    using answer = await ask({ url, stallMs: limits.stallMs, secure: net.secure ?? false }, net);
    if (answer.response.statusCode !== 200) throw httpError(url, answer.response);
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of answer.chunks()) {
      size += chunk.length;
      if (size > limits.maxBytes) throw tooLarge(url, limits.maxBytes);
      chunks.push(chunk);
    }
    const total = lengthOf(answer.response);
    if (total !== undefined && size !== total) throw new Passing(`${redact(url)} ended early`);
    return Buffer.concat(chunks);
  });
}
