import type { FileHandle } from 'node:fs/promises';

/** Why bytes are not of the form that a reader expects. Readers of whole files say which file it was; a scan leaves it out. */
export class Unreadable extends Error {
  override readonly name = 'Unreadable';
}

/** Bytes that a reader takes piece by piece, so that it need not hold all of them. */
export interface ByteSource {
  readonly size: number;
  /** `length` bytes from the byte `at` on. Throws Unreadable when the source ends before. */
  read(at: number, length: number): Promise<Buffer>;
}

/** What it reads are views of `bytes`. */
export function inMemory(bytes: Buffer): ByteSource {
  return {
    size: bytes.length,
    read: (at, length) =>
      at + length > bytes.length
        ? Promise.reject(new Unreadable('cut off'))
        : Promise.resolve(bytes.subarray(at, at + length)),
  };
}

/** An open file of `size` bytes, which stays the caller's to close. */
export function inFile(file: FileHandle, size: number): ByteSource {
  return {
    size,
    read: async (at, length) => {
      // Before memory is taken: the length may be a damaged header's.
      if (at + length > size) throw new Unreadable('cut off');
      const bytes = Buffer.alloc(length);
      for (let done = 0; done < length;) {
        const { bytesRead } = await file.read(bytes, done, length - done, at + done);
        if (bytesRead === 0) throw new Unreadable('cut off');
        done += bytesRead;
      }
      return bytes;
    },
  };
}
