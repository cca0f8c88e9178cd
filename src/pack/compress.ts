import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { runBytes } from '../lib/exec.js';
import { PLAIN_XZ } from '../formats/decompress.js';
import { MAX_MODULE_BYTES } from '../formats/elf.js';

/** How a kernel's modules are compressed; the last part of their file names but for `none`. */
export type Compression = 'none' | 'gz' | 'xz' | 'zst';

/** A module's compressed form; `suffix` follows its name, `.xz` for `foo.ko.xz`. */
export interface Packed {
  suffix: string;
  bytes: Buffer;
}

/**
 * How `make modules_install` of the kernel with this configuration compresses modules. CONFIG_MODULE_COMPRESS is as old
 * as 3.18, _ZSTD came in 5.13, and since 6.12 _ALL can say that the kernel only reads compressed modules.
 */
export function moduleCompression(configText: string): Compression {
  const set = (name: string): boolean =>
    new RegExp(`^CONFIG_MODULE_COMPRESS${name}=y$`, 'm').test(configText);
  if (/^# CONFIG_MODULE_COMPRESS_ALL is not set$/m.test(configText)) return 'none';
  if (set('_XZ')) return 'xz';
  if (set('_ZSTD')) return 'zst';
  return set('_GZIP') ? 'gz' : 'none';
}

/**
 * The module as `how` wants it; undefined for `none`. Sign it before. The same bytes give the same bytes with one version
 * of xz and zstd, whatever the host's cores and settings.
 */
export async function compressModule(
  ko: Buffer,
  how: Compression,
  signal?: AbortSignal,
): Promise<Packed | undefined> {
  if (how === 'none') return undefined;
  const bytes =
    how === 'gz'
      ? await promisify(gzip)(ko, { level: 6 })
      : await runBytes(how === 'xz' ? 'xz' : 'zstd', COMPRESS[how](ko.length), {
          input: ko,
          env: PLAIN_XZ,
          maxBytes: MAX_MODULE_BYTES,
          ...(signal && { cancelSignal: signal }),
        });
  return { suffix: `.${how}`, bytes };
}

// The kernel's own options (scripts/Makefile.modinst), which its built-in decompressors need: CRC32 and a small dictionary.
// One thread and an explicit level, because newer versions take as many threads as there are cores, and split the data.
const COMPRESS = {
  xz: () => ['--compress', '--stdout', '--threads=1', '--check=crc32', '--lzma2=dict=1MiB'],
  zst: (size: number) => ['-3', '-T1', '--check', `--stream-size=${size}`, '--stdout', '--quiet'],
};
