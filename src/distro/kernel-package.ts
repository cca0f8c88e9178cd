import { basename } from 'node:path';
import { DEB_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { download, type Net } from '../lib/download.js';
import { checkRelease } from './release.js';

const IMAGE_FILE =
  /^(?:linux-image|proxmox-kernel|pve-kernel)-(?:unsigned-)?(\d[^_]*?)(?:-unsigned|-signed)?_([^_]+)_([a-z0-9]+)\.deb$/;

/**
 * The kernel releases of `--kernel-package` URLs, which are read where a layer is made: by their names, as apt's repositories have
 * them (`linux-image-<release>_<version>_<arch>.deb`). Headers and other packages among them are passed over. Throws `usage` when no
 * image is there.
 */
export function releaseOfKernelPackages(
  files: readonly string[],
  arch: Arch,
): { release: string; packageVersion: string; file: string }[] {
  const images = files.flatMap((file) => {
    const path = URL.canParse(file) && /^https?:/.test(file) ? new URL(file).pathname : file;
    const [, release, packageVersion, debArch] = IMAGE_FILE.exec(basename(decodeURIComponent(path))) ?? [];
    if (release === undefined || packageVersion === undefined || release.endsWith('-dbg')) return [];
    if (debArch !== DEB_ARCH[arch]) {
      throw new Dkms2binError('usage', `${file} is for ${debArch}, not for ${DEB_ARCH[arch]}`);
    }
    return [{ release: checkRelease(release), packageVersion, file }];
  });
  if (images.length > 0) return images;
  throw new Dkms2binError('usage', 'None of the --kernel-package files is a kernel image', {
    hint: `One must be named linux-image-<release>_<version>_${DEB_ARCH[arch]}.deb; give its headers and the other packages too.`,
  });
}

/** Downloads a kernel package to `to`, whole or not at all. Of a --kernel-package URL nobody promises the digest. */
export function fetchKernelPackage(url: string, to: string, net: Net, sha256?: string): Promise<void> {
  const { emit, signal, proxy } = net;
  const digest = sha256 === undefined ? undefined : ({ algorithm: 'sha256', hex: sha256 } as const);
  return download({ url, to, emit, signal, proxy, digest });
}
