import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { Dkms2binError } from '../model/errors.js';
import { runBytesConfined } from '../lib/sandbox.js';

export type Compression = 'none' | 'gzip' | 'xz' | 'zstd' | 'lzma' | 'bzip2';

/** Without the user's options of xz; zstd's variables yield to its arguments. */
export const PLAIN_XZ = { XZ_DEFAULTS: '', XZ_OPT: '' };

const gunzipBytes = promisify(gunzip);

/** By the first bytes; `none` for whatever else they are. */
export function compressionOf(bytes: Buffer): Compression {
  const magic = bytes.subarray(0, 6).toString('hex');
  if (magic.startsWith('1f8b')) return 'gzip';
  if (magic === 'fd377a585a00') return 'xz';
  return magic.startsWith('28b52ffd') ? 'zstd' : 'none';
}

// The memory limit holds against a header that asks for gigabytes; dpkg-deb's strongest level needs 65 MiB.
const XZ_LIMITS = ['-T1', '-M256MiB'];
const TOOLS: Record<Exclude<Compression, 'none' | 'gzip'>, [tool: string, args: string[]]> = {
  xz: ['xz', ['-dcq', '--format=xz', ...XZ_LIMITS]],
  lzma: ['xz', ['-dcq', '--format=lzma', ...XZ_LIMITS]],
  zstd: ['zstd', ['-dcq', '--memory=256MB']],
  bzip2: ['bzip2', ['-dcq']],
};

/** A gigabyte takes a slow machine half a minute. */
const MAX_SECONDS = 300;

const TOO_LARGE = 'Real files of this kind are far smaller: look at where it comes from.';

/**
 * At most `maxBytes` bytes; `what` names the data in errors. Throws fault `usage` for damaged data and for more than
 * that, or for more than five minutes of work, `host` when its tool is not installed: Node 20 has gzip alone.
 */
export async function decompress(
  bytes: Buffer,
  compression: Compression,
  maxBytes: number,
  what: string,
): Promise<Buffer> {
  const tooLarge = (cause?: unknown): Dkms2binError =>
    new Dkms2binError('usage', `${what} unpacks to more than the limit of ${maxBytes} bytes`, {
      hint: TOO_LARGE,
      cause,
    });
  const slow = (cause: unknown): Dkms2binError =>
    new Dkms2binError('usage', `${what} was not unpacked within the limit of ${MAX_SECONDS} s`, {
      hint: TOO_LARGE,
      cause,
    });
  const damaged = (cause?: unknown): Dkms2binError =>
    new Dkms2binError('usage', `${what} is damaged or cut off: its ${compression} data cannot be unpacked`, {
      cause,
    });
  if (compression === 'none') {
    if (bytes.length > maxBytes) throw tooLarge();
    return bytes;
  }
  if (compression === 'gzip') {
    try {
      return await gunzipBytes(bytes, { maxOutputLength: maxBytes });
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      throw code === 'ERR_BUFFER_TOO_LARGE' ? tooLarge(error) : damaged(error);
    }
  }
  const [tool, args] = TOOLS[compression];
  try {
    return await runBytesConfined({}, [tool, ...args], {
      ...{ input: bytes, maxBytes, fault: 'usage', env: PLAIN_XZ },
      timeout: MAX_SECONDS * 1000,
    });
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault !== 'usage') throw error;
    if (/ran out of time/.test(error.message)) throw slow(error);
    throw /wrote more than/.test(error.message) ? tooLarge(error) : damaged(error);
  }
}
