import { DEB_ARCH } from '../../model/cell.js';
import { listKernels } from '../apt-index.js';
import type { Wanted } from './wanted.js';

/** Whether a suite of a dated apt archive has the kernel. */
export async function datedSuiteHas(uri: string, suite: string, wanted: Wanted): Promise<boolean> {
  const { row, arch, options } = wanted;
  const index = await listKernels({
    ...options,
    keyring: options.keyring ?? row.keyring,
    mirror: uri,
    suites: [{ name: suite, mirror: 'main' }],
    arch: DEB_ARCH[arch],
    maxAge: Infinity,
    expiredKeys: true,
    components: ['main'],
  });
  return index.kernels.some((entry) => entry.release === wanted.release);
}
