import { download, type Net } from '../lib/download.js';

/** Downloads a kernel package to `to`, whole or not at all. Of a --kernel-package URL nobody promises the digest. */
export function fetchKernelPackage(url: string, to: string, net: Net, sha256?: string): Promise<void> {
  const { emit, signal, proxy } = net;
  const digest = sha256 === undefined ? undefined : ({ algorithm: 'sha256', hex: sha256 } as const);
  return download({ url, to, emit, signal, proxy, digest });
}
