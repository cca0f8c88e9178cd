import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as openpgp from 'openpgp';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { writeAtomic } from '../lib/atomic-write.js';

export interface PinnedKey {
  /** Full fingerprint of the primary key, upper-case hex. */
  fingerprint: string;
  /** Public keys, armored or not, the pinned one among them. */
  keys: Uint8Array;
  /** What errors call the key's file. */
  file: string;
}

/** Checks a detached signature, armored or binary, over `data`. */
export async function verifyDetached(
  data: Uint8Array,
  signature: Uint8Array,
  pinned: PinnedKey,
  what: string,
): Promise<void> {
  const key = await pinnedKey(pinned);
  const parsed = await refuseUnreadable(what, async () => {
    const text = Buffer.from(signature).toString('latin1');
    return text.trimStart().startsWith('-----BEGIN PGP')
      ? openpgp.readSignature({ armoredSignature: text })
      : openpgp.readSignature({ binarySignature: signature });
  });
  const message = await openpgp.createMessage({ binary: data });
  const { signatures } = await openpgp.verify({
    message,
    signature: parsed,
    verificationKeys: key,
    format: 'binary',
  });
  await requireGood(signatures, pinned, what);
}

/** Checks a clearsigned text and resolves to what was signed: nothing around the signed part is let through. */
export async function verifyClearsigned(text: string, pinned: PinnedKey, what: string): Promise<string> {
  const key = await pinnedKey(pinned);
  if (!text.includes('-----BEGIN PGP SIGNED MESSAGE-----')) {
    throw new Dkms2binError('transient', `${what} is not signed: no clearsigned text in it`);
  }
  const message = await refuseUnreadable(what, () =>
    openpgp.readCleartextMessage({ cleartextMessage: text }),
  );
  const { signatures, data } = await openpgp.verify({ message, verificationKeys: key });
  await requireGood(signatures, pinned, what);
  return data;
}

/** A key that is pinned by its fingerprint, and where it can be had. */
export interface KeySource {
  keyFingerprint: string;
  keyFile?: string | undefined;
  keyUrl?: string | undefined;
}

/**
 * The key that `of` pins: from its file, or from its URL, kept in the folder `dir`. Where it comes from does not matter, since
 * what is not of the pinned fingerprint is refused.
 */
export async function keyOf(
  of: string,
  { keyFingerprint, keyFile, keyUrl }: KeySource,
  dir: string,
  get: (url: string) => Promise<Buffer>,
): Promise<PinnedKey> {
  const kept = join(dir, `${keyFingerprint}.key`);
  const file = keyFile ?? kept;
  try {
    return { fingerprint: keyFingerprint, file, keys: await readFile(file) };
  } catch (error) {
    if (keyUrl === undefined) {
      throw new Dkms2binError('host', `The key of ${of} cannot be read: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }
  const pinned = { fingerprint: keyFingerprint, file: keyUrl, keys: await get(keyUrl) };
  await pinnedKey(pinned);
  await writeAtomic(pinned.keys, kept);
  return pinned;
}

/** The fingerprint of the one public key in `keys`. Throws fault `usage` for none, and for several. */
export async function fingerprintOf(keys: Uint8Array, what: string): Promise<string> {
  const text = Buffer.from(keys).toString('latin1');
  const found = await (
    text.trimStart().startsWith('-----BEGIN PGP')
      ? openpgp.readKeys({ armoredKeys: text })
      : openpgp.readKeys({ binaryKeys: keys })
  ).catch(() => []);
  const [key, ...others] = found;
  if (key && others.length === 0) return key.getFingerprint().toUpperCase();
  throw new Dkms2binError('usage', `${what}: it holds ${found.length} public keys`, {
    hint: 'Export the one that signs: gpg --export --armor FINGERPRINT.',
  });
}

/** A public key as gpgv and apt read it, and as rpm does. */
export interface Keyring {
  binary: Uint8Array;
  armored: string;
}

/** The pinned key alone. */
export async function keyringOf(pinned: PinnedKey): Promise<Keyring> {
  const key = await pinnedKey(pinned);
  return { binary: key.write(), armored: key.armor() };
}

async function pinnedKey(pinned: PinnedKey): Promise<openpgp.PublicKey> {
  let keys: openpgp.PublicKey[];
  try {
    const text = Buffer.from(pinned.keys).toString('latin1');
    keys = await (text.trimStart().startsWith('-----BEGIN PGP')
      ? openpgp.readKeys({ armoredKeys: text })
      : openpgp.readKeys({ binaryKeys: pinned.keys }));
  } catch (error) {
    throw new Dkms2binError('host', `${pinned.file} is not a public key: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const key = keys.find((k) => k.getFingerprint().toUpperCase() === pinned.fingerprint.toUpperCase());
  if (key) return key.toPublic();
  const held = keys.map((k) => k.getFingerprint().toUpperCase()).join(', ');
  throw new Dkms2binError(
    'host',
    `${pinned.file} holds ${held || 'no key'}, not the pinned key ${pinned.fingerprint}`,
  );
}

async function refuseUnreadable<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new Dkms2binError('transient', `The signature of ${what} cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** One good signature by the pinned key is enough: distros sign with the old and the new key while they change. */
async function requireGood(
  signatures: openpgp.VerifyMessageResult['signatures'],
  pinned: PinnedKey,
  what: string,
): Promise<void> {
  const reasons: string[] = [];
  for (const signature of signatures) {
    try {
      await signature.verified;
      return;
    } catch (error) {
      reasons.push(`key ${signature.keyID.toHex().toUpperCase()}: ${messageOf(error)}`);
    }
  }
  throw new Dkms2binError(
    'transient',
    `${what} has no valid signature by ${pinned.fingerprint}${reasons.length ? ` (${reasons.join('; ')})` : ''}`,
    {
      hint: 'The mirror may be half way through an update: try again later. If it stays so, do not trust the mirror.',
    },
  );
}
