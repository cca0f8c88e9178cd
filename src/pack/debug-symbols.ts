import { Dkms2binError } from '../model/errors.js';
import { buildId, readSections } from '../formats/elf.js';

/** Bytes of one file of debug symbols, and of all files of a build; collect.py in the guest keeps to less. */
export const MAX_DEBUG_BYTES = 128 * 2 ** 20;
export const MAX_DEBUG_TOTAL = 512 * 2 ** 20;

interface NamedFile {
  name: string;
  bytes: Buffer;
}

/**
 * Which of `files` (of `objcopy --only-keep-debug`) belongs to which module: by build id or, where the module has none, by
 * the name `<module>.debug`. Files without debug information, and those that nobody can read, belong to none.
 */
export function pairDebugSymbols(
  modules: readonly NamedFile[],
  files: readonly NamedFile[],
): Map<string, Buffer> {
  const known = files.flatMap(({ name, bytes }) => {
    const id = readable(bytes, buildId);
    return readable(bytes, hasDebugInfo) ? [{ name, bytes, id }] : [];
  });
  return new Map(
    modules.flatMap(({ name, bytes }) => {
      const id = buildId(bytes);
      const found = known.find((file) =>
        id === undefined ? file.id === undefined && file.name === `${name}.debug` : file.id === id,
      );
      return found ? [[name, found.bytes] as const] : [];
    }),
  );
}

/** Whether the file itself holds what a debugger wants to know. */
export function hasDebugInfo(bytes: Buffer): boolean {
  return readSections(bytes).some((section) => section.name === '.debug_info' && section.bytes.length > 0);
}

/** They are extras: a guest that sends nonsense for them gets no error for it. */
function readable<T>(bytes: Buffer, read: (bytes: Buffer) => T): T | undefined {
  try {
    return read(bytes);
  } catch (error) {
    if (error instanceof Dkms2binError) return undefined;
    throw error;
  }
}

/** Where the separate debug symbols of an installed module lie, and the symbolic link that leads to them. */
export function debugPaths(
  modulePath: string,
  id: string | undefined,
): { file: string; link?: { path: string; target: string } } {
  const byName = `/usr/lib/debug${modulePath}.debug`;
  if (id === undefined) return { file: byName };
  // gdb, elfutils (systemtap), perf and drgn look by build id, and so do all of Debian's dbgsym packages. crash looks for
  // NAME.ko.debug below /usr/lib/debug/lib/modules/RELEASE, where Debian's own kernel has them, too.
  const inside = `.build-id/${id.slice(0, 2)}/${id.slice(2)}.debug`;
  const up = '../'.repeat(modulePath.split('/').length - 2);
  return { file: `/usr/lib/debug/${inside}`, link: { path: byName, target: `${up}${inside}` } };
}
