import type { FileHandle } from 'node:fs/promises';

/** Why a file is no package that can be offered; caught by the scan, which leaves the file out and says so. */
export class Unreadable extends Error {
  override readonly name = 'Unreadable';
}

/** `length` bytes from the byte `at` on. Throws Unreadable when the file ends before. */
export async function readAt(file: FileHandle, at: number, length: number): Promise<Buffer> {
  // Before memory is taken: the length may be a damaged header's.
  if (at + length > (await file.stat()).size) throw new Unreadable('cut off');
  const bytes = Buffer.alloc(length);
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(bytes, done, length - done, at + done);
    if (bytesRead === 0) throw new Unreadable('cut off');
    done += bytesRead;
  }
  return bytes;
}
