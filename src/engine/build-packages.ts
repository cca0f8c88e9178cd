import { resolve } from 'node:path';
import { stat } from 'node:fs/promises';
import { Dkms2binError } from '../model/errors.js';
import { PackageName } from '../model/forms.js';
import type { BuildRequest } from '../options/request.js';

/** What --build-package names: packages of the distro, and .deb files of this machine. */
export interface BuildPackages {
  names: string[];
  /** Absolute paths. */
  files: string[];
}

/** Throws fault `usage` for what is neither. */
export async function buildPackagesOf({
  buildPackages,
  cwd,
}: Pick<BuildRequest, 'buildPackages' | 'cwd'>): Promise<BuildPackages> {
  const names = new Set<string>();
  const files = new Set<string>();
  for (const text of buildPackages) {
    const isFile = /\.deb$/i.test(text) || text.includes('/');
    // An .rpm's name may have capitals and underscores.
    if (!isFile && !PackageName.safeParse(text).success) {
      throw new Dkms2binError(
        'usage',
        `--build-package ${text}: not the name of a package, nor of a .deb file`,
        {
          hint: 'Examples: --build-package bc, --build-package ./vendor-headers_1.0_all.deb',
        },
      );
    }
    if (!isFile) names.add(text);
    else {
      const path = resolve(cwd, text);
      const info = await stat(path).catch(() => null);
      if (!info?.isFile() || !/\.deb$/i.test(path))
        throw new Dkms2binError('usage', `--build-package ${text}: no such .deb file`, {
          hint: `Looked for ${path}.`,
        });
      files.add(path);
    }
  }
  return { names: [...names].sort(), files: [...files] };
}
