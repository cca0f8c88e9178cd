import { copyFile, lstat, mkdir, stat, utimes } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import { writeAtomic } from '../atomic-write.js';
import { digestOf } from '../digest.js';
import { readCapped } from '../read-capped.js';
import {
  blobPath,
  MAX_BLOB_BYTES,
  MAX_NOTE_BYTES,
  notThere,
  requireDigest,
  requireSize,
  type Store,
} from './store.js';

/** A folder that all machines see, such as one on NFS. */
export async function folderStore(path: string): Promise<Store> {
  const root = resolve(path);
  const place = async (name: string): Promise<string> => {
    const to = join(root, name);
    await mkdir(dirname(to), { recursive: true });
    return to;
  };
  await place('sha256/.').catch((error: unknown) => {
    throw new Dkms2binError('usage', `The store ${root} cannot be used: ${messageOf(error)}`);
  });
  const there = (sha256: string): Promise<boolean> =>
    stat(join(root, blobPath(sha256))).then(
      (info) => info.isFile(),
      () => false,
    );
  return {
    name: root,
    put: async (file, signal) => {
      const blob = await digestOf({ file }, signal);
      const to = join(root, blobPath(blob.sha256));
      const { status } = await writeAtomic({ file }, await place(blobPath(blob.sha256)), blob);
      // Its time says when it was last wanted, for whoever clears old ones away.
      if (status === 'up to date') await utimes(to, new Date(), new Date()).catch(() => undefined);
      return blob;
    },
    has: there,
    get: async (sha256, to, { maxBytes = MAX_BLOB_BYTES } = {}) => {
      if (!(await there(sha256))) throw notThere(sha256, root);
      requireSize((await stat(join(root, blobPath(sha256)))).size, maxBytes, sha256, root);
      await copyFile(join(root, blobPath(sha256)), to);
      await requireDigest(to, sha256, root);
    },
    putNote: async (name, text) => {
      await writeAtomic(Buffer.from(text), await place(`notes/${name}`));
    },
    getNote: async (name) => {
      try {
        const path = join(root, 'notes', name);
        if (!(await lstat(path).catch(() => null))) return null;
        return (await readCapped(path, MAX_NOTE_BYTES)).toString('utf8');
      } catch (error) {
        throw new Dkms2binError('host', `Cannot read ${name} in ${root}: ${messageOf(error)}`);
      }
    },
  };
}
