import { closeSync, openSync, writeSync } from 'node:fs';
import type { Readable } from 'node:stream';

/** QEMU says a line or two; one that its guest took over may print for ever. */
const LIMIT = 1024 * 1024;

/** What stands where the rest is left out. @internal */
export const QEMU_LOG_CUT = `\n[dkms2bin: QEMU's own log is cut here, after ${LIMIT / 2 ** 20} MiB]\n`;

/** Keeps the beginning of what QEMU complains of in the file `log`; resolves once it says no more. */
export function keepQemuLog(stderr: Readable, log: string): Promise<void> {
  const file = openSync(log, 'a', 0o600);
  let left = LIMIT;
  stderr.on('data', (bytes: Buffer) => {
    if (left <= 0) return;
    const kept = bytes.subarray(0, left);
    left -= kept.length;
    try {
      writeSync(file, kept);
      if (left === 0) writeSync(file, QEMU_LOG_CUT);
    } catch {
      // The disk is full, which QEMU notices and says.
      left = 0;
    }
  });
  return new Promise((resolve) => {
    stderr.once('close', () => {
      closeSync(file);
      resolve();
    });
    stderr.once('error', () => undefined);
  });
}
