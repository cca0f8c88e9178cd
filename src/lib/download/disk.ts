import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Dkms2binError, messageOf } from '../../model/errors.js';

/** Errors of the file system are this host's, with the remedy for a full disk. */
export function asDiskError(error: unknown, path: string): unknown {
  if (error instanceof Dkms2binError || !(error instanceof Error)) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined) return error;
  if (code === 'ENOSPC' || code === 'EDQUOT') return noSpace(dirname(path), messageOf(error), error);
  return new Dkms2binError('host', `Cannot write ${path}: ${messageOf(error)}`, { cause: error });
}

/** Throws fault `host` unless `bytes` more fit into the folder. */
export async function requireSpace(dir: string, bytes: number, what: string): Promise<void> {
  const info = await statfs(dir);
  const free = info.bavail * info.bsize;
  if (free < bytes) throw noSpace(dir, `${what} needs ${bytes} bytes more, ${free} are free`);
}

function noSpace(dir: string, detail: string, cause?: unknown): Dkms2binError {
  return new Dkms2binError('host', `No space left in ${dir}: ${detail}`, {
    hint: 'Free some space, or point DKMS2BIN_CACHE at a larger disk.',
    cause,
  });
}
