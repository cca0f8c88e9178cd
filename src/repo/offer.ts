import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as openpgp from 'openpgp';
import { Dkms2binError, messageOf } from '../core/errors.js';
import { readCapped } from '../core/read-capped.js';
import { compareVersions } from '../distro/version.js';
import { KEYRING } from './publish.js';

/** A package as a repository's index names it. */
export interface OfferedPackage {
  name: string;
  version: string;
  /** Bytes. */
  installedBytes: number;
  downloadBytes: number;
  /** Relative to the repository. */
  path: string;
}

export interface Offer {
  /** Fingerprint of the key that lies beside the signed metadata; null for a repository that is not signed. */
  signedBy: string | null;
  packages: OfferedPackage[];
}

const MAX_INDEX_BYTES = 256 << 20;

/** What a published folder offers to apt. Throws fault `usage` when it is no apt repository. */
export async function readOffer(dir: string): Promise<Offer> {
  const has = async (path: string): Promise<boolean> =>
    (await stat(join(dir, path)).catch(() => null)) !== null;
  if (!(await has('Release'))) {
    const rpm = await has('repodata/repomd.xml');
    throw new Dkms2binError('usage', `${dir} is no ${rpm ? 'repository for apt' : 'package repository'}`, {
      hint: rpm
        ? 'It has .rpm packages alone, and only .deb packages can be proved so far.'
        : `Make it one: dkms2bin repo ${dir}`,
    });
  }
  const index = (await readCapped(join(dir, 'Packages'), MAX_INDEX_BYTES)).toString('latin1');
  return {
    signedBy: (await has('InRelease')) ? await fingerprintOf(join(dir, KEYRING)) : null,
    packages: index.split(/\n{2,}/).flatMap((stanza) => {
      const field = (key: string): string => new RegExp(`^${key}: *(.*)$`, 'm').exec(stanza)?.[1] ?? '';
      const name = field('Package');
      if (name === '') return [];
      return [
        {
          name,
          version: field('Version'),
          installedBytes: Number(field('Installed-Size')) * 1024,
          downloadBytes: Number(field('Size')),
          path: field('Filename'),
        },
      ];
    }),
  };
}

async function fingerprintOf(keyring: string): Promise<string> {
  try {
    const key = await openpgp.readKey({ armoredKey: await readFile(keyring, 'utf8') });
    return key.getFingerprint().toUpperCase();
  } catch (error) {
    throw new Dkms2binError(
      'usage',
      `The repository is signed, but its key cannot be read: ${messageOf(error)}`,
      {
        hint: `${keyring} is put there by dkms2bin repo --repo-key.`,
        cause: error,
      },
    );
  }
}

/** A package of modules: `<module>-modules-<kernel>`, as `packModules` names it. */
const MODULES = /^(.+)-modules-(\d[a-z0-9.+-]*)$/;

/** Kernels, in a package's spelling, for which there are packages of modules. */
export function kernelsOf({ packages }: Offer): string[] {
  const kernels = packages.flatMap(({ name }) => MODULES.exec(name)?.[2] ?? []);
  return [...new Set(kernels)].sort(compareVersions);
}

/** The packages of modules for one of `kernelsOf`, the newest version of each, by the module's name in a package's spelling. */
export function modulesFor({ packages }: Offer, kernel: string): Map<string, OfferedPackage> {
  const found = new Map<string, OfferedPackage>();
  for (const each of packages) {
    const [, module = '', of] = MODULES.exec(each.name) ?? [];
    const known = found.get(module);
    if (of === kernel && (!known || compareVersions(each.version, known.version) > 0))
      found.set(module, each);
  }
  return found;
}
