import { Dkms2binError } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';
import { folderStore } from './folder.js';
import type { Store } from './store.js';

export { SpoiltBlob, type Store } from './store.js';

/** The store at `url`: `s3://BUCKET/PREFIX`, `http(s)://…` (GET, HEAD and PUT), or a folder. */
export async function openStore(url: string, { emit }: { emit: Emit }): Promise<Store> {
  if (url.startsWith('s3:')) return (await import('./s3.js')).s3Store(url);
  if (/^https?:/.test(url)) return (await import('./http.js')).httpStore(url, emit);
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(url)) {
    throw new Dkms2binError('usage', `Not a store: ${url.replace(/\/\/[^/]*@/, '//')}`, {
      hint: 'Give a folder, s3://BUCKET/PREFIX or an http(s) URL.',
    });
  }
  return folderStore(url);
}
