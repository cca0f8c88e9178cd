import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { fetchSmall, type Digest, type Net } from '../lib/download.js';
import { cacheDir } from '../lib/paths.js';
import { keyOf, verifyClearsigned, verifyDetached } from '../formats/openpgp.js';
import type { CatalogueRow, SumsForm } from '../distro/catalogue.js';
import { archRow } from '../distro/row.js';
import { nameLike, parseSums } from './sums.js';

export interface PublishedOptions extends Net {
  /** Root of the cache; images and keys lie in its folder `images`. `cacheDir()` unless given. */
  cacheDir?: string | undefined;
  /** Another place that holds the same tree: replaces scheme and host, its path goes in front. */
  baseOverride?: string | undefined;
}

export const imagesDir = (options: PublishedOptions): string =>
  join(options.cacheDir ?? cacheDir(), 'images');

/** Where a URL of the catalogue is to be had. */
export function placeOf(url: string, { baseOverride }: PublishedOptions): string {
  if (!baseOverride) return url;
  const { pathname, search } = new URL(url);
  return baseOverride.replace(/\/+$/, '') + pathname + search;
}

/** An image as its distro names it. */
export interface PublishedImage {
  name: string;
  digest: Digest;
}

/** What the distro's (signed) sums say of a row's image now. Throws fault `transient` for sums that cannot be used. */
export async function publishedImage(
  row: CatalogueRow,
  arch: Arch,
  options: PublishedOptions,
): Promise<PublishedImage> {
  const { image } = archRow(row, arch);
  const { form } = image.sums;
  const where = placeOf(image.sums.url, options);
  const text = await fetchSums(row, arch, options);
  const pattern = image.url.slice(image.url.lastIndexOf('/') + 1);
  const name = pattern.includes('*') ? nameLike(text, form, pattern, where) : pattern;
  try {
    return { name, digest: parseSums(text, form, name, where) };
  } catch (error) {
    throw renamed(text, form, pattern) ?? error;
  }
}

/** The image has another name now: the same but for its numbers. */
export class Renamed extends Dkms2binError {}

function renamed(text: string, form: SumsForm, name: string): Renamed | undefined {
  try {
    const now = nameLike(text, form, name.replace(/\d+/g, '*'));
    return new Renamed('transient', `${name} is called ${now} now`, {
      hint: "Bring the catalogue's row up to date: url and digest.",
    });
  } catch {
    return undefined;
  }
}

/** The sums could not be fetched, as opposed to being bad. */
export class Unreachable extends Dkms2binError {}

/** The text of the sums, verified as the row's signature asks. */
async function fetchSums(row: CatalogueRow, arch: Arch, options: PublishedOptions): Promise<string> {
  const { sums, signature } = archRow(row, arch).image;
  // A signature vouches for itself; unsigned sums are worth what their connection is.
  const get = (url: string): Promise<Buffer> =>
    fetchHere(placeOf(url, options), { ...options, secure: signature.kind === 'none' });
  if (signature.kind === 'none') return (await get(sums.url)).toString('utf8');

  const dir = imagesDir(options);
  await mkdir(dir, { recursive: true });
  const pinned = await keyOf(row.id, signature, dir, get);
  const signed = async (url: string): Promise<Buffer> => {
    try {
      return await get(url);
    } catch (error) {
      if (!(error instanceof Dkms2binError) || error.fault !== 'not-found') throw error;
      throw new Dkms2binError('transient', `The signature of ${row.id}'s sums is missing: ${error.message}`, {
        hint: 'Unsigned sums are not accepted. The mirror may be halfway through an update: try again later.',
        cause: error,
      });
    }
  };
  if (signature.kind === 'clearsigned') {
    const url = signature.url ?? sums.url;
    return verifyClearsigned((await signed(url)).toString('utf8'), pinned, placeOf(url, options));
  }
  const data = await get(sums.url);
  await verifyDetached(data, await signed(signature.url), pinned, placeOf(sums.url, options));
  return data.toString('utf8');
}

async function fetchHere(url: string, net: Net & { secure: boolean }): Promise<Buffer> {
  try {
    return await fetchSmall(url, net);
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault !== 'transient') throw error;
    throw new Unreachable('transient', error.message, {
      ...(error.hint && { hint: error.hint }),
      cause: error,
    });
  }
}
