import { z } from 'zod';
import { DEB_ARCH, type KernelTarget } from '../../model/cell.js';
import { compareVersions } from '../../formats/versions.js';
import { fetchJson, fitting } from '../fetch.js';
import type { DistroRow } from '../row.js';
import { datedSuiteHas } from './dated.js';
import { withoutSlash, type Wanted } from './wanted.js';

const Versions = z.object({ result: z.array(z.object({ binary_version: z.string() })) });
const Files = z.object({
  result: z.array(z.object({ architecture: z.string(), hash: z.string() })),
  fileinfo: z.record(z.string(), z.array(z.unknown())),
});
/** Where and when a file was first seen; there are archives besides that hold no kernels for a machine. */
const Seen = z.object({
  archive_name: z.enum(['debian', 'debian-backports', 'debian-security']),
  first_seen: z.string().regex(/^\d{8}T\d{6}Z$/),
});
type Seen = z.infer<typeof Seen>;

/** Asks the snapshot API where and when the image package was seen, then which suite held it then. */
export async function debianSnapshot(url: string, wanted: Wanted): Promise<KernelTarget | undefined> {
  const { row, release, arch, options } = wanted;
  const base = withoutSlash(url);
  const path = `${base}/mr/binary/${encodeURIComponent(`linux-image-${release}`)}/`;
  const versions = ((await fetchJson(path, Versions, options))?.result ?? [])
    .map((each) => each.binary_version)
    .sort((a, b) => compareVersions(b, a));
  for (const version of versions) {
    const files = `${path}${encodeURIComponent(version)}/binfiles?fileinfo=1`;
    for (const seen of seenOf(await fetchJson(files, Files, options), DEB_ARCH[arch])) {
      const uri = `${base}/archive/${seen.archive_name}/${seen.first_seen}/`;
      for (const suite of suitesOf(seen, row, version)) {
        if (!(await datedSuiteHas(uri, suite, wanted))) continue;
        return { release, distro: row.id, arch, packageVersion: version, suite, archive: { uri, suite } };
      }
    }
  }
  return undefined;
}

/** When and in which archive the files of one architecture were first seen; the security archive last. */
function seenOf(answer: z.infer<typeof Files> | undefined, arch: string): Seen[] {
  if (!answer) return [];
  const infos = answer.result
    .filter(({ architecture }) => architecture === arch)
    .flatMap(({ hash }) => answer.fileinfo[hash] ?? []);
  return fitting(infos, Seen).sort((a, b) => a.archive_name.localeCompare(b.archive_name));
}

/** Suites that may have held a package when an archive first saw it; the small ones come first. */
function suitesOf(seen: Seen, { codename }: DistroRow, version: string): string[] {
  const archive = seen.archive_name;
  if (codename === 'sid') return archive === 'debian' ? ['sid'] : [];
  if (archive === 'debian-security') return [`${codename}-security`];
  if (archive === 'debian-backports' || version.includes('~bpo')) return [`${codename}-backports`];
  // A kernel of a point release is first seen in proposed-updates.
  return [`${codename}-proposed-updates`, `${codename}-updates`, codename];
}
