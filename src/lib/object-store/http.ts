import { rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { got, HTTPError, RequestError } from 'got';
import { DigestMismatch, download, fetchSmall } from '../download.js';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';
import { withoutCredentials } from '../credentials.js';
import { proxyOptions } from '../proxy.js';
import { digestOf, sameChunks } from '../digest.js';
import { blobPath, MAX_BLOB_BYTES, MAX_NOTE_BYTES, notThere, SpoiltBlob, type Store } from './store.js';

/** A web server's folder; one that takes PUT can be written to. User and password of the URL go with each request. */
export function httpStore(url: string, emit: Emit): Store {
  const base = withoutCredentials(url.endsWith('/') ? url : `${url}/`);
  const name = base;
  const at = (path: string): string => new URL(path, base).href;
  /** Of what is there, in bytes; null for nothing, undefined when the server does not say. */
  const sizeOf = async (path: string): Promise<number | null | undefined> => {
    try {
      const { headers } = await got.head(at(path), { ...proxyOptions(base, undefined), decompress: false });
      const said = headers['content-length'];
      return said === undefined ? undefined : Number(said);
    } catch (error) {
      if (error instanceof HTTPError && [404, 410].includes(error.response.statusCode)) return null;
      throw storeError(error, name);
    }
  };
  const put = async (path: string, body: string | Readable, size: number): Promise<void> => {
    const headers = { 'content-type': 'application/octet-stream', 'content-length': String(size) };
    try {
      // A stream can be sent once.
      await got.put(at(path), {
        headers,
        body,
        retry: { limit: 0 },
        ...proxyOptions(base, undefined),
      });
    } catch (error) {
      throw storeError(error, name);
    }
  };
  return {
    name,
    put: async (file, signal) => {
      const blob = await digestOf({ file }, signal);
      const path = blobPath(blob.sha256);
      const there = await sizeOf(path);
      // One of another size is none of ours.
      if (there === null || (there !== undefined && there !== blob.size))
        await put(path, Readable.from(sameChunks({ file }, blob, signal), { objectMode: false }), blob.size);
      return blob;
    },
    has: async (sha256) => (await sizeOf(blobPath(sha256))) !== null,
    get: async (sha256, to, { signal, maxBytes = MAX_BLOB_BYTES } = {}) => {
      const digest = { algorithm: 'sha256', hex: sha256 } as const;
      try {
        await download({ url: at(blobPath(sha256)), to, digest, limits: { maxBytes }, emit, signal });
      } catch (error) {
        if (error instanceof Dkms2binError && error.fault === 'not-found') throw notThere(sha256, name);
        if (error instanceof DigestMismatch) throw new SpoiltBlob(name, sha256, 'different content', error);
        throw error;
      } finally {
        await rm(`${to}.lock`, { force: true });
      }
    },
    putNote: (note, text) => put(`notes/${note}`, text, Buffer.byteLength(text)),
    getNote: async (note) => {
      try {
        const bytes = await fetchSmall(at(`notes/${note}`), { emit, maxBytes: MAX_NOTE_BYTES });
        return bytes.toString();
      } catch (error) {
        if (error instanceof Dkms2binError && error.fault === 'not-found') return null;
        throw error;
      }
    },
  };
}

function storeError(error: unknown, where: string): Dkms2binError {
  if (error instanceof RequestError && error.cause instanceof Dkms2binError) return error.cause;
  const refused = error instanceof HTTPError && [401, 403, 405].includes(error.response.statusCode);
  // got quotes the URL that it asked for, which an error shows without password.
  const text = messageOf(error);
  return new Dkms2binError(refused ? 'usage' : 'transient', `${where}: ${text}`, { cause: error });
}
