import { createReadStream } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { got, HTTPError } from 'got';
import { download, fetchSmall } from '../download.js';
import { Dkms2binError, messageOf } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';
import { withoutCredentials } from '../credentials.js';
import { proxyOptions } from '../proxy.js';
import { digestOf } from '../digest.js';
import { blobPath, MAX_NOTE_BYTES, notThere, type Store } from './store.js';

/** A web server's folder; one that takes PUT can be written to. User and password of the URL go with each request. */
export function httpStore(url: string, emit: Emit): Store {
  const base = withoutCredentials(url.endsWith('/') ? url : `${url}/`);
  const name = base;
  const at = (path: string): string => new URL(path, base).href;
  const there = async (path: string): Promise<boolean> => {
    try {
      await got.head(at(path), proxyOptions(base, undefined));
      return true;
    } catch (error) {
      if (error instanceof HTTPError && [404, 410].includes(error.response.statusCode)) return false;
      throw storeError(error, name);
    }
  };
  const put = async (path: string, body: string | { file: string }): Promise<void> => {
    const size = typeof body === 'string' ? Buffer.byteLength(body) : (await stat(body.file)).size;
    const headers = { 'content-type': 'application/octet-stream', 'content-length': String(size) };
    const content = typeof body === 'string' ? body : createReadStream(body.file);
    try {
      // A stream can be sent once.
      await got.put(at(path), {
        headers,
        body: content,
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
      if (!(await there(blobPath(blob.sha256)))) await put(blobPath(blob.sha256), { file });
      return blob;
    },
    has: (sha256) => there(blobPath(sha256)),
    get: async (sha256, to, signal) => {
      const digest = { algorithm: 'sha256', hex: sha256 } as const;
      try {
        await download({ url: at(blobPath(sha256)), to, digest, emit, signal });
      } catch (error) {
        if (error instanceof Dkms2binError && error.fault === 'not-found') throw notThere(sha256, name);
        throw error;
      } finally {
        await rm(`${to}.lock`, { force: true });
      }
    },
    putNote: (note, text) => put(`notes/${note}`, text),
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
  const refused = error instanceof HTTPError && [401, 403, 405].includes(error.response.statusCode);
  // got quotes the URL that it asked for, which an error shows without password.
  const text = messageOf(error);
  return new Dkms2binError(refused ? 'usage' : 'transient', `${where}: ${text}`, { cause: error });
}
