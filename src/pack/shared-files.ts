import type { PackageEntry } from '../formats/package.js';

/** What all kernels' packages of a module share: files of its source package that are no source. */
export interface SharedFiles {
  /** Regular files that are packed. */
  extras: { path: string; bytes: Buffer; mode: number }[];
  /** Paths that are not packed, although they are neither source nor documentation nor dkms's own. */
  left: string[];
}

const EXTRA_FOLDERS = [
  '/etc/modprobe.d/',
  '/lib/modprobe.d/',
  '/usr/lib/modprobe.d/',
  '/etc/modules-load.d/',
  '/lib/modules-load.d/',
  '/usr/lib/modules-load.d/',
  '/etc/udev/rules.d/',
  '/lib/udev/rules.d/',
  '/usr/lib/udev/rules.d/',
  '/lib/firmware/',
  '/usr/lib/firmware/',
];

/** Whether a file that a DKMS package ships is one that the built module needs beside it. */
export function isExtraPath(path: string): boolean {
  return (
    EXTRA_FOLDERS.some((folder) => path.startsWith(folder) && path.length > folder.length) &&
    !path.split('/').includes('..')
  );
}

/** What a machine without DKMS has no use for: the source, dkms's own settings and hooks, and what is only read by people. */
const NO_USE = [
  /^\/usr\/src\//,
  /^\/(?:etc|usr\/lib|var\/lib|usr\/share)\/dkms\//,
  /^\/usr\/share\/[^/]+\/(?:[^/]+\.dkms\.tar\.gz|postinst)$/,
  /^\/usr\/share\/(?:doc|doc-base|man|info|licenses|lintian|bug|metainfo|locale)\//,
];

/** Sorts the files of a source package. Bytes are copies: the package's own need not stay in memory. */
export function sharedFiles(files: readonly PackageEntry[]): SharedFiles {
  const extras: SharedFiles['extras'] = [];
  const left: string[] = [];
  for (const file of files) {
    const { path, type, mode } = file;
    if (NO_USE.some((pattern) => pattern.test(path))) continue;
    if (type === 'file' && isExtraPath(path)) extras.push({ path, mode, bytes: Buffer.from(file.bytes()) });
    else left.push(path);
  }
  return { extras, left };
}
