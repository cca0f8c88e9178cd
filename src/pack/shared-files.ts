import { makeTar, withFolders, type TarLink } from '../formats/tar.js';
import type { PackageEntry } from '../formats/package.js';

/** What all kernels' packages of a module share: files of its source package that are no source. */
export interface SharedFiles {
  /** Regular files that are packed. */
  extras: { path: string; bytes: Buffer; mode: number }[];
  /** Symbolic links that are packed. */
  links: TarLink[];
  /** Paths that are not packed, although they are neither source nor dkms's own. */
  left: string[];
}

/** Where a package may put files. The rest is the machine's own, or comes and goes with a boot. */
const FOLDERS = /^\/(?:etc|usr|lib|lib32|lib64|bin|sbin|opt|srv|var\/(?:lib|cache|log|opt|spool))\//;

/** Files in those folders that are a machine's own, whatever a package says. */
const OWN = [
  /^\/etc\/(?:passwd|shadow|group|gshadow|subuid|subgid|sudoers|fstab|crypttab|hosts|hostname|machine-id|environment|profile|nsswitch\.conf|resolv\.conf|ld\.so\.(?:preload|cache))-?$/,
  /^\/var\/lib\/(?:dpkg|apt|rpm|dnf|systemd)\//,
  /^\/usr\/lib\/sysimage\//,
  // Of some kernel, and not by our build.
  /^(?:\/usr)?\/lib\/modules\//,
];

/** Whether a file that a DKMS package ships may come along in a package of ours. */
export function isExtraPath(path: string): boolean {
  return (
    FOLDERS.test(path) &&
    !path.endsWith('/') &&
    !path.split('/').includes('..') &&
    !OWN.some((own) => own.test(path))
  );
}

/** What a machine without DKMS has no use for: the source, dkms's own settings and hooks, and what only the distro's own tools read. */
const NO_USE = [
  /^\/usr\/src\//,
  /^\/(?:etc|usr\/lib|var\/lib|usr\/share)\/dkms\//,
  /^\/usr\/share\/[^/]+\/(?:[^/]+\.dkms\.tar\.gz|postinst)$/,
  /^\/usr\/share\/(?:lintian|bug)\//,
  /^\/usr\/lib\/\.build-id\//,
];

/** Sorts the files of a source package. Bytes are copies: the package's own need not stay in memory. */
export function sharedFiles(files: readonly PackageEntry[]): SharedFiles {
  const extras: SharedFiles['extras'] = [];
  const links: SharedFiles['links'] = [];
  const left: string[] = [];
  for (const file of files) {
    const { path, type, mode, target = '' } = file;
    if (NO_USE.some((pattern) => pattern.test(path))) continue;
    const packable = isExtraPath(path) && fitsInTar(path, type === 'symlink' ? target : undefined);
    if (packable && type === 'file') extras.push({ path, mode, bytes: Buffer.from(file.bytes()) });
    else if (packable && type === 'symlink') links.push({ path, target });
    else left.push(path);
  }
  return { extras, links, left };
}

/** Whether a .deb can hold an entry of that name. */
function fitsInTar(path: string, target?: string): boolean {
  try {
    const entries =
      target === undefined
        ? withFolders([{ path, mode: 0o644, bytes: Buffer.alloc(0) }])
        : withFolders([], [{ path, target }]);
    makeTar(entries, 0);
    return true;
  } catch {
    return false;
  }
}
