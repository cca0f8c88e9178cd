import { resolve } from 'node:path';
import type { BuildContext } from '../model/context.js';
import { readSigner, type Signer as AttestSigner } from '../attest/dsse.js';
import { certificateFingerprint } from '../cell/identity.js';
import { Dkms2binError } from '../model/errors.js';
import { readCapped } from '../lib/read-capped.js';
import { readCertificate } from '../formats/certificate.js';
import { openSigner, type Signer } from '../pack/sign.js';
import { requirePair, type BuildRequest } from '../options/request.js';

/** The oldest kernel whose form of signature is made here. */
const OLDEST = [4, 3] as const;

/**
 * Opens the request's signing key; null when it has none. Throws fault `usage` for a key without its certificate, and for
 * kernels among `releases` whose modules it cannot sign.
 */
export async function signerOf(
  request: BuildRequest,
  releases: readonly string[],
  { signal, askPassphrase }: BuildContext,
): Promise<Signer | null> {
  requirePair(request);
  const { signKey, signCert, passphraseFile, cwd } = request;
  if (signKey === undefined || signCert === undefined) return null;
  const old = releases.find(isTooOld);
  if (old !== undefined) {
    throw new Dkms2binError(
      'usage',
      `Modules for ${old} cannot be signed: kernels before ${OLDEST.join('.')} use another form of signature`,
      { hint: 'Build for that kernel without --sign-key.' },
    );
  }
  return openSigner({
    ...{ key: signKey, cert: signCert, cwd, signal },
    ...(passphraseFile === undefined ? {} : { passphraseFile }),
    ...(askPassphrase ? { prompt: askPassphrase } : {}),
  });
}

/** SHA-256 of a certificate, hex: what coordinator and worker know it by. */
export async function fingerprintOf({ signCert, cwd }: BuildRequest): Promise<string | null> {
  if (signCert === undefined) return null;
  const path = resolve(cwd, signCert);
  return certificateFingerprint(readCertificate(await readCapped(path, 2 ** 20), path));
}

/** Who signs the provenance; null: nobody. Throws fault `usage` for a key that cannot be used. */
export async function attesterOf({ provenanceKey, cwd }: BuildRequest): Promise<AttestSigner | null> {
  if (provenanceKey === undefined) return null;
  const path = resolve(cwd, provenanceKey);
  return readSigner((await readCapped(path, 2 ** 20)).toString('latin1'), path);
}

function isTooOld(release: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map((part) => parseInt(part, 10));
  return major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1]);
}
