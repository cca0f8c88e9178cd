import { download, type Net } from '../core/download.js';

/** Downloads a --kernel-package URL to `to`, whole or not at all. Nobody promises its digest. */
export function fetchKernelPackage(url: string, to: string, net: Net): Promise<void> {
  const { emit, signal, proxy } = net;
  return download({ url, to, emit, signal, proxy });
}
