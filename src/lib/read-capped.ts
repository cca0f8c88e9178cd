import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { Dkms2binError } from '../model/errors.js';

/** Reads a whole file, at most `maxBytes`. Throws fault `usage` naming the file; never waits for a pipe or a device. */
export async function readCapped(path: string, maxBytes: number): Promise<Buffer> {
  let handle: FileHandle | undefined;
  try {
    // O_NONBLOCK: a FIFO that nobody writes to would block the open.
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const info = await handle.stat();
    if (!info.isFile()) throw new Dkms2binError('usage', `${path} is not a file`);
    if (info.size > maxBytes) {
      throw new Dkms2binError('usage', `${path} has ${info.size} bytes, the limit is ${maxBytes}`, {
        hint: 'Real files of this kind are far smaller: check that it is the one that you mean.',
      });
    }
    return await handle.readFile();
  } catch (error) {
    if (error instanceof Dkms2binError) throw error;
    const { code = '', message } = error as NodeJS.ErrnoException;
    const why = { ENOENT: 'no such file', EACCES: 'permission denied' }[code] ?? message;
    throw new Dkms2binError('usage', `Cannot read ${path}: ${why}`, { cause: error });
  } finally {
    await handle?.close();
  }
}
