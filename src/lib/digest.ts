import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { Dkms2binError } from '../model/errors.js';

export interface Digest {
  algorithm: 'sha256' | 'sha512';
  /** Lower case. */
  hex: string;
}

/** What identifies content: its SHA-256 in lower-case hex, and its size in bytes. */
export interface ContentDigest {
  sha256: string;
  size: number;
}

/** Bytes in memory, or those of a file. */
export type Content = Buffer | { file: string };

/** The bytes piece by piece. */
function chunksOf(content: Content, signal?: AbortSignal): Iterable<Buffer> | AsyncIterable<Buffer> {
  if (Buffer.isBuffer(content)) return [content];
  return createReadStream(content.file, signal ? { signal } : {}) as AsyncIterable<Buffer>;
}

export async function digestOf(content: Content, signal?: AbortSignal): Promise<ContentDigest> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of chunksOf(content, signal)) {
    hash.update(chunk);
    size += chunk.length;
  }
  // A stream that is aborted may end as if it had come to its end.
  signal?.throwIfAborted();
  return { sha256: hash.digest('hex'), size };
}

/**
 * The bytes of content whose digest was taken before. The last of them come only when all were seen to be the same: a copy of what
 * has changed since is never whole. Fault `usage` then.
 */
export async function* sameChunks(
  content: Content,
  { sha256, size }: ContentDigest,
  signal?: AbortSignal,
): AsyncGenerator<Buffer, void> {
  const hash = createHash('sha256');
  let left = size;
  let held: Buffer | undefined;
  for await (const chunk of chunksOf(content, signal)) {
    left -= chunk.length;
    // What grows for ever must not be read for ever.
    if (left < 0) break;
    if (held) yield held;
    hash.update(chunk);
    held = chunk;
  }
  if (left !== 0 || hash.digest('hex') !== sha256) {
    const what = Buffer.isBuffer(content) ? 'What was to be written' : content.file;
    throw new Dkms2binError('usage', `${what} changed while it was read`, {
      hint: 'Run again when nothing writes to it.',
    });
  }
  if (held) yield held;
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

/** Feeds an open file to `hash`, from its beginning. */
export async function hashFile(handle: FileHandle, hash: Hash): Promise<void> {
  const buffer = Buffer.allocUnsafe(1 << 20);
  for (let at = 0; ;) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, at);
    if (bytesRead === 0) return;
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}
