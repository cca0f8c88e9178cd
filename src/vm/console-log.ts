import { constants } from 'node:fs';
import { open } from 'node:fs/promises';

/** A file that is longer is cut. */
const MAX_BYTES = 64 * 2 ** 20;
/** Of its beginning, and of its end. */
const KEPT_BYTES = 8 * 2 ** 20;
const LOOK_MS = 2000;

/**
 * Keeps files that QEMU appends to from filling the disk: of one that grows beyond the limit the beginning and the end stay, with a
 * mark between them. A guest can write to its console without end. The result ends the watch, after a last look.
 */
export function capLogs(
  paths: readonly string[],
  { max = MAX_BYTES, kept = KEPT_BYTES, lookMs = LOOK_MS } = {},
): () => Promise<void> {
  const left = new Map(paths.map((path) => [path, 0]));
  let looking = Promise.resolve();
  const look = (): void => {
    looking = looking.then(async () => {
      for (const [path, before] of left) left.set(path, await cut(path, { before, max, kept }));
    });
  };
  const timer = setInterval(look, lookMs);
  timer.unref();
  return () => {
    clearInterval(timer);
    look();
    return looking;
  };
}

/** Resolves to the bytes that are left out of the file by now, `before` of them since earlier. A file that is not there is none of its business. */
async function cut(
  path: string,
  { before, max, kept }: { before: number; max: number; kept: number },
): Promise<number> {
  try {
    // QEMU appends as well: what it writes meanwhile comes behind.
    await using file = await open(path, constants.O_RDWR | constants.O_APPEND);
    const { size } = await file.stat();
    if (size <= max) return before;
    const end = Buffer.alloc(kept);
    const { bytesRead } = await file.read(end, 0, kept, size - kept);
    const gone = before + size - kept - bytesRead;
    await file.truncate(kept);
    const mark = `\n[dkms2bin: about ${gone} bytes are left out here; ${max} is the limit]\n`;
    await file.appendFile(Buffer.concat([Buffer.from(mark), end.subarray(0, bytesRead)]));
    return gone;
  } catch {
    return before;
  }
}
