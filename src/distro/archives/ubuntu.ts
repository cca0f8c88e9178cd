import { z } from 'zod';
import { DEB_ARCH, type KernelTarget } from '../../model/cell.js';
import { compareVersions } from '../../formats/versions.js';
import { fetchJson, fitting } from '../fetch.js';
import { kernelPackages } from '../packages.js';
import { datedSuiteHas } from './dated.js';
import { filesOf, withoutSlash, type Tell, type Wanted } from './wanted.js';

/** snapshot.ubuntu.com has nothing from before. */
const SNAPSHOTS_SINCE = '20230301T000000Z';
/** A package is published some hours before the archive's indexes name it. */
const PUBLICATION_MS = 6 * 3600_000;

/** A place of Launchpad's API and the files it speaks of. */
interface Launchpad {
  url: string;
  api: string;
}

/** A signed dated archive; Launchpad tells when the package was published, and where. */
export async function ubuntuSnapshot(
  archive: Launchpad,
  wanted: Wanted,
  tell: Tell,
): Promise<KernelTarget | undefined> {
  const { row, release, arch } = wanted;
  const base = withoutSlash(archive.url);
  const [image = `linux-image-${release}`] = kernelPackages(row, release).image;
  for (const each of await publications(archive.api, image, wanted)) {
    const stamp = new Date(each.published.getTime() + PUBLICATION_MS)
      .toISOString()
      .replace(/[-:]|\.\d+/g, '');
    if (stamp < SNAPSHOTS_SINCE) {
      tell(`${base} (${row.id})`, `keeps nothing from before ${SNAPSHOTS_SINCE.slice(0, 8)}`);
      continue;
    }
    const uri = `${base}/${stamp}/`;
    const suite = `${row.codename}${each.pocket === 'Release' ? '' : `-${each.pocket.toLowerCase()}`}`;
    if (!(await datedSuiteHas(uri, suite, wanted))) continue;
    return { release, distro: row.id, arch, packageVersion: each.version, suite, archive: { uri, suite } };
  }
  return undefined;
}

/** Launchpad keeps every file that was ever published, by name. Nothing but the connection vouches for them. */
export async function launchpad(archive: Launchpad, wanted: Wanted): Promise<KernelTarget | undefined> {
  const { row, release, arch, options } = wanted;
  // A kernel's image, modules and headers have one version; Launchpad knows the source of the headers.
  const [headers] = await publications(archive.api, `linux-headers-${release}`, wanted);
  if (!headers) return undefined;
  const names = kernelPackages(row, release, headers.source);
  const debArch = DEB_ARCH[arch];
  const version = encodeURIComponent(headers.version.replace(/^\d+:/, ''));
  const folder = `${withoutSlash(archive.url)}/ubuntu/+archive/primary/+files`;
  const urls = (name: string): string[] => {
    // Common headers are for all architectures.
    const archs = name.endsWith(`-${release}`) ? [debArch] : ['all', debArch];
    return archs.map((each) => `${folder}/${name}_${version}_${each}.deb`);
  };
  const files = await filesOf(names, urls, options);
  return files && { release, distro: row.id, arch, packageVersion: headers.version, files };
}

const Answer = z.object({ entries: z.array(z.unknown()) });

/** A publication of a binary package; one that waits for its turn has no date. */
const Publication = z
  .object({
    binary_package_version: z.string().regex(/^[0-9][0-9A-Za-z.+~:-]*$/),
    pocket: z.enum(['Release', 'Updates', 'Security', 'Proposed']),
    source_package_name: z.string().optional().catch(undefined),
    date_published: z.string().refine((text) => !Number.isNaN(Date.parse(text))),
    distro_arch_series_link: z.string().optional(),
  })
  .transform((entry) => ({
    version: entry.binary_package_version,
    pocket: entry.pocket,
    source: entry.source_package_name || 'linux',
    published: new Date(entry.date_published),
    series: entry.distro_arch_series_link,
  }));
type Publication = z.output<typeof Publication>;

/** Where Launchpad says that a binary package was published in the row's series, newest version first. */
async function publications(
  api: string,
  name: string,
  { row, arch, options }: Wanted,
): Promise<Publication[]> {
  const root = withoutSlash(api);
  const series = `/ubuntu/${row.codename}/${DEB_ARCH[arch]}`;
  const query = new URLSearchParams({
    'ws.op': 'getPublishedBinaries',
    binary_name: name,
    exact_match: 'true',
    distro_arch_series: `${root}${series}`,
  });
  const answer = await fetchJson(`${root}/ubuntu/+archive/primary?${String(query)}`, Answer, options);
  return (
    fitting(answer?.entries ?? [], Publication)
      // Of another series when the server ignores what it was asked.
      .filter((each) => each.series?.endsWith(series) ?? true)
      .sort((a, b) => compareVersions(b.version, a.version) || a.published.getTime() - b.published.getTime())
  );
}
