import { join } from 'node:path';
import { mkdir } from 'node:fs/promises';
import { DEB_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { keyOf, keyringOf, type Keyring, type KeySource } from '../formats/openpgp.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { listKernels } from './apt-index.js';
import { fetchBytes } from './fetch.js';
import type { KernelIndex, LookupOptions } from './kernel-index.js';
import { archRow, isApt, type DistroRow, type KernelSource } from './row.js';
import { listRpmKernels } from './rpm-index.js';

const MAX_KEY_BYTES = 1 << 20;

/** The kernels of the repositories that stand on top of a row's distro. */
export async function sourceKernels(
  row: DistroRow & { overlay: KernelSource },
  arch: Arch,
  options: LookupOptions,
): Promise<KernelIndex> {
  archRow(row, arch);
  const { repositories, key } = row.overlay;
  if (repositories.length === 0) return { kernels: [], metas: [], places: [] };
  if (!isApt(row)) {
    const repos = repositories.map(({ url }, at) => ({
      name: nameOf(row, at),
      url,
      mirrorList: false,
      signed: key !== undefined,
    }));
    return listRpmKernels({ ...row, repos }, arch, '', options);
  }
  const keyring = options.keyring ?? (key ? await keyringFile(row.id, key, options) : false);
  const indexes = await Promise.all(
    repositories.map(({ url, suite = '', components }) =>
      listKernels({
        ...options,
        keyring,
        mirror: url,
        suites: [{ name: suite, mirror: 'main' }],
        arch: DEB_ARCH[arch],
        components,
        names: namesOf(row),
      }),
    ),
  );
  return {
    kernels: indexes.flatMap(({ kernels }) => kernels),
    metas: indexes.flatMap(({ metas }) => metas),
    places: indexes.flatMap(({ places }) => places),
  };
}

/** What a dnf repository of a row is called. */
export const nameOf = ({ id }: Pick<DistroRow, 'id'>, at: number): string =>
  at === 0 ? id : `${id}-${at + 1}`;

function namesOf({ packages, releases = '' }: DistroRow) {
  const sets = packages ? [packages, ...packages.variants] : [];
  return {
    image: [...new Set(sets.flatMap(({ image }) => image))],
    headers: [...new Set(sets.flatMap(({ headers }) => headers))],
    releases,
  };
}

/**
 * The pinned key of a row's repositories; kept in the cache. Throws `transient` when the place that has it does not
 * answer, `host` when what it has is another key.
 */
export async function sourceKey(
  id: string,
  key: KeySource,
  { offline, ...options }: LookupOptions,
): Promise<Keyring> {
  const get = async (url: string): Promise<Buffer> => {
    if (offline)
      throw new Dkms2binError('not-found', `--offline is given, but the key of ${id} is not in the cache`, {
        hint: 'Run once without --offline.',
      });
    const bytes = await fetchBytes(url, MAX_KEY_BYTES, options);
    if (bytes) return bytes;
    throw new Dkms2binError('transient', `The key of ${id} is not at ${url} any more`, {
      hint: `Get the key with the fingerprint ${key.keyFingerprint}, and name its file in a row of your own (DKMS2BIN_CATALOGUE).`,
    });
  };
  const folder = join(options.cacheDir, 'keys');
  await mkdir(folder, { recursive: true });
  return keyringOf(await keyOf(id, key, folder, get));
}

/** A file that gpgv reads. */
async function keyringFile(id: string, key: KeySource, options: LookupOptions): Promise<string> {
  const file = join(options.cacheDir, 'keys', `${key.keyFingerprint}.gpg`);
  await writeAtomic(Buffer.from((await sourceKey(id, key, options)).binary), file);
  return file;
}
