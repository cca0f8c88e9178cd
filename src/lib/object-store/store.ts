import { rm } from 'node:fs/promises';
import { Dkms2binError } from '../../model/errors.js';
import { digestOf, type ContentDigest } from '../digest.js';

/**
 * What several machines share: files by content, and small notes by name. All that is put is there whole or not at all;
 * the same file may be put by many at once. Faults: `transient` network and server, `host` disk, `usage` no access.
 */
export interface Store {
  /** For people; no credentials in it. */
  readonly name: string;
  put(file: string, signal?: AbortSignal): Promise<ContentDigest>;
  has(sha256: string): Promise<boolean>;
  /** Writes the file to `to` and checks its digest: what does not fit is not left there. Fault `not-found` when it is not there. */
  get(sha256: string, to: string, limits?: GetLimits): Promise<void>;
  putNote(name: string, text: string): Promise<void>;
  /** Null when there is none. */
  getNote(name: string): Promise<string | null>;
}

interface GetLimits {
  signal?: AbortSignal;
  /** Bytes that may come, `MAX_BLOB_BYTES` unless said otherwise. More are fault `transient`: whoever can write there may put anything. */
  maxBytes?: number;
}

/** Snapshots of large machines stay below it. */
export const MAX_BLOB_BYTES = 20 * 2 ** 30;

/** Throws SpoiltBlob for a file that has more bytes than were asked for. */
export function requireSize(bytes: number, maxBytes: number, sha256: string, where: string): void {
  if (bytes <= maxBytes) return;
  throw new SpoiltBlob(where, sha256, `${bytes} bytes, the limit is ${maxBytes}`);
}

/** Where a store puts a file with this digest. */
export const blobPath = (sha256: string): string => `sha256/${sha256.slice(0, 2)}/${sha256}`;

/** Notes are for programs and small. */
export const MAX_NOTE_BYTES = 2 ** 20;

/** Under a digest the store holds something else: nothing but making the file anew, and removing that, brings it back. */
export class SpoiltBlob extends Dkms2binError {
  constructor(where: string, sha256: string, what: string, cause?: unknown) {
    super('transient', `${where}: the file ${sha256} there has ${what}`, {
      hint: 'Remove it from the store; it will be made again. If it comes back, look at who can write there.',
      cause,
    });
  }
}

/** Removes the file, and throws SpoiltBlob, unless it is the one that was asked for. */
export async function requireDigest(file: string, sha256: string, where: string): Promise<void> {
  const got = await digestOf({ file });
  if (got.sha256 === sha256) return;
  await rm(file, { force: true });
  throw new SpoiltBlob(where, sha256, `different content, ${got.sha256}`);
}

export const notThere = (sha256: string, where: string): Dkms2binError =>
  new Dkms2binError('not-found', `${where} has no file ${sha256}`);
