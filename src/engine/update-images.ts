import { findRow, loadCatalogue } from '../distro/catalogue.js';
import { archRow, baseId } from '../distro/row.js';
import { fetchOfficial, officialEntry } from '../environment/official-image.js';
import type { PublishedOptions } from '../environment/published-image.js';
import { ARCHES, type Arch } from '../model/cell.js';

/** An image that was asked about. */
export interface UpdatedImage {
  distro: string;
  arch: Arch;
  /** `new`: the distro had published another one, which is now in use. */
  state: 'same' | 'new';
}

/**
 * Takes the newest official image of each distro that the cache has one of, or of those that are named. Throws what
 * `fetchOfficial` throws.
 */
export async function updateOfficialImages(
  distros: readonly string[],
  options: PublishedOptions,
): Promise<UpdatedImage[]> {
  const all = await loadCatalogue();
  // Repositories of kernels stand on the image of their distro.
  const named = distros.map((name) => findRow(all, baseId(findRow(all, name))));
  const rows = distros.length > 0 ? named : all.filter(({ overlay }) => !overlay);
  const updated: UpdatedImage[] = [];
  for (const row of rows)
    for (const arch of ARCHES) {
      const before = await officialEntry(row, arch, options.cacheDir);
      // A pinned image changes with the catalogue.
      if (!before || archRow(row, arch).image.digest) continue;
      const path = await fetchOfficial(row, arch, { ...options, update: true });
      updated.push({ distro: row.id, arch, state: path.endsWith(`/${before.hash}`) ? 'same' : 'new' });
    }
  return updated;
}
