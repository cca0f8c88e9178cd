import { DEB_ARCH, type KernelTarget } from '../../model/cell.js';
import { verifyDetached } from '../../formats/openpgp.js';
import { fetchBytes } from '../fetch.js';
import { sourceKey } from '../kernel-source.js';
import { kernelPackages } from '../packages.js';
import { pick, withoutSlash, type Tell, type Wanted } from './wanted.js';

const MAX_SUMS_BYTES = 1 << 20;
const MAX_SIGNATURE_BYTES = 1 << 16;

/**
 * The folder of a version among Ubuntu's mainline builds: `v6.11` for 6.11.0-061100-generic, `v6.11.5` for 6.11.5-061105, `v6.12-rc3` for
 * 6.12.0-061200rc3. Undefined for a release that is not written so.
 */
function mainlineVersion(release: string): string | undefined {
  const [, major = '', minor = '', patch = '', candidate] =
    /^(\d+)\.(\d+)\.(\d+)-\d{6}(?:rc(\d+))?(?:\d{12})?-/.exec(release) ?? [];
  if (major === '') return undefined;
  const base = `v${major}.${minor}${patch === '0' ? '' : `.${patch}`}`;
  return candidate === undefined ? base : `${base}-rc${candidate}`;
}

/** The files of a version, by the list of checksums in its folder, which the row's key has signed. */
export async function mainline(
  archive: { url: string },
  { row, release, arch, options }: Wanted,
  tell: Tell,
): Promise<KernelTarget | undefined> {
  const version = mainlineVersion(release);
  const key = row.overlay?.key;
  if (version === undefined || !key) return undefined;
  const folder = `${withoutSlash(archive.url)}/${version}/${DEB_ARCH[arch]}`;
  const sums = await fetchBytes(`${folder}/CHECKSUMS`, MAX_SUMS_BYTES, options);
  const signature = sums && (await fetchBytes(`${folder}/CHECKSUMS.gpg`, MAX_SIGNATURE_BYTES, options));
  if (!sums || !signature) {
    tell(`${folder}/ (${row.id})`, sums ? 'its CHECKSUMS are not signed' : 'not there, or not built');
    return undefined;
  }
  const { binary: keys } = await sourceKey(row.id, key, options);
  await verifyDetached(
    sums,
    signature,
    { fingerprint: key.keyFingerprint, keys, file: `the key of ${row.id}` },
    `${folder}/CHECKSUMS`,
  );
  const files = filesOf(sums.toString('utf8'));
  const names = kernelPackages(row, release);
  const common = release.replace(/-[a-z][a-z0-9-]*$/, '');
  const found = pick({ ...names, headers: [...names.headers, `linux-headers-${common}`] }, (name) =>
    files.find((file) => file.name === name),
  );
  if (!found) {
    tell(`${folder}/ (${row.id})`, 'it has no image, modules and headers of this release');
    return undefined;
  }
  return {
    ...{ release, distro: row.id, arch, packageVersion: found.image.version },
    files: [found.image, ...found.others].map(({ file, sha256 }) => ({ url: `${folder}/${file}`, sha256 })),
  };
}

interface File {
  file: string;
  name: string;
  version: string;
  sha256: string;
}

/** Of a text in which SHA-1 and SHA-256 stand below each other, the .deb files with their SHA-256. */
function filesOf(text: string): File[] {
  return text.split('\n').flatMap((line) => {
    const [, sha256, file, name, version] =
      /^([0-9a-f]{64}) [ *](([a-z0-9][a-z0-9+.-]+)_([A-Za-z0-9.+~-]+)_[a-z0-9]+\.deb)$/.exec(line) ?? [];
    return sha256 === undefined || file === undefined || name === undefined || version === undefined
      ? []
      : [{ sha256, file, name, version }];
  });
}
