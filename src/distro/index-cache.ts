import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { z } from 'zod';
import { writeAtomic } from '../lib/atomic-write.js';
import { Dkms2binError } from '../model/errors.js';

export interface IndexCacheOptions {
  cacheDir: string;
  offline?: boolean | undefined;
  /** Seconds for which a cached index is used unasked; 3600 by default, Infinity for an archive that never changes. */
  maxAge?: number | undefined;
  warn?: ((message: string) => void) | undefined;
}

/** An index that can be cached; `fetchedAt` is in seconds since 1970. */
export interface IndexSource<T extends { fetchedAt: number }> {
  /** Of its file in the cache. */
  name: string;
  /** The index and its place, for errors. */
  what: string;
  /** What a cached file has to look like. */
  schema: z.ZodType<T>;
  read: () => Promise<T>;
}

/**
 * An index as a JSON file in the cache. One that is too old is read anew; when its server does not answer, the old one
 * serves with a warning.
 */
export async function cachedIndex<T extends { fetchedAt: number }>(
  { name, what, schema, read }: IndexSource<T>,
  options: IndexCacheOptions,
): Promise<T> {
  const folder = join(options.cacheDir, 'index');
  const file = join(folder, name);
  const cached = await readCache(file, schema);
  const age = cached === undefined ? Infinity : Date.now() / 1000 - cached.fetchedAt;
  // A negative age means that the clock was set back: such a file could otherwise stay valid for years.
  if (cached !== undefined && (options.offline || (age >= 0 && age < (options.maxAge ?? 3600))))
    return cached;
  if (options.offline) {
    throw new Dkms2binError('not-found', `--offline is given, but ${what} is not in the cache`, {
      hint: 'Run once without --offline.',
    });
  }
  let index: T;
  try {
    index = await read();
  } catch (error) {
    if (cached === undefined || !(error instanceof Dkms2binError) || error.fault !== 'transient') throw error;
    options.warn?.(`${error.message}; the copy of ${Math.round(age / 60)} minutes ago is used`);
    return cached;
  }
  await mkdir(folder, { recursive: true });
  await writeAtomic(Buffer.from(JSON.stringify(index)), file);
  return index;
}

async function readCache<T>(file: string, schema: z.ZodType<T>): Promise<T | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(file, 'utf8')));
  } catch {
    return undefined;
  }
}
