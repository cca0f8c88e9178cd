import { chmod, mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import type { Arch } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { cacheDir } from '../lib/paths.js';
import { DigestMismatch, download, hasDigest, sweepParts, type Digest } from '../lib/download.js';
import type { EntryId } from '../cache/entries.js';
import type { CatalogueArch, CatalogueRow } from '../distro/catalogue.js';
import { archRow } from '../distro/row.js';
import { requireStandalone } from './image-check.js';
import {
  imagesDir,
  placeOf,
  publishedImage,
  Unreachable,
  type PublishedImage,
  type PublishedOptions,
} from './published-image.js';
import { digestText, parseDigest } from './sums.js';

export interface FetchOptions extends PublishedOptions {
  /** Only what the cache holds: the image last verified for the row, hashed again. */
  offline?: boolean | undefined;
  /** Takes the newest image that the distro has published. Without it the one that the cache has stays in use. */
  update?: boolean | undefined;
}

/** Whether the cache holds an image of the row that was verified once; `fetchOfficial` hashes it again. */
export async function officialInCache(row: CatalogueRow, arch: Arch, cache?: string): Promise<boolean> {
  return (await officialEntry(row, arch, cache)) !== null;
}

/** Names of the official images that are in use, by the records of all rows. */
export async function currentImages(cache = cacheDir()): Promise<string[]> {
  const dir = join(cache, 'images');
  const names = (await readdir(dir).catch(() => [])).filter((name) => name.endsWith('.json'));
  const records = names.map(async (name) => {
    try {
      const { digest } = VerifiedRecord.parse(JSON.parse(await readFile(join(dir, name), 'utf8')));
      return [`${digest.hex}.qcow2`];
    } catch {
      // A part file's note, or a record that is worth nothing.
      return [];
    }
  });
  return (await Promise.all(records)).flat();
}

/** The cache's image of a row that was verified once, by its name there; null without one. */
export async function officialEntry(row: CatalogueRow, arch: Arch, cache?: string): Promise<EntryId | null> {
  const official = new OfficialImage(row, arch, { emit: () => undefined, cacheDir: cache });
  const digest = await official.known();
  if (digest === null) return null;
  const path = official.pathOf(digest);
  return (await stat(path).catch(() => null)) ? { kind: 'images', hash: basename(path) } : null;
}

/**
 * The official image of a row in the cache: `images/<digest>.qcow2`, read-only, verified against the pinned digest or
 * the distro's (signed) sums, and checked to stand alone. A cached file is hashed again before it is handed out.
 * The image last verified for the row stays in use, whatever the distro has published since: each layer and snapshot stands on
 * it. With `update` the newest is taken; when the sums cannot be reached then, the one last verified, with a warning.
 */
export async function fetchOfficial(row: CatalogueRow, arch: Arch, options: FetchOptions): Promise<string> {
  const official = new OfficialImage(row, arch, options);
  await mkdir(official.dir, { recursive: true });
  await sweepParts(official.dir);
  return options.offline ? official.fromCache() : official.fetch();
}

/** The image last verified for a row: its URL in the catalogue then, its digest, and when the distro was last asked for a newer one. */
const VerifiedRecord = z.object({
  url: z.string(),
  digest: z.string().transform(parseDigest),
  asked: z.iso.datetime().optional(),
});

/** How often a distro is asked whether it has a newer image than the one that stays in use. */
const ASK_EVERY_MS = 7 * 86400 * 1000;

class OfficialImage {
  readonly dir: string;
  readonly #image: CatalogueArch['image'];
  /** The last part of its URL; with `*` only the sums tell its name. */
  readonly #pattern: string;
  readonly #record: string;

  constructor(
    private readonly row: CatalogueRow,
    private readonly arch: Arch,
    private readonly options: FetchOptions,
  ) {
    this.dir = imagesDir(options);
    this.#image = archRow(row, arch).image;
    this.#pattern = this.#image.url.slice(this.#image.url.lastIndexOf('/') + 1);
    this.#record = join(this.dir, `${row.id}.${arch}.json`);
  }

  pathOf({ hex }: Digest): string {
    return join(this.dir, `${hex}.qcow2`);
  }

  /** The digest that the row pins, else that of the image last verified for it; null without either. */
  async known(): Promise<Digest | null> {
    return this.#image.digest ? parseDigest(this.#image.digest) : this.#lastVerified();
  }

  /** Throws fault `not-found` when the cache lacks it, or its file is not what was verified. */
  async fromCache(): Promise<string> {
    const digest = await this.known();
    if (digest && (await hasDigest(this.pathOf(digest), digest))) return this.pathOf(digest);
    throw new Dkms2binError(
      'not-found',
      `No verified image of ${this.row.id} is in the cache, and --offline forbids downloading one`,
      { hint: 'Run once without --offline.' },
    );
  }

  async fetch(): Promise<string> {
    const kept = this.options.update ? null : await this.#kept();
    if (kept !== null) return kept;
    let published: PublishedImage;
    try {
      published = await this.#published();
    } catch (error) {
      return this.#withoutSums(error);
    }
    this.#tellWhoVouches();
    await this.#tellWhatIsNew(published);
    try {
      return await this.#obtain(published);
    } catch (error) {
      if (!(error instanceof DigestMismatch) || this.#image.digest) throw error;
      // `latest` may have moved on between the sums and the image.
      const again = await this.#published();
      if (again.digest.hex === published.digest.hex) throw error;
      return this.#obtain(again);
    }
  }

  /** The image that the cache has; null when it has none that is sound. A pinned one is the row's to change. */
  async #kept(): Promise<string | null> {
    const record = this.#image.digest ? null : await this.#lastRecord();
    if (!record || !(await hasDigest(this.pathOf(record.digest), record.digest))) return null;
    const { digest, asked = '' } = record;
    if (!(Date.now() - Date.parse(asked) < ASK_EVERY_MS)) await this.#askForNewer(digest);
    return this.pathOf(digest);
  }

  async #askForNewer(digest: Digest): Promise<void> {
    try {
      const published = await this.#published();
      await this.#remember(digest);
      if (published.digest.hex === digest.hex) return;
    } catch (error) {
      // Sums out of reach, or bad: who does not update need not care.
      if (!(error instanceof Dkms2binError) || error.fault === 'interrupted') throw error;
      return;
    }
    this.options.emit({
      type: 'note',
      level: 'info',
      message: `${this.row.id} has published a newer image than the one in the cache, which stays in use; dkms2bin images update takes the newer one`,
    });
  }

  async #remember(digest: Digest): Promise<void> {
    const record = { url: this.#image.url, digest: digestText(digest), asked: new Date().toISOString() };
    await writeAtomic(Buffer.from(JSON.stringify(record)), this.#record);
  }

  async #published(): Promise<PublishedImage> {
    const { digest } = this.#image;
    if (digest) return { name: this.#pattern, digest: parseDigest(digest) };
    return publishedImage(this.row, this.arch, this.options);
  }

  /** The image last verified, when the sums cannot be reached; what else is wrong with them is not passed over. */
  async #withoutSums(error: unknown): Promise<string> {
    const digest = error instanceof Unreachable ? await this.#lastVerified() : null;
    if (!digest) throw error;
    this.options.emit({
      type: 'note',
      level: 'warn',
      message: `${messageOf(error)}; using the ${this.row.id} image that was verified before`,
    });
    if (await hasDigest(this.pathOf(digest), digest)) return this.pathOf(digest);
    if (this.#pattern.includes('*')) throw error;
    return this.#obtain({ name: this.#pattern, digest });
  }

  #tellWhoVouches(): void {
    const { digest, signature, sums } = this.#image;
    if (digest || signature.kind !== 'none') return;
    const secure = new URL(placeOf(sums.url, this.options)).protocol === 'https:';
    this.options.emit({
      type: 'note',
      level: secure ? 'debug' : 'warn',
      message: secure
        ? `${this.row.id} publishes no signature: only https vouches for its checksums`
        : `${this.row.id} publishes no signature, and its checksums did not come over https: nothing vouches for them`,
    });
  }

  /** What a new image costs, before it is paid. */
  async #tellWhatIsNew({ digest }: PublishedImage): Promise<void> {
    const before = this.#image.digest ? null : await this.#lastVerified();
    if (!before || before.hex === digest.hex || !(await stat(this.pathOf(before)).catch(() => null))) return;
    this.options.emit({
      type: 'note',
      level: 'warn',
      message:
        `${this.row.id} has published a new image: each kernel's layer and snapshot is made anew on it, which takes minutes. ` +
        'what stood on the old one is removed once nothing has used it for a while',
    });
  }

  async #obtain({ name, digest }: PublishedImage): Promise<string> {
    const { url: template } = this.#image;
    const url = placeOf(template.slice(0, -this.#pattern.length) + name, this.options);
    const to = this.pathOf(digest);
    await download({
      ...this.options,
      url,
      digest,
      to,
      what: `${this.row.id} image`,
      mode: 0o444,
      accept: (part) => requireStandalone(part, url, this.options.signal),
    });
    // A cache restored by cp or rsync may have lost it.
    await chmod(to, 0o444);
    await this.#remember(digest);
    return to;
  }

  async #lastVerified(): Promise<Digest | null> {
    return (await this.#lastRecord())?.digest ?? null;
  }

  async #lastRecord(): Promise<z.infer<typeof VerifiedRecord> | null> {
    try {
      const record = VerifiedRecord.parse(JSON.parse(await readFile(this.#record, 'utf8')));
      return record.url === this.#image.url ? record : null;
    } catch {
      // A broken record is worth nothing; the next good download writes it anew.
      await rm(this.#record, { force: true });
      return null;
    }
  }
}
