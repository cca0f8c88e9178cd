import { dirname } from 'node:path';
import { makeTar, withFolders, type TarFolder, type TarLink } from '../formats/tar.js';
import type { PackageEntry, PackageFolder } from '../formats/package.js';

/** What all kernels' packages of a module share: files of its source package that are no source. */
export interface SharedFiles {
  /** Regular files that are packed. */
  extras: { path: string; bytes: Buffer; mode: number }[];
  /** Symbolic links that are packed. */
  links: TarLink[];
  /** Folders that are packed for their own sake: nothing packed lies in them, or they have a mode of their own. */
  folders: TarFolder[];
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

/** The part of a source package's mode that comes along: no setuid, and nobody but root may write. */
export const ownMode = (mode: number): number => mode & 0o755;

/** Sorts the files and folders of a source package. Bytes are copies: the package's own need not stay in memory. */
export function sharedFiles(
  files: readonly PackageEntry[],
  folders: readonly PackageFolder[] = [],
): SharedFiles {
  const extras: SharedFiles['extras'] = [];
  const links: SharedFiles['links'] = [];
  const left: string[] = [];
  for (const file of files) {
    const { path, type, mode, target = '' } = file;
    if (isNoUse(path)) continue;
    const packable =
      isExtraPath(path) &&
      (type === 'symlink' ? fits([], [{ path, target }]) : fits([{ path, mode: 0o644, bytes: NOTHING }]));
    if (packable && type === 'file') extras.push({ path, mode, bytes: Buffer.from(file.bytes()) });
    else if (packable && type === 'symlink') links.push({ path, target });
    else left.push(path);
  }
  const own = ownFolders(files, folders, [...extras, ...links]);
  return { extras, links, folders: own.folders, left: [...left, ...own.left] };
}

const NOTHING = Buffer.alloc(0);

const isNoUse = (path: string): boolean => NO_USE.some((pattern) => pattern.test(path));

/**
 * The folders that a machine would lack: those that are empty in the source package, and those above packed files that have
 * another mode than a package's folders have by themselves.
 */
function ownFolders(
  files: readonly PackageEntry[],
  folders: readonly PackageFolder[],
  packed: readonly { path: string }[],
): Pick<SharedFiles, 'folders' | 'left'> {
  const full = above([...files, ...folders]);
  const needed = above(packed);
  const found: Pick<SharedFiles, 'folders' | 'left'> = { folders: [], left: [] };
  for (const { path, mode: read } of folders) {
    const mode = ownMode(read);
    const wanted = needed.has(path) ? mode !== 0o755 : !full.has(path);
    if (!wanted || path === '/' || isNoUse(`${path}/`)) continue;
    if (isExtraPath(path) && fits([], [], [{ path, mode }])) found.folders.push({ path, mode });
    else found.left.push(`${path}/`);
  }
  return found;
}

/** All folders that something lies in. */
function above(entries: readonly { path: string }[]): Set<string> {
  const all = new Set<string>();
  for (const { path } of entries) {
    for (let up = dirname(path); !all.has(up); up = dirname(up)) all.add(up);
  }
  return all;
}

/** Whether a .deb can hold such entries. */
function fits(...entries: Parameters<typeof withFolders>): boolean {
  try {
    makeTar(withFolders(...entries), 0);
    return true;
  } catch {
    return false;
  }
}
