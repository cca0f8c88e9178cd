import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Dkms2binError } from '../model/errors.js';

export interface IndexCacheOptions {
  cacheDir: string;
  offline?: boolean | undefined;
  /** Seconds for which a cached index is used unasked; 3600 by default, Infinity for an archive that never changes. */
  maxAge?: number | undefined;
  warn?: ((message: string) => void) | undefined;
}

/**
 * An index as a JSON file in the cache. One that is too old is read anew; when its server does not answer, the old one
 * serves with a warning. `what` names the index and its place in errors.
 */
export async function cachedIndex<T extends { fetchedAt: number }>(
  name: string,
  what: string,
  options: IndexCacheOptions,
  valid: (value: T) => boolean,
  read: () => Promise<T>,
): Promise<T> {
  const folder = join(options.cacheDir, 'index');
  const file = join(folder, name);
  const cached = await readCache(file, valid);
  const age = cached === undefined ? Infinity : Date.now() / 1000 - cached.fetchedAt;
  // A negative age means that the clock was set back: such a file could otherwise stay valid for years.
  if (cached !== undefined && (options.offline || (age >= 0 && age < (options.maxAge ?? 3600))))
    return cached;
  if (options.offline) {
    throw new Dkms2binError('not-found', `--offline, and ${what} was never read`, {
      hint: 'Run once without --offline.',
    });
  }
  let index: T;
  try {
    index = await read();
  } catch (error) {
    if (cached === undefined || !(error instanceof Dkms2binError) || error.fault !== 'transient') throw error;
    options.warn?.(`${error.message}; going on with what it said ${Math.round(age / 60)} minutes ago`);
    return cached;
  }
  await mkdir(folder, { recursive: true });
  const part = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}.part`;
  try {
    await writeFile(part, JSON.stringify(index));
    await rename(part, file);
  } finally {
    await rm(part, { force: true });
  }
  return index;
}

async function readCache<T>(file: string, valid: (value: T) => boolean): Promise<T | undefined> {
  try {
    const value = JSON.parse(await readFile(file, 'utf8')) as T;
    return valid(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
