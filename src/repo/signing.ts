import { readFile, stat } from 'node:fs/promises';
import * as openpgp from 'openpgp';
import { Dkms2binError, messageOf } from '../model/errors.js';

/** Where the passphrase of a key may come from. */
export interface Passphrase {
  /** Of DKMS2BIN_REPO_PASSPHRASE, when that is set. */
  passphrase?: string | undefined;
  /** Asks a person; null when nobody can be asked. */
  ask?: ((question: string) => Promise<string | null>) | undefined;
}

/** An unlocked OpenPGP key. The secret stays inside; only the public part can be read. */
export interface SigningKey {
  /** The file that it came from. */
  readonly file: string;
  /** Of the primary key, as gpg prints it: 40 hexadecimal digits. */
  readonly fingerprint: string;
  /** Armored, for clients' Signed-By. */
  readonly publicKey: string;
  /** The text in a cleartext signature (InRelease). */
  clearSign(text: string): Promise<string>;
  /** An armored signature over the text (Release.gpg, repomd.xml.asc). */
  detachSign(text: string): Promise<string>;
  /** Whether `message` is what `clearSign` of this key makes of `text`. */
  isClearSigned(message: string, text: string): Promise<boolean>;
  isDetachSigned(signature: string, text: string): Promise<boolean>;
}

const MAX_KEY_BYTES = 1 << 20;
const CONFIG = {
  preferredHashAlgorithm: openpgp.enums.hash.sha512,
  showVersion: false,
  showComment: false,
} as const;

/**
 * Reads and unlocks an OpenPGP secret key, armored or binary, as `gpg --export-secret-keys` writes it. Throws fault
 * `usage` when the file holds no key that can sign now, or when the passphrase is missing or wrong.
 */
export async function loadSigningKey(file: string, secret: Passphrase = {}): Promise<SigningKey> {
  const key = await readSecretKey(file);
  const unlocked = await unlock(key, file, secret);
  const publicKey = unlocked.toPublic();
  const armored = publicKey.armor({ ...openpgp.config, ...CONFIG });
  return {
    file,
    fingerprint: unlocked.getFingerprint().toUpperCase(),
    publicKey: armored.replaceAll('\r\n', '\n'),
    clearSign: async (text) => {
      // The last line break stands before the signature's armor and is not part of what is signed.
      const message = await openpgp.createCleartextMessage({ text: text.replace(/\n$/, '') });
      const signed = await openpgp.sign({ message, signingKeys: unlocked, config: CONFIG });
      return signed.replaceAll('\r\n', '\n');
    },
    detachSign: async (text) => {
      const message = await openpgp.createMessage({ binary: new TextEncoder().encode(text) });
      const options = { message, signingKeys: unlocked, detached: true, config: CONFIG };
      const signed = (await openpgp.sign(options)) as string;
      return signed.replaceAll('\r\n', '\n');
    },
    isClearSigned: async (cleartextMessage, text) => {
      try {
        const message = await openpgp.readCleartextMessage({ cleartextMessage });
        const { signatures } = await openpgp.verify({ message, verificationKeys: publicKey });
        return message.getText() === text.replace(/\n$/, '') && (await signatures[0]?.verified) === true;
      } catch {
        return false;
      }
    },
    isDetachSigned: async (armoredSignature, text) => {
      try {
        const message = await openpgp.createMessage({ binary: new TextEncoder().encode(text) });
        const signature = await openpgp.readSignature({ armoredSignature });
        const { signatures } = await openpgp.verify({ message, signature, verificationKeys: publicKey });
        return (await signatures[0]?.verified) === true;
      } catch {
        return false;
      }
    },
  };
}

async function readSecretKey(file: string): Promise<openpgp.PrivateKey> {
  const bad = (why: string, hint: string, cause?: unknown): Dkms2binError =>
    new Dkms2binError('usage', `${file} cannot be used for signing: ${why}`, { hint, cause });
  const exporting = 'Export one: gpg --export-secret-keys --armor KEY > FILE';
  let bytes: Buffer;
  try {
    if ((await stat(file)).size > MAX_KEY_BYTES) throw bad('too large for a key', exporting);
    bytes = await readFile(file);
  } catch (error) {
    if (error instanceof Dkms2binError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const why =
      { ENOENT: 'no such file', EISDIR: 'a folder', EACCES: 'permission denied' }[code ?? ''] ?? message;
    throw new Dkms2binError('usage', `Cannot read the key ${file}: ${why}`, { cause: error });
  }
  const text = bytes.toString('latin1');
  let keys: openpgp.Key[];
  try {
    keys = /-----BEGIN PGP/.test(text)
      ? await openpgp.readKeys({ armoredKeys: text })
      : await openpgp.readKeys({ binaryKeys: bytes });
  } catch (error) {
    throw bad(`not an OpenPGP key (${messageOf(error)})`, exporting, error);
  }
  const [key] = keys;
  if (!key || keys.length > 1) throw bad(`it holds ${keys.length} keys`, exporting);
  if (!key.isPrivate()) throw bad('it holds the public part only', exporting);
  // gpgv, and so apt, knows no later version.
  if (key.keyPacket.version !== 4) {
    throw bad(
      `it has OpenPGP version ${key.keyPacket.version}`,
      'Use a version 4 key, which gpg makes by default.',
    );
  }
  const expires = await key.getExpirationTime().catch(() => null);
  if (expires instanceof Date && expires.getTime() <= Date.now()) {
    throw bad(
      `it expired on ${expires.toISOString().slice(0, 10)}`,
      'Give it a new date (gpg --quick-set-expire FINGERPRINT 2y) and export it again; clients need its new public part.',
    );
  }
  return key;
}

async function unlock(
  key: openpgp.PrivateKey,
  file: string,
  secret: Passphrase,
): Promise<openpgp.PrivateKey> {
  let signer: openpgp.PrivateKey | openpgp.Subkey;
  try {
    if (await key.isRevoked()) throw new Error('it is revoked');
    signer = await key.getSigningKey();
  } catch (error) {
    throw new Dkms2binError('usage', `${file} cannot be used for signing: ${messageOf(error)}`, {
      hint: 'It needs a primary key or a subkey that may sign, is neither expired nor revoked, and is of a kind still held to be safe (RSA of 2048 bits or more, Ed25519, ECDSA).',
      cause: error,
    });
  }
  const packet = signer.keyPacket as openpgp.SecretKeyPacket | openpgp.SecretSubkeyPacket;
  if (packet.isDummy()) {
    throw new Dkms2binError(
      'usage',
      `${file} cannot be used for signing: its secret part is not in the file`,
      {
        hint: 'It may be on a smartcard, or was exported without it.',
      },
    );
  }
  if (packet.isDecrypted()) return key;
  const passphrase =
    secret.passphrase ?? (await secret.ask?.(`Passphrase of the repository key ${file}: `)) ?? null;
  const variable = 'Set DKMS2BIN_REPO_PASSPHRASE to it, or run the command on a terminal to be asked.';
  if (passphrase === null || passphrase === '') {
    throw new Dkms2binError('usage', `The key ${file} needs its passphrase`, { hint: variable });
  }
  try {
    return await openpgp.decryptKey({ privateKey: key, passphrase });
  } catch (error) {
    const wrong = /incorrect key passphrase/i.test(messageOf(error));
    throw new Dkms2binError(
      'usage',
      wrong ? `Wrong passphrase for the key ${file}` : `Cannot unlock the key ${file}: ${messageOf(error)}`,
      { hint: variable, cause: error },
    );
  }
}
