import { basename } from 'node:path';
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { KernelTarget } from '../model/cell.js';
import { contentDigest, lookUp } from '../cache/entries.js';
import type { CatalogueRow } from '../distro/catalogue.js';
import { sizeOf } from '../distro/fetch.js';
import { archRow, isApt } from '../distro/row.js';
import { bootstrapHash, type BaseContext } from './base-image.js';
import type { Machine } from './boot.js';
import { cachedLayer, type LayerBase } from './kernel-layer.js';
import { officialEntry } from './official-image.js';
import { hasSnapshot } from './snapshot.js';
import { unpackedHash } from './unpacked-image.js';

/** How a row's image stands before a run: in the cache, or what getting it takes. */
export interface ImageOutlook {
  road: 'official' | 'bootstrap' | 'given';
  /** Null: not there yet. */
  base: LayerBase | null;
  /** To download, where the server says. */
  bytes?: number | undefined;
  /** It is to be downloaded. */
  download: boolean;
  /** Layers are made natively from its root folder, which has to be read first. */
  unpack: boolean;
  native: boolean;
}

/** Looks; makes nothing, and asks the network only how large an image is. The run may still find it otherwise. */
export async function imageOutlook(row: CatalogueRow, context: BaseContext): Promise<ImageOutlook> {
  const { image } = context;
  if (image === 'bootstrap') return bootstrapOutlook(row, context);
  if (image !== 'official' && image !== 'auto') return givenOutlook(row, context);
  const there = await officialOutlook(row, context);
  if (there) return there;
  if (image === 'auto' && row.bootstrap) {
    const made = await bootstrapOutlook(row, context);
    if (made.base || context.offline) return made;
    const bytes = await sizeOf(archRow(row, context.arch).image.url, context).catch(() => null);
    // It cannot be reached: the run will bootstrap one.
    return bytes === null ? made : absent(row, bytes);
  }
  return absent(row, await sizeOf(archRow(row, context.arch).image.url, context).catch(() => undefined));
}

const absent = (row: CatalogueRow, bytes: number | undefined): ImageOutlook => ({
  ...{ road: 'official', base: null, bytes, download: true, unpack: isApt(row), native: isApt(row) },
});

async function officialOutlook(row: CatalogueRow, { arch }: BaseContext): Promise<ImageOutlook | null> {
  const id = await officialEntry(row, arch);
  if (!id) return null;
  const outlook = { road: 'official', download: false, unpack: false, native: false } as const;
  const digest = basename(id.hash, '.qcow2');
  if (!isApt(row)) return { ...outlook, base: { hash: digest, source: 'official', row } };
  const entry = await lookUp('images', unpackedHash(id));
  if (!entry) return { ...outlook, base: null, unpack: true, native: true };
  const hash = `${basename(entry.dir)}-${entry.meta.created}`;
  return { ...outlook, base: { hash, source: 'official', row }, native: true };
}

async function bootstrapOutlook(row: CatalogueRow, context: BaseContext): Promise<ImageOutlook> {
  const hash = await bootstrapHash(row, context);
  const entry = await lookUp('images', hash);
  const base = entry && { hash: `${hash}-${entry.meta.created}`, source: 'bootstrap', row };
  return { road: 'bootstrap', base, download: false, unpack: false, native: true };
}

async function givenOutlook(row: CatalogueRow, { image, cwd, signal }: BaseContext): Promise<ImageOutlook> {
  const disk = resolve(cwd, image);
  const found = await stat(disk).catch(() => null);
  const hash = found?.isFile() ? await contentDigest(disk, 'sha256', signal) : null;
  const base = hash === null ? null : { hash, source: disk, row };
  return { road: 'given', base, download: false, unpack: false, native: false };
}

/** Which of a kernel's layer and memory snapshot the cache has. */
export async function kernelOutlook(
  request: {
    base: LayerBase | null;
    target: KernelTarget;
    digests: readonly string[];
    variant: 'build' | 'runtime';
  },
  machine: Machine,
): Promise<{ layer: boolean; snapshot: boolean }> {
  const { base } = request;
  const layer = base && (await cachedLayer({ ...request, base }, machine));
  return { layer: layer !== null, snapshot: layer !== null && (await hasSnapshot(layer, machine)) };
}
