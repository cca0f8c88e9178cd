import type { KernelTarget } from '../model/cell.js';
import { debianSnapshot } from './archives/debian.js';
import { mainline } from './archives/mainline.js';
import { koji, vault } from './archives/rpm.js';
import { launchpad, ubuntuSnapshot } from './archives/ubuntu.js';
import { withoutSlash, type Tell, type Wanted } from './archives/wanted.js';
import { unreachableCode } from './fetch.js';
import type { LookupOptions } from './kernel-index.js';
import type { Place } from './places.js';
import type { RowArchive } from './row.js';

export interface ArchiveOptions extends LookupOptions {
  /** Base URL of the archive of old packages instead of the row's. */
  archiveUrl?: string | undefined;
}

/**
 * Looks for a kernel in the row's archives of old packages, in their order; each place without it is added to `places`.
 * Throws `transient` when an archive fails half way. One that cannot be connected to is a place without it.
 */
export async function fromArchives(
  wanted: Wanted & { options: ArchiveOptions },
  places: Place[],
): Promise<KernelTarget | undefined> {
  const { row, options } = wanted;
  const tell: Tell = (where, outcome) => {
    if (!places.some((place) => place.where === where)) places.push({ where, outcome });
  };
  for (const listed of row.archives ?? []) {
    const archive = rebased(listed, options.archiveUrl);
    const place = nameOf(archive);
    if (options.offline) {
      tell(place, 'not asked (--offline)');
      continue;
    }
    try {
      const target = await find(archive, wanted, tell);
      if (target) return target;
      tell(`${place} (${row.id})`, 'not there');
    } catch (error) {
      // The live mirrors answered. An archive that cannot even be connected to from here is one more place without the
      // kernel; one that fails half way is worth a retry.
      const code = unreachableCode(error);
      if (code === undefined) throw error;
      tell(place, `cannot be reached from this host (${code})`);
    }
  }
  return undefined;
}

function find(archive: RowArchive, wanted: Wanted, tell: Tell): Promise<KernelTarget | undefined> {
  switch (archive.kind) {
    case 'snapshot':
      return debianSnapshot(archive.url, wanted);
    case 'ubuntu-snapshot':
      return ubuntuSnapshot(archive, wanted, tell);
    case 'launchpad':
      return launchpad(archive, wanted);
    case 'vault':
      return vault(archive, wanted, tell);
    case 'koji':
      return koji(archive, wanted, tell);
    case 'mainline':
      return mainline(archive, wanted, tell);
  }
}

/** `--archive` replaces an archive's scheme and host; its own path goes in front. */
function rebased(archive: RowArchive, base: string | undefined): RowArchive {
  if (base === undefined) return archive;
  const move = (url: string): string => withoutSlash(base) + url.replace(/^https?:\/\/[^/]+/, '');
  if (archive.kind === 'vault') return { ...archive, repos: archive.repos.map(move) };
  if ('api' in archive) return { ...archive, url: move(archive.url), api: move(archive.api) };
  return { ...archive, url: move(archive.url) };
}

function nameOf(archive: RowArchive): string {
  const [url = ''] = archive.kind === 'vault' ? archive.repos : [archive.url];
  return withoutSlash(url.replace(/\/?\{minor\}.*$/, ''));
}
