import { X509Certificate } from 'node:crypto';
import { chmod, link, lstat, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { run } from '../lib/exec.js';
import { syncPath } from '../lib/atomic-write.js';
import { keyIdOf } from '../formats/certificate.js';

export interface KeygenOptions {
  /** Made when it is missing. */
  outDir: string;
  /** Common name, by which people tell keys apart. */
  name: string;
  days: number;
  /** Encrypts the key file. */
  passphrase?: string;
  signal?: AbortSignal;
}

export interface KeyPair {
  /** Private key, PEM, mode 0600. */
  key: string;
  /** Certificate, PEM, and the same in DER for mokutil. */
  cert: string;
  der: string;
  keyId: string;
  notAfter: Date;
}

/**
 * What shim, mokutil and the kernel ask of a key for modules. 1.3.6.1.4.1.2312.16.1.2 is shim's "kernel modules only": a
 * firmware that trusts this certificate does not boot what it signed.
 */
const CONFIG = `[req]
prompt = no
distinguished_name = subject
x509_extensions = extensions
string_mask = utf8only
[subject]
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = digitalSignature
extendedKeyUsage = codeSigning,1.3.6.1.4.1.2312.16.1.2
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
`;

/**
 * Makes an RSA 2048 key (the size that every shim and kernel takes) and its self-signed certificate: `mok.key`, `mok.pem`
 * and `mok.der` in outDir, all or none. Throws fault `usage` when one of them is there already.
 */
export async function makeKeyPair({
  outDir,
  name,
  days,
  passphrase,
  signal,
}: KeygenOptions): Promise<KeyPair> {
  // RFC 5280's upper bound of a common name; the rest would end up in logs and on the screen at boot.
  if (name.trim() === '' || /[\x00-\x1f\x7f-\x9f]/.test(name) || [...name].length > 64) {
    throw new Dkms2binError('usage', `Not a name for a certificate: ${JSON.stringify(name)}`, {
      hint: 'Give 1 to 64 printable characters.',
    });
  }
  const pair = { key: join(outDir, 'mok.key'), cert: join(outDir, 'mok.pem'), der: join(outDir, 'mok.der') };
  for (const file of Object.values(pair)) {
    if (await lstat(file).catch(() => null)) throw exists(file);
  }
  const folder = await scratch(outDir);
  try {
    const made = { key: join(folder, 'key'), cert: join(folder, 'cert'), der: join(folder, 'der') };
    const config = join(folder, 'openssl.cnf');
    await writeFile(config, CONFIG);
    // -subj takes / and + for separators.
    const subject = `/CN=${name.replace(/[\\/+]/g, '\\$&')}`;
    const secret = passphrase === undefined ? ['-nodes'] : ['-passout', 'fd:3'];
    await run(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'rsa:2048', '-sha256', '-utf8', '-batch', '-config', config],
        ...['-subj', subject, '-days', String(days), '-keyout', made.key, '-out', made.cert, ...secret],
      ],
      {
        ...(passphrase !== undefined && { fds: [Buffer.from(`${passphrase}\n`)] }),
        ...(signal && { cancelSignal: signal }),
      },
    );
    const cert = new X509Certificate(await readFile(made.cert));
    await writeFile(made.der, cert.raw);
    await chmod(made.key, 0o600);
    for (const file of [made.cert, made.der]) await chmod(file, 0o644);
    await place([
      [made.key, pair.key],
      [made.cert, pair.cert],
      [made.der, pair.der],
    ]);
    return { ...pair, keyId: keyIdOf(cert), notAfter: new Date(cert.validTo) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A folder beside the targets, for this user only. */
async function scratch(outDir: string): Promise<string> {
  try {
    await mkdir(outDir, { recursive: true });
    return await mkdtemp(join(outDir, '.dkms2bin-keygen-'));
  } catch (error) {
    throw new Dkms2binError('usage', `Cannot write to ${outDir}: ${messageOf(error)}`, { cause: error });
  }
}

/** Gives finished files their names. A link, unlike a rename, never replaces what another process has put there since. */
async function place(files: readonly (readonly [from: string, to: string])[]): Promise<void> {
  const placed: string[] = [];
  for (const [from, to] of files) {
    try {
      await syncPath(from);
      await link(from, to);
      placed.push(to);
    } catch (error) {
      for (const file of placed) await rm(file, { force: true });
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw exists(to);
      throw new Dkms2binError('usage', `Cannot write ${to}: ${messageOf(error)}`, { cause: error });
    }
  }
}

function exists(file: string): Dkms2binError {
  return new Dkms2binError('usage', `${file} already exists`, {
    hint: 'A key that machines trust must not be lost: move it away, or choose another --out-dir.',
  });
}
