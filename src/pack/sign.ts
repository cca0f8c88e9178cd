import { createPrivateKey, type KeyObject, type X509Certificate } from 'node:crypto';
import { mkdtemp, open, readFile, rm, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { runBytes } from '../lib/exec.js';
import { findPassphrase, PASSPHRASE_HINT } from '../lib/passphrase.js';
import { plain } from '../lib/text.js';
import { isSelfSigned, keyIdOf, readCertificate } from '../formats/certificate.js';
import { SIGNATURE_HASHES } from '../formats/cms.js';
import { appendSignature, stripSignature, verifySignature } from './signature.js';

export interface SignerOptions {
  /** Private key: a PEM file, relative to `cwd`, or a `pkcs11:` URI without a PIN. */
  key: string;
  /** X.509 certificate of that key: a PEM or DER file, relative to `cwd`. */
  cert: string;
  cwd: string;
  signal: AbortSignal;
  /** File whose first line is the key's passphrase or the token's PIN, relative to `cwd`. */
  passphraseFile?: string;
  /** Asks a person, without showing what is typed; leave it out when nobody is there. */
  prompt?: (question: string) => Promise<string>;
}

/** Signs modules with one key. Holds the passphrase in memory, the key only while it is checked. */
export interface Signer {
  /** The certificate's common name, '' when it has none. */
  subject: string;
  /** What modinfo shows as sig_key: the certificate's serial number, `0A:1B:…`. */
  keyId: string;
  notAfter: Date;
  /** The same module gives the same bytes: RSA does, ECDSA draws a random number each time. */
  reproducible: boolean;
  /** The certificate, for verifySignature and provenance. */
  certPem: string;
  /**
   * The uncompressed module with its signature, in place of one that it may have. `hash` comes from signatureHash.
   * Throws fault `module` when it is no module, `usage` or `host` when the key or openssl fails.
   */
  sign(ko: Buffer, hash: string): Promise<Buffer>;
}

/** Above the largest signature by far. */
const MAX_CMS_BYTES = 1024 * 1024;

/**
 * Opens a key for signing and proves at once that it works: certificate in date, passphrase right, a trial signature that
 * the certificate verifies. Throws fault `usage` naming the file and the next step. Neither key nor passphrase reaches an
 * argument list, an environment, a log or an error.
 */
export async function openSigner(options: SignerOptions): Promise<Signer> {
  const { cwd, signal } = options;
  const certFile = resolve(cwd, options.cert);
  const cert = readCertificate(await read(certFile, 'certificate'), certFile);
  const notAfter = checkDates(cert, certFile);
  checkType(cert, certFile);
  const key = options.key.startsWith('pkcs11:')
    ? await tokenKey(options)
    : await fileKey(resolve(cwd, options.key), cert, certFile, options);

  const sign = async (ko: Buffer, hash: string): Promise<Buffer> => {
    const module = stripSignature(ko);
    return appendSignature(module, await cms({ module, hash, key, cert, certFile, signal }));
  };
  verifySignature(await sign(Buffer.from('trial'), 'sha256'), cert.raw);

  const { CN = '' } = cert.toLegacyObject().subject as { CN?: string | string[] };
  return {
    subject: plain([CN].flat()[0] ?? '').replace(/[\n\t]/g, ' '),
    keyId: keyIdOf(cert),
    notAfter,
    reproducible: cert.publicKey.asymmetricKeyType === 'rsa',
    certPem: cert.toString(),
    sign: async (ko, hash) => {
      // A compressed file can be signed, too, and no kernel would take it: the signature must be inside.
      if (ko.length < 4 || ko.readUInt32BE(0) !== 0x7f454c46) {
        throw new Dkms2binError('module', 'Only an uncompressed kernel module can be signed: no ELF header');
      }
      return sign(ko, hash);
    },
  };
}

/**
 * The hash that this kernel's own modules are signed with (CONFIG_MODULE_SIG_HASH), which it can verify for sure; sha256
 * when its configuration names none. Throws fault `usage` for one that is not known.
 */
export function signatureHash(configText: string): string {
  const hash = /^CONFIG_MODULE_SIG_HASH="(.*)"$/m.exec(configText)?.[1];
  if (hash === undefined || hash === '') return 'sha256';
  if (SIGNATURE_HASHES.includes(hash)) return hash;
  throw new Dkms2binError(
    'usage',
    `The kernel signs its modules with an unknown hash: ${plain(hash.slice(0, 40))}`,
    {
      hint: `Known are ${SIGNATURE_HASHES.join(', ')}.`,
    },
  );
}

/** PKCS#8, and the older form that OpenSSL calls traditional. */
const isEncrypted = (pem: Buffer): boolean =>
  /^-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED/m.test(pem.toString('latin1'));

/** Whether a key's file has a passphrase. Throws fault `usage` when it cannot be read. */
export const isEncryptedKey = async (file: string): Promise<boolean> => isEncrypted(await read(file, 'key'));

interface Key {
  /** How errors call it. */
  name: string;
  /** openssl's arguments that name the key, and nothing of what is in it. */
  args: readonly string[];
  passphrase: string | undefined;
}

async function fileKey(
  file: string,
  cert: X509Certificate,
  certFile: string,
  options: SignerOptions,
): Promise<Key> {
  const pem = await read(file, 'key');
  const passphrase = isEncrypted(pem) ? await passphraseOf(`the key ${file}`, options) : undefined;
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: pem, ...(passphrase !== undefined && { passphrase }) });
  } catch {
    // Without its cause: what a decoder says of a secret file is nobody's to read.
    throw passphrase === undefined
      ? new Dkms2binError('usage', `${file} is not a private key in PEM form`, {
          hint: 'Make a pair with dkms2bin keygen, or convert yours: openssl pkey -in KEY -out KEY.pem',
        })
      : new Dkms2binError('usage', `The passphrase does not open the key ${file}`, { hint: PASSPHRASE_HINT });
  }
  if (!cert.checkPrivateKey(key)) throw mismatch(file, certFile);
  return { name: file, args: ['-inkey', file], passphrase };
}

