import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { syncPath } from '../atomic-write.js';
import { hashFile, type Digest } from '../digest.js';

/** What is known of a part file: beside it as `.part.json`. */
const Note = z.object({
  url: z.string(),
  etag: z.string().optional(),
  lastModified: z.string().optional(),
  /** Bytes of the whole. */
  total: z.number().optional(),
});
type Note = z.infer<typeof Note>;

/** Where the bytes for `to` collect: named after the digest or else the URL, so that only the same file is continued. */
export function partPath(to: string, url: string, digest: Digest | undefined): string {
  const key = digest?.hex ?? createHash('sha256').update(url).digest('hex');
  return `${to}.${key.slice(0, 16)}.part`;
}

/** An unfinished download on the disk, hashed as it grows. */
export class PartFile implements AsyncDisposable {
  /** Bytes that are there. */
  size = 0;
  private hash: Hash;

  private constructor(
    readonly path: string,
    private readonly handle: FileHandle,
    private readonly algorithm: Digest['algorithm'],
    /** Of an earlier try. */
    private readonly note: Note | null,
  ) {
    this.hash = createHash(algorithm);
  }

  /** Opens or makes it. Bytes of an earlier try stay only where `digest` or the server can vouch for the join. */
  static async open(path: string, url: string, digest: Digest | undefined): Promise<PartFile> {
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    try {
      const part = new PartFile(path, handle, digest?.algorithm ?? 'sha256', await readNote(path, url));
      if (part.note && (digest || validatorOf(part.note))) part.size = (await handle.stat()).size;
      if (part.size > 0) await hashFile(handle, part.hash);
      else await handle.truncate(0);
      return part;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Bytes of the whole, as far as an earlier try learnt it. */
  get total(): number | undefined {
    return this.note?.total;
  }

  /** The request headers that ask for what is missing. */
  get headers(): Record<string, string> {
    if (this.size === 0) return {};
    const validator = this.note && validatorOf(this.note);
    return { range: `bytes=${this.size}-`, ...(validator && { 'if-range': validator }) };
  }

  async restart(): Promise<void> {
    await this.handle.truncate(0);
    this.hash = createHash(this.algorithm);
    this.size = 0;
  }

  /** Remembers what a later try needs to continue. */
  async remember(note: Note): Promise<void> {
    await writeFile(`${this.path}.json`, JSON.stringify(note), { mode: 0o600 });
  }

  async append(chunk: Buffer): Promise<void> {
    this.hash.update(chunk);
    for (let sent = 0; sent < chunk.length;) {
      const { bytesWritten } = await this.handle.write(chunk, sent, chunk.length - sent, this.size + sent);
      sent += bytesWritten;
    }
    this.size += chunk.length;
  }

  /** Puts the bytes on the disk and resolves to the digest of all of them, in lower-case hex. */
  async finish(): Promise<string> {
    await this.handle.sync();
    return this.hash.digest('hex');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close();
  }
}

/** A weak ETag is not allowed in If-Range. Without either the digest alone guards the join, or there is none. */
function validatorOf({ etag, lastModified }: Note): string | undefined {
  return etag && !etag.startsWith('W/') ? etag : lastModified;
}

async function readNote(part: string, url: string): Promise<Note | null> {
  try {
    const note = Note.parse(JSON.parse(await readFile(`${part}.json`, 'utf8')));
    return note.url === url ? note : null;
  } catch {
    return null;
  }
}

/** Gives a finished part its name and, if any, its permission bits. */
export async function publishPart(part: string, to: string, mode: number | undefined): Promise<void> {
  if (mode !== undefined) await chmod(part, mode);
  await rename(part, to);
  await rm(`${part}.json`, { force: true });
  await syncPath(dirname(to));
}

export async function removePart(part: string): Promise<void> {
  await rm(part, { force: true });
  await rm(`${part}.json`, { force: true });
}

export async function partSize(part: string): Promise<number> {
  return (await stat(part).catch(() => null))?.size ?? 0;
}

/** Removes part files nobody has written to for `olderThanMs`; they are kept that long so that a later run resumes. */
export async function sweepParts(dir: string, olderThanMs = 7 * 24 * 3600_000): Promise<void> {
  const names = await readdir(dir).catch(() => [] as string[]);
  for (const name of names.filter((n) => /\.[0-9a-f]{16}\.part(?:\.json)?$/.test(n))) {
    // Of a note without its file nobody has need.
    if (name.endsWith('.json') && names.includes(name.replace(/\.json$/, ''))) continue;
    const info = await stat(join(dir, name)).catch(() => null);
    if (info?.isFile() && Date.now() - info.mtimeMs > olderThanMs)
      await removePart(join(dir, name.replace(/\.json$/, '')));
  }
}
