import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { z } from 'zod';
import type { Arch } from '../model/cell.js';
import type { Emit } from '../model/events.js';
import { Dkms2binError } from '../model/errors.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { mirrorsOf } from '../distro/mirrors.js';
import { archRow, isApt, type DistroRow } from '../distro/row.js';
import {
  cached,
  contentDigest,
  hashOf,
  holdOfficial,
  isCached,
  type Entry,
  type SharedCache,
} from '../cache/entries.js';
import type { CatalogueRow } from '../distro/catalogue.js';
import { basePackages, bootstrapImage, type BootstrapRequest } from './bootstrap.js';
import { ROOT_OFFSET } from './bootstrap-disk.js';
import { requireStandalone } from './image-check.js';
import { unpackedImage } from './unpacked-image.js';
import { fetchOfficial, officialInCache } from './official-image.js';

/** A base image ready to put layers on. */
export interface BaseImage {
  /** Read-only qcow2. */
  disk: string;
  /** Layers are made natively from it. */
  root?: ImageRoot;
  hash: string;
  /** The cache entry that it is. */
  parents: { kind: 'images'; hash: string }[];
  firmware: 'bios' | 'uefi';
  /** The distro that it is of. */
  row: DistroRow;
  /** `bootstrap`, `official` or the user's own path: for messages. */
  source: string;
  /** What provenance says of it. */
  origin: ImageOrigin;
}

/** The root folder of an image. */
export interface ImageRoot {
  /** Packed with zstd. */
  tar: string;
  /** Where its file system begins on the disk, in bytes. */
  offset: number;
  /** Of the file system, where /etc/fstab in it does not say. */
  uuid?: string;
}

export const ImageOrigin = z.object({
  origin: z.enum(['official', 'bootstrap', 'file']),
  /** Of the disk, hex by in-toto's name of the algorithm. */
  digest: z.record(z.string(), z.string()),
});
type ImageOrigin = z.infer<typeof ImageOrigin>;

/** `build` has headers, compiler and dkms; `runtime` is the kernel alone, as on a machine that never builds a module. */
export type Variant = 'build' | 'runtime';

export interface BaseContext {
  /** `auto`, `official`, `bootstrap` or a path. */
  image: string;
  /** `runtime`: a bootstrapped image has no toolchain. Official ones never have, and one of the user's is as it is. */
  variant: Variant;
  arch: Arch;
  mirror?: string;
  proxy?: string;
  offline: boolean;
  cwd: string;
  /** Images of other machines. */
  shared?: SharedCache;
  emit: Emit;
  signal: AbortSignal;
}

/** Virtual size of a bootstrapped disk; the file is sparse. */
const DISK_GIB = 12;

/**
 * The base image of a distro. `auto` takes what the cache holds, the official image first; else it downloads the
 * official one and, when that fails, bootstraps where the row can be bootstrapped, saying so.
 */
export async function baseImage(
  row: CatalogueRow,
  context: BaseContext,
): Promise<BaseImage & { entry?: Entry }> {
  switch (context.image) {
    case 'official':
      return official(row, context);
    case 'bootstrap':
      return bootstrapped(row, context);
    case 'auto':
      break;
    default:
      return given(context.image, row, context);
  }
  if (await officialInCache(row, context.arch)) return official(row, context);
  if (row.bootstrap && (context.offline || (await isCached('images', await bootstrapHash(row, context))))) {
    return bootstrapped(row, context);
  }
  try {
    return await official(row, context);
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault === 'interrupted' || !row.bootstrap) throw error;
    context.emit({
      type: 'note',
      level: 'warn',
      message: `Cannot get the official ${row.id} image (${error.message}); bootstrapping one from packages instead`,
    });
    return bootstrapped(row, context);
  }
}

async function official(row: CatalogueRow, context: BaseContext): Promise<BaseImage & { entry?: Entry }> {
  const { emit, signal, proxy, offline } = context;
  const path = await fetchOfficial(row, context.arch, {
    emit,
    signal,
    offline,
    ...(proxy ? { proxy } : {}),
  });
  // Official images are stored under their digest.
  const digest = basename(path, '.qcow2');
  const id = { kind: 'images', hash: basename(path) } as const;
  const image: BaseImage = {
    disk: path,
    hash: digest,
    parents: [id],
    firmware: archRow(row, context.arch).firmware,
    row,
    source: 'official',
    origin: { origin: 'official', digest: digestSet(digest) },
  };
  // The others have no installer that works without a kernel of its own.
  if (!isApt(row)) return image;
  await using _held = await holdOfficial(id, signal);
  const whose = context.arch === 'x86_64' ? row.id : `${row.id} ${context.arch}`;
  const name = `${whose} official ${digest.slice(0, 12)}, unpacked`;
  const entry = await unpackedImage({ disk: path, of: id, name, shared: context.shared, emit, signal });
  if (!entry) return image;
  const { rootOffset, rootUuid, created } = entry.meta;
  return {
    ...image,
    disk: join(entry.dir, 'disk.qcow2'),
    root: { tar: join(entry.dir, 'root.tar.zst'), offset: rootOffset, uuid: rootUuid },
    hash: `${basename(entry.dir)}-${created}`,
    parents: [{ kind: 'images', hash: basename(entry.dir) }],
    entry,
  };
}