/** A key in a hardware token, through OpenSSL's engine `pkcs11`. */
async function tokenKey(options: SignerOptions): Promise<Key> {
  const { key } = options;
  if (/pin-(value|source)/i.test(key)) {
    throw new Dkms2binError('usage', 'A pkcs11: URI must not hold or name the PIN: others could read it', {
      hint: `Leave pin-value and pin-source out. ${PASSPHRASE_HINT}`,
    });
  }
  if (/[^\x21-\x7e]/.test(key)) {
    throw new Dkms2binError(
      'usage',
      'The pkcs11: URI holds a space or another character that must be written as %XX',
    );
  }
  return {
    name: key,
    args: ['-engine', 'pkcs11', '-keyform', 'engine', '-inkey', key],
    passphrase: await passphraseOf(`the token of ${key}`, options),
  };
}

async function passphraseOf(what: string, { passphraseFile, cwd, prompt }: SignerOptions): Promise<string> {
  const found = await findPassphrase(`Passphrase of ${what}: `, {
    cwd,
    ...(passphraseFile !== undefined && { file: passphraseFile }),
    ...(prompt && { prompt }),
  });
  if (found !== undefined) return found;
  throw new Dkms2binError('usage', `The passphrase of ${what} is missing`, { hint: PASSPHRASE_HINT });
}

/**
 * The detached signature, byte for byte what the kernel's scripts/sign-file.c makes; but a certificate that an authority vouches for
 * is in it, so that a kernel which knows the authority alone finds its way there.
 */
async function cms(of: {
  module: Buffer;
  hash: string;
  key: Key;
  cert: X509Certificate;
  certFile: string;
  signal: AbortSignal;
}): Promise<Buffer> {
  const { key } = of;
  const certificate = await unnamedFile(of.cert.toString());
  try {
    const form = '-binary -noattr -nosmimecap -outform DER'.split(' ');
    if (isSelfSigned(of.cert)) form.push('-nocerts');
    // The passphrase comes through a pipe: an environment stays readable in /proc for as long as the process lives.
    const [secret, passin] =
      key.passphrase === undefined ? [[], []] : [[Buffer.from(`${key.passphrase}\n`)], ['-passin', 'fd:4']];
    return await runBytes(
      'openssl',
      ['cms', '-sign', ...form, '-md', of.hash, '-signer', '/dev/fd/3', ...key.args, ...passin],
      {
        input: of.module,
        fds: [certificate.fd, ...secret],
        cancelSignal: of.signal,
        maxBytes: MAX_CMS_BYTES,
      },
    );
  } catch (error) {
    throw explain(error, of);
  } finally {
    await certificate.close();
  }
}

