import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import * as openpgp from 'openpgp';
import sax from 'sax';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { readCapped } from '../lib/read-capped.js';
import { parseRepomd } from '../distro/repomd.js';
import { parseParagraphs } from '../formats/deb822.js';
import { compareRpmVersions, compareVersions } from '../formats/versions.js';
import { debName } from '../distro/deb-names.js';
import { namedModules } from '../distro/package-names.js';
import { KEYRING } from './publish.js';
import { noRepository } from './repository.js';

/** A package as a repository's index names it. */
export interface OfferedPackage {
  form: 'deb' | 'rpm';
  name: string;
  /** As its package manager has it: with an epoch where there is one. */
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

/** What a published folder offers to apt and dnf. Throws fault `usage` when it is no repository. */
export async function readOfferedPackages(dir: string): Promise<Offer> {
  const has = async (path: string): Promise<boolean> =>
    (await stat(join(dir, path)).catch(() => null)) !== null;
  const [apt, dnf] = [await has('Release'), await has('repodata/repomd.xml')];
  if (!apt && !dnf) {
    throw await noRepository(dir);
  }
  const signed = (await has('InRelease')) || (await has('repodata/repomd.xml.asc'));
  return {
    signedBy: signed ? await fingerprintOf(join(dir, KEYRING)) : null,
    packages: [...(apt ? await offeredDebs(dir) : []), ...(dnf ? await offeredRpms(dir) : [])],
  };
}

async function offeredDebs(dir: string): Promise<OfferedPackage[]> {
  const index = (await readCapped(join(dir, 'Packages'), MAX_INDEX_BYTES)).toString('latin1');
  return parseParagraphs(index).flatMap((paragraph) => {
    const field = (key: string): string => paragraph.get(key) ?? '';
    const name = field('Package');
    if (name === '') return [];
    return [
      {
        form: 'deb' as const,
        name,
        version: field('Version'),
        installedBytes: Number(field('Installed-Size')) * 1024,
        downloadBytes: Number(field('Size')),
        path: field('Filename'),
      },
    ];
  });
}

async function offeredRpms(dir: string): Promise<OfferedPackage[]> {
  const file = join(dir, 'repodata/repomd.xml');
  const { href } = parseRepomd(await readCapped(file, MAX_INDEX_BYTES), file);
  const packed = await readCapped(join(dir, href), MAX_INDEX_BYTES);
  if (!href.endsWith('.gz')) {
    throw new Dkms2binError('usage', `${join(dir, href)} is not compressed with gzip`, {
      hint: `Publish the folder again: dkms2bin repo ${dir}`,
    });
  }
  const found: OfferedPackage[] = [];
  let text = '';
  let now = { form: 'rpm' as const, name: '', version: '', installedBytes: 0, downloadBytes: 0, path: '' };
  const parser = sax.parser(true, { position: false });
  parser.onopentag = (tag) => {
    // Without xmlns, attributes are plain strings.
    const { epoch, ver, rel, href: path, ...more } = tag.attributes as Record<string, string>;
    text = '';
    if (tag.name === 'package') now = { ...now, name: '' };
    else if (tag.name === 'version') now.version = `${epoch === '0' ? '' : `${epoch}:`}${ver}-${rel}`;
    else if (tag.name === 'location') now.path = path ?? '';
    else if (tag.name === 'size') {
      now.installedBytes = Number(more.installed);
      now.downloadBytes = Number(more.package);
    }
  };
  parser.ontext = (more) => (text += more);
  parser.onclosetag = (tag) => {
    if (tag === 'name') now.name = text;
    if (tag === 'package') found.push({ ...now });
  };
  parser.write(gunzipSync(packed, { maxOutputLength: MAX_INDEX_BYTES }).toString('utf8')).close();
  return found;
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

/** Kernels, in a package's spelling, for which there are packages of modules. */
export function kernelsOf({ packages }: Offer): string[] {
  const kernels = packages.flatMap((each) => namedModules(each.form, each.name)?.kernel ?? []);
  return [...new Set(kernels)].sort(compareVersions);
}

/** The packages of modules for a kernel release, the newest version of each, by the module's name in a .deb's spelling. */
export function modulesFor({ packages }: Offer, release: string): Map<string, OfferedPackage> {
  const found = new Map<string, OfferedPackage>();
  for (const each of packages) {
    const { module = '', kernel } = namedModules(each.form, each.name) ?? {};
    if (kernel !== (each.form === 'deb' ? debName(release) : release)) continue;
    const known = found.get(module);
    const compare = each.form === 'deb' ? compareVersions : compareRpmVersions;
    if (!known || compare(each.version, known.version) > 0) found.set(module, each);
  }
  return found;
}