/** An official image's digest by its length: sums come as SHA-256 or SHA-512. */
function digestSet(hex: string): Record<string, string> {
  return { [hex.length === 128 ? 'sha512' : 'sha256']: hex };
}

async function given(image: string, row: CatalogueRow, context: BaseContext): Promise<BaseImage> {
  const disk = resolve(context.cwd, image);
  const found = await stat(disk).catch(() => null);
  if (!found?.isFile()) {
    throw new Dkms2binError('usage', `--image ${image}: no such file`, {
      hint: 'Give auto, official, bootstrap or the path of a qcow2 cloud image.',
    });
  }
  await requireStandalone(disk);
  const hash = await contentDigest(disk, 'sha256');
  return {
    disk,
    hash,
    parents: [],
    firmware: archRow(row, context.arch).firmware,
    row,
    source: disk,
    origin: { origin: 'file', digest: { sha256: hash } },
  };
}

/** The packages that a bootstrapped image is made of, besides `basePackages` and its kernel. */
function includesOf({ bootstrap, toolchain }: CatalogueRow, variant: Variant): string[] {
  const includes = bootstrap?.includes ?? [];
  return variant === 'build' ? [...includes, ...toolchain] : includes;
}

/** The kernel that a bootstrapped image boots. */
function imageKernel(row: CatalogueRow, arch: Arch): string {
  const { cloudKernel, defaultKernel } = archRow(row, arch);
  return cloudKernel ?? defaultKernel;
}

/** The archive of a distro that has one of Debian's kind and is not Debian. */
async function archiveOf(
  row: CatalogueRow,
  { mirror, arch }: BaseContext,
): Promise<BootstrapRequest['archive']> {
  const { components, family, keyring, packageManager } = row;
  if (family === 'debian' || packageManager !== 'apt' || keyring === undefined) return undefined;
  const { main, security = main } = await mirrorsOf(row, { mirror }, arch);
  return { main, security, components, keyring };
}

export async function bootstrapHash(row: CatalogueRow, context: BaseContext): Promise<string> {
  const dir = join(PACKAGE_ROOT, 'cloud-init', 'bootstrap');
  const texts: string[] = [];
  for (const each of (await readdir(dir, { recursive: true, withFileTypes: true })).sort((a, b) =>
    join(a.parentPath, a.name) < join(b.parentPath, b.name) ? -1 : 1,
  )) {
    if (each.isFile()) texts.push(each.name, await readFile(join(each.parentPath, each.name), 'utf8'));
  }
  const archive = await archiveOf(row, context);
  return hashOf([
    'bootstrap-3',
    basePackages(context.arch),
    row.codename,
    row.suites,
    { includes: includesOf(row, context.variant) },
    imageKernel(row, context.arch),
    context.arch,
    context.mirror ?? null,
    DISK_GIB,
    texts,
    ...(archive ? [archive] : []),
  ]);
}

async function bootstrapped(row: CatalogueRow, context: BaseContext): Promise<BaseImage & { entry: Entry }> {
  if (!row.bootstrap)
    throw new Dkms2binError('usage', `An image of ${row.id} cannot be bootstrapped from packages`, {
      hint: 'Use --image official, or give the path of a qcow2 cloud image.',
    });
  const hash = await bootstrapHash(row, context);
  const { firmware } = archRow(row, context.arch);
  const entry = await cached(
    'images',
    hash,
    async (dir) => {
      if (context.offline) {
        throw new Dkms2binError(
          'not-found',
          `No image of ${row.id} is in the cache and --offline forbids making one`,
          {
            hint: 'Run once without --offline.',
          },
        );
      }
      const archive = await archiveOf(row, context);
      const { packages } = await bootstrapImage({
        suite: row.codename,
        arch: context.arch,
        includes: [...includesOf(row, context.variant), imageKernel(row, context.arch)],
        extraSuites: row.suites.map((s) => s.name).filter((name) => name !== row.codename),
        diskGiB: DISK_GIB,
        out: join(dir, 'disk.qcow2'),
        rootOut: join(dir, 'root.tar.zst'),
        workDir: dir,
        emit: context.emit,
        signal: context.signal,
        ...(context.mirror ? { mirror: context.mirror } : {}),
        ...(archive ? { archive } : {}),
        ...(context.proxy ? { proxy: context.proxy } : {}),
      });
      const what = context.variant === 'build' ? '' : ' without toolchain';
      const whose = context.arch === 'x86_64' ? row.id : `${row.id} ${context.arch}`;
      return { name: `${whose} bootstrapped${what}`, packages: hashOf(packages) };
    },
    { signal: context.signal, shared: context.shared },
  );
  return {
    disk: join(entry.dir, 'disk.qcow2'),
    root: { tar: join(entry.dir, 'root.tar.zst'), offset: ROOT_OFFSET },
    hash: `${hash}-${entry.meta.created}`,
    parents: [{ kind: 'images', hash }],
    firmware,
    row,
    source: 'bootstrap',
    origin: { origin: 'bootstrap', digest: { sha256: await diskDigest(entry) } },
    entry,
  };
}

/** As it was recorded when the image was made. */
const diskDigest = async ({ dir, meta }: Entry): Promise<string> =>
  meta.digests['disk.qcow2'] ?? contentDigest(join(dir, 'disk.qcow2'));
