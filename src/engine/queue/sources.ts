import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { folderTar, localDigest, MAX_SOURCE_BYTES } from '../../cell/source.js';
import type { ModuleSource } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import { plainFileName } from '../../model/forms.js';
import type { Store } from '../../lib/object-store/index.js';
import type { SharedSource } from './protocol.js';

/** Puts what other machines need of a source into the store; `dir` is for what is made on the way. */
export async function shareSource(
  source: ModuleSource,
  store: Store,
  dir: string,
  signal: AbortSignal,
): Promise<SharedSource> {
  if (source.kind === 'repo') return source;
  const { kind, path, origin } = source;
  const file = plainFileName(basename(path));
  const { text } = source;
  const about = { kind, text, file, ...(origin && { origin }) };
  if (kind !== 'folder') return { ...about, sha256: (await store.put(path, signal)).sha256 };
  const digest = await localDigest(source, signal);
  // A folder of its own: the same source may be shared twice at once.
  const tar = join(await mkdtemp(join(dir, 'source-')), 'tar');
  await writeFile(tar, await folderTar(path, signal));
  const { sha256 } = await store.put(tar, signal);
  if (sha256 !== digest) throw new Dkms2binError('usage', `${text} changed while it was read`);
  return { ...about, sha256 };
}

/** The source on this machine, below the new folder `dir`. A folder stays the tar that it came as: nothing of a job is unpacked here. */
export async function fetchSource(
  source: SharedSource,
  store: Store,
  dir: string,
  signal: AbortSignal,
): Promise<ModuleSource> {
  if (source.kind === 'repo') {
    return source;
  }
  const { kind, text, file, sha256, origin } = source;
  await mkdir(dir, { recursive: true });
  const path = join(dir, file);
  await store.get(sha256, path, { signal, maxBytes: MAX_SOURCE_BYTES });
  return { kind, text, path, ...(origin && { origin }) };
}