/** A file without a name, so that nothing is left behind. openssl opens it as /dev/fd/N, which it cannot do with a pipe of Node. */
async function unnamedFile(text: string): Promise<FileHandle> {
  const folder = await mkdtemp(join(tmpdir(), 'dkms2bin-sign-'));
  try {
    const file = await open(join(folder, 'cert.pem'), 'wx+', 0o600);
    await file.writeFile(text);
    return file;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** openssl's complaint in words that name the remedy. It quotes neither keys nor passphrases. */
function explain(error: unknown, { key, certFile }: { key: Key; certFile: string }): unknown {
  if (!(error instanceof Dkms2binError) || error.fault === 'interrupted') return error;
  const { message } = error;
  const token = key.args.includes('-engine');
  if (token && /could not load the shared library|no such engine|invalid engine/i.test(message)) {
    return new Dkms2binError('host', "openssl has no engine 'pkcs11' for keys in a token", {
      hint: 'Install it: sudo apt-get install libengine-pkcs11-openssl',
    });
  }
  if (/does not match certificate|key values mismatch/i.test(message)) return mismatch(key.name, certFile);
  if (token && /PIN incorrect/i.test(message)) {
    return new Dkms2binError('usage', `Wrong PIN for the token of ${key.name}`, {
      hint: `${PASSPHRASE_HINT} Most tokens lock after a few wrong PINs.`,
    });
  }
  if (token && /PIN locked/i.test(message)) {
    return new Dkms2binError('usage', `The token of ${key.name} is locked`, {
      hint: 'Unlock it with its security officer PIN.',
    });
  }
  if (token && /not found|Specify an engine|no slot|unable to load module/i.test(message)) {
    return new Dkms2binError('usage', `No private key at ${key.name}`, {
      hint: 'List what the token holds: p11tool --list-all --login URI. If p11-kit does not know its library, name it in PKCS11_MODULE_PATH.',
      cause: error,
    });
  }
  return error;
}

function checkDates(cert: X509Certificate, file: string): Date {
  const [notBefore, notAfter] = [new Date(cert.validFrom), new Date(cert.validTo)];
  const refuse = (why: string): Dkms2binError =>
    new Dkms2binError('usage', `The certificate ${file} ${why}`, {
      hint: 'Make a new pair with dkms2bin keygen, or check the clock of this host.',
    });
  if (notAfter.getTime() <= Date.now()) throw refuse(`expired on ${day(notAfter)}`);
  if (notBefore.getTime() > Date.now()) throw refuse(`is not valid before ${day(notBefore)}`);
  return notAfter;
}

const day = (date: Date): string => date.toISOString().slice(0, 10);

function checkType(cert: X509Certificate, file: string): void {
  const type = cert.publicKey.asymmetricKeyType;
  if (type === 'rsa' || type === 'ec') return;
  throw new Dkms2binError(
    'usage',
    `The certificate ${file} is of a key that kernels do not verify: ${type ?? 'unknown'}`,
    {
      hint: 'Use an RSA key; dkms2bin keygen makes one.',
    },
  );
}

function mismatch(key: string, certFile: string): Dkms2binError {
  return new Dkms2binError('usage', `The key ${key} does not belong to the certificate ${certFile}`, {
    hint: 'Give the two files of one pair.',
  });
}

async function read(file: string, what: string): Promise<Buffer> {
  return readFile(file).catch((error: NodeJS.ErrnoException) => {
    const why = READ_ERRORS[error.code ?? ''] ?? error.message;
    throw new Dkms2binError('usage', `Cannot read the ${what} ${file}: ${why}`, { cause: error });
  });
}

const READ_ERRORS: Partial<Record<string, string>> = {
  ENOENT: 'no such file',
  EACCES: 'permission denied',
};
