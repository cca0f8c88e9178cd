import { readFile } from 'node:fs/promises';
import { ARCHES, type Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { writeAtomic } from '../lib/atomic-write.js';
import type { CatalogueRow } from '../distro/catalogue.js';
import { publishedImage, Renamed, Unreachable, type PublishedOptions } from './published-image.js';
import { digestText } from './sums.js';

/** How a row's image compares with what its distro publishes. */
interface ImageState {
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
  options: PublishedOptions & { write: boolean },
): Promise<ImageState[]> {
  const asked = rows.flatMap((row) =>
    ARCHES.flatMap((arch) => {
      const image = row.arch[arch]?.image;
      return image ? [{ row, arch, pinned: image.digest }] : [];
    }),
  );
  const found = await Promise.all(
    asked.map(async (each) => ({ ...each, ...(await stateOf(each, options)) })),
  );
  for (const { row, pinned, state, says } of found) {
    if (state !== 'changed' || pinned === undefined || !options.write) continue;
    const text = await readFile(row.file, 'utf8');
    // The digest is all that may change in the file: comments and anchors stay as they are.
    await writeAtomic(Buffer.from(text.replaceAll(pinned, says)), row.file);
  }
  return found.map(({ row, arch, state, says }) => ({ id: row.id, arch, state, says }));
}

async function stateOf(
  { row, arch, pinned }: { row: CatalogueRow; arch: Arch; pinned: string | undefined },
  options: PublishedOptions,
): Promise<Pick<ImageState, 'state' | 'says'>> {
  try {
    const says = digestText((await publishedImage(row, arch, options)).digest);
    if (pinned === undefined) return { state: 'listed', says };
    return { state: pinned === says ? 'same' : 'changed', says };
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault === 'interrupted') throw error;
    return { state: faultOf(error), says: error.message };
  }
}

function faultOf(error: Dkms2binError): ImageState['state'] {
  if (error instanceof Renamed) return 'renamed';
  return error instanceof Unreachable ? 'unknown' : 'refused';
}
