import { DEB_ARCH } from '../core/cell.js';
import { Dkms2binError, messageOf } from '../core/errors.js';
import type { Emit } from '../core/events.js';
import { cacheDir } from '../core/paths.js';
import { listKernels } from '../distro/apt-index.js';
import { hostMirrors } from '../distro/mirrors.js';
import { compareReleases } from '../distro/version.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../image/catalogue.js';
import type { KernelInfo } from './services.js';

/**
 * Kernels in the live archive of one distro, or of every distro of the catalogue whose archive can be read; then an
 * archive that cannot is a warning.
 */
export async function kernelsOf(
  distro: string | undefined,
  context: { emit: Emit; signal: AbortSignal },
): Promise<KernelInfo[]> {
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

async function kernelsOfRow(
  row: CatalogueRow,
  context: { emit: Emit; signal: AbortSignal },
): Promise<KernelInfo[]> {
  const host = row.family === 'debian' ? await hostMirrors() : {};
  const { kernels } = await listKernels({
    mirror: host.main ?? row.mirrors.main,
    securityMirror: host.security ?? row.mirrors.security,
    suites: row.suites,
    arch: DEB_ARCH.x86_64,
    cacheDir: cacheDir(),
    signal: context.signal,
    // Debian's keyring signs nothing of other families; the list only names kernels, the guest's apt verifies.
    ...(row.family === 'debian' ? {} : { keyring: false as const }),
    warn: (message) => context.emit({ type: 'note', level: 'warn', message: `${row.id}: ${message}` }),
  });
  return kernels
    .map((k) => ({ release: k.release, distro: row.id, packageVersion: k.packageVersion, suite: k.suite }))
    .sort((a, b) => compareReleases(a.release, b.release));
}
