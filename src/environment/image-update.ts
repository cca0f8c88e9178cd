import { readFile } from 'node:fs/promises';
import { Dkms2binError } from '../model/errors.js';
import type { Arch } from '../model/cell.js';
import { writeAtomic } from '../lib/atomic-write.js';
import type { CatalogueRow } from '../distro/catalogue.js';
import { Renamed, Unreachable, upstream, type FetchOptions } from './official-image.js';

/** How a row's image stands to what its distro publishes. */
export interface ImageState {
  id: string;
  arch: Arch;
  /** `listed`: found, and the row pins no digest; `same`, `changed`: the pinned one; `unknown`: could not be asked. */
  state: 'listed' | 'same' | 'changed' | 'renamed' | 'refused' | 'unknown';
  /** The published digest, or why there is none. */
  says: string;
}

/**
 * Asks the distros' sums about the images of `rows`, without downloading them, and with `write` puts changed digests into
 * the catalogue's files. An image's fault is a state; throws only `interrupted` and what writing throws.
 */
export async function updateImages(
  rows: readonly CatalogueRow[],
  options: FetchOptions & { write: boolean },
): Promise<ImageState[]> {
  const asked = rows.flatMap((row) => (Object.keys(row.arch) as Arch[]).map((arch) => ({ row, arch })));
  const states = await Promise.all(asked.map(({ row, arch }) => stateOf(row, arch, options)));
  for (const [i, { state, says }] of states.entries()) {
    if (state !== 'changed' || !options.write) continue;
    const { row, arch } = asked[i]!;
    const text = await readFile(row.file, 'utf8');
    // The digest is all that may change in the file: comments and anchors stay as they are.
    await writeAtomic(Buffer.from(text.replaceAll(row.arch[arch]!.image.digest!, says)), row.file);
  }
  return states;
}

async function stateOf(row: CatalogueRow, arch: Arch, options: FetchOptions): Promise<ImageState> {
  const pinned = row.arch[arch]!.image.digest;
  try {
    const { algorithm, hex } = (await upstream(row, arch, options)).digest;
    const says = `${algorithm}:${hex}`;
    const state = pinned === undefined ? 'listed' : pinned === says ? 'same' : 'changed';
    return { id: row.id, arch, state, says };
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault === 'interrupted') throw error;
    const state = error instanceof Renamed ? 'renamed' : error instanceof Unreachable ? 'unknown' : 'refused';
    return { id: row.id, arch, state, says: error.message };
  }
}
