import { stat } from 'node:fs/promises';

/** What `read` finds out of a file, which is small, once for each file as it is now: told by its inode, time and size. Where that is not enough, its digest is compared. */
export function oncePerFile<T>(read: (path: string) => Promise<T>): (path: string) => Promise<T> {
  const found = new Map<string, Promise<T>>();
  return async (path) => {
    const { dev, ino, mtimeMs, size } = await stat(path);
    const key = [dev, ino, mtimeMs, size].join();
    const known = found.get(key);
    if (known) return known;
    const reading = read(path);
    found.set(key, reading);
    reading.catch(() => found.delete(key));
    return reading;
  };
}
