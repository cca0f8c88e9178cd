import { constants } from 'node:fs';
import { access, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseReleaseFile, type ReleaseFile } from '../formats/deb822.js';
import { runConfined } from '../lib/sandbox.js';
import { standardVariable } from '../lib/variables.js';
import { Dkms2binError } from '../model/errors.js';
import type { LookupOptions } from './kernel-index.js';

export const DEBIAN_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

export interface SignatureOptions extends Pick<LookupOptions, 'keyring' | 'signal' | 'warn'> {
  /** Accept a signature by a key that has expired since: only for dated archives. */
  expiredKeys?: boolean | undefined;
}

/**
 * What an InRelease says; `verified` when its signature could be checked. Throws fault `host` for a signature that is not
 * good.
 */
export async function readInRelease(
  signed: Buffer,
  url: string,
  options: SignatureOptions,
): Promise<ReleaseFile & { verified: boolean }> {
  const unverified = (): ReleaseFile & { verified: boolean } => ({
    ...parseReleaseFile(signed.toString('utf8')),
    verified: false,
  });
  if (options.keyring === false) return unverified();
  const keyring = options.keyring ?? DEBIAN_KEYRING;
  const missing = await missingOf(keyring);
  if (missing !== undefined) {
    options.warn?.(`The signature of ${url} is not checked: ${missing} is missing on this host`);
    return unverified();
  }
  const folder = await mkdtemp(join(tmpdir(), 'dkms2bin-gpgv-'));
  try {
    const input = join(folder, 'InRelease');
    const output = join(folder, 'Release');
    await writeFile(input, signed);
    // gpgv exits non-zero as soon as one of several signers is unknown, so the status lines decide, as in apt.
    const check = 'gpgv --status-fd 1 --keyring "$1" --output "$2" "$3" || true';
    const { stdout, stderr } = await runConfined(
      { readable: [keyring, input], writable: [folder] },
      ['sh', '-c', check, 'gpgv', keyring, output, input],
      { timeout: 60_000, ...(options.signal === undefined ? {} : { cancelSignal: options.signal }) },
    );
    if (!isGood(stdout, options.expiredKeys === true)) {
      const tail = stderr.trim().split('\n').slice(-6).join('\n');
      throw new Dkms2binError('host', `The signature of ${url} does not verify:\n${tail}`, {
        hint: `It was checked against ${keyring}. Update the package that provides it, or use another --mirror.`,
      });
    }
    return { ...parseReleaseFile(await readFile(output, 'utf8')), verified: true };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Reads gpgv's status lines. */
function isGood(status: string, expiredKeys: boolean): boolean {
  const has = (word: string): boolean => new RegExp(`^\\[GNUPG:\\] ${word}\\b`, 'm').test(status);
  const good = has('VALIDSIG') && (has('GOODSIG') || (expiredKeys && has('EXPKEYSIG')));
  return good && !has('BADSIG') && !has('REVKEYSIG');
}

/** What a check of signatures lacks on this host. */
async function missingOf(keyring: string): Promise<string | undefined> {
  if (!(await readable(keyring))) return keyring;
  const folders = (standardVariable('PATH') ?? '').split(':').filter(Boolean);
  const found = await Promise.all(folders.map((folder) => readable(join(folder, 'gpgv'))));
  return found.includes(true) ? undefined : 'gpgv';
}

async function readable(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(
    () => true,
    () => false,
  );
}
