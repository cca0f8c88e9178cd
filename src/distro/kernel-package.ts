import { createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import got from 'got';
import type { Emit } from '../core/events.js';
import { Dkms2binError, messageOf } from '../core/errors.js';

/** Downloads a --kernel-package URL to `to`, whole or not at all. */
export async function fetchKernelPackage(
  url: string,
  to: string,
  context: { emit: Emit; signal: AbortSignal },
): Promise<void> {
  const part = `${to}.part`;
  try {
    const stream = got.stream(url, { timeout: { connect: 15_000, socket: 60_000 }, signal: context.signal });
    stream.on('downloadProgress', ({ transferred, total }: { transferred: number; total?: number }) =>
      context.emit({ type: 'progress', what: url, done: transferred, ...(total ? { total } : {}) }),
    );
    await pipeline(stream, createWriteStream(part));
    await rename(part, to);
  } catch (error) {
    if (context.signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted', { cause: error });
    const status = (error as { response?: { statusCode?: number } }).response?.statusCode;
    throw new Dkms2binError(status === 404 ? 'not-found' : 'transient', `${url}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    await rm(part, { force: true });
  }
}
