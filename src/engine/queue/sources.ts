import { mkdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { folderTar, localDigest } from '../../cell/source.js';
import type { ModuleSource } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import { plainFileName } from '../../model/forms.js';
import { run } from '../../lib/exec.js';
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
  const { kind, text, path } = source;
  const file = plainFileName(basename(path));
  if (kind !== 'folder') return { kind, text, file, sha256: (await store.put(path, signal)).sha256 };
  const digest = await localDigest(source, signal);
  const tar = join(dir, `${digest}.tar`);
  await writeFile(tar, await folderTar(path, signal));
  const { sha256 } = await store.put(tar, signal);
  if (sha256 !== digest) throw new Dkms2binError('usage', `${text} changed while it was read`);
  return { kind, text, file, sha256 };
}

/** The source on this machine, below the new folder `dir`. */
export async function fetchSource(
  source: SharedSource,
  store: Store,
  dir: string,
  signal: AbortSignal,
): Promise<ModuleSource> {
  if (source.kind === 'repo') {
    const { version, ...rest } = source;
    return version === undefined ? rest : { ...rest, version };
  }
  const { kind, text, file, sha256 } = source;
  await mkdir(dir, { recursive: true });
  if (kind !== 'folder') {
    const path = join(dir, file);
    await store.get(sha256, path, signal);
    return { kind, text, path };
  }
  const tar = `${dir}.tar`;
  await store.get(sha256, tar, signal);
  const path = join(dir, file);
  await mkdir(path);
  await run('tar', ['-xpf', tar, '--no-same-owner', '-C', path], { cancelSignal: signal });
  const local = { kind, text, path } as const;
  // Provenance names the tar: the guest has to get the very same one.
  if ((await localDigest(local, signal)) !== sha256) {
    throw new Dkms2binError('host', `${text} is not the same after unpacking`, {
      hint: `Its folder ${dir} must be on a file system that keeps permissions and the case of names.`,
    });
  }
  return local;
}
