import type { Arch } from '../core/cell.js';
import { Dkms2binError, messageOf } from '../core/errors.js';
import type { Emit } from '../core/events.js';
import { cacheDir } from '../core/paths.js';
import { availableKernels } from '../distro/debian.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../image/catalogue.js';
import type { KernelInfo } from './services.js';

export interface KernelsContext {
  emit: Emit;
  signal: AbortSignal;
  arch?: Arch | undefined;
  mirror?: string | undefined;
  proxy?: string | undefined;
  offline?: boolean | undefined;
}

/**
 * Kernels in the live archive of one distro, or of every distro of the catalogue whose archive can be read; then an
 * archive that cannot is a warning.
 */
export async function kernelsOf(distro: string | undefined, context: KernelsContext): Promise<KernelInfo[]> {
  const rows = await loadCatalogue();
  if (distro !== undefined) {
    const row = findRow(rows, distro);
    if (row.packageManager !== 'apt')
      throw new Dkms2binError('usage', `The kernels of ${row.id} cannot be listed yet (no apt archive)`);
    return kernelsOfRow(row, context);
  }
  const kernels: KernelInfo[] = [];
  for (const row of rows.filter((r) => r.packageManager === 'apt')) {
    try {
      kernels.push(...(await kernelsOfRow(row, context)));
    } catch (error) {
      if (context.signal.aborted) throw error;
      context.emit({ type: 'note', level: 'warn', message: `${row.id}: ${messageOf(error)}` });
    }
  }
  return kernels;
}

async function kernelsOfRow(row: CatalogueRow, context: KernelsContext): Promise<KernelInfo[]> {
  const { arch, mirror, proxy, offline, signal } = context;
  const kernels = await availableKernels(row, {
    cacheDir: cacheDir(),
    arch,
    mirror,
    proxy,
    offline,
    signal,
    warn: (message) => context.emit({ type: 'note', level: 'warn', message: `${row.id}: ${message}` }),
  });
  return kernels.map(({ release, packageVersion, suite }) => ({
    release,
    distro: row.id,
    packageVersion,
    suite,
  }));
}
