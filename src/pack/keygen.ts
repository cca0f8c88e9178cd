import { randomBytes, X509Certificate } from 'node:crypto';
import { chmod, link, lstat, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { run } from '../lib/exec.js';
import { syncPath } from '../lib/atomic-write.js';
import { keyIdOf, readCertificate } from '../formats/certificate.js';
import { makeFolder } from '../lib/make-folder.js';

export interface KeygenOptions {
  /** Made when it is missing. */
  outDir: string;
  /** Common name, by which people tell keys apart. */
  name: string;
  days: number;
  /** An authority, a key under one, or (by default) a key whose own certificate machines enrol. */
  kind?: 'self-signed' | 'authority' | { under: Authority };
  /** Encrypts the key file. */
  passphrase?: string;
  signal?: AbortSignal;
}

/** Who vouches for a new key. */
export interface Authority {
  /** PEM files. */
  key: string;
  cert: string;
  passphrase?: string;
}

export interface KeyPair {
  /** Private key, PEM, mode 0600. */
  key: string;
  /** Certificate, PEM, and the same in DER for mokutil; a key under an authority is not enrolled and has none. */
  cert: string;
  der: string | null;
  keyId: string;
  notAfter: Date;
}

/**
 * What shim, mokutil and the kernel ask of a key for modules. 1.3.6.1.4.1.2312.16.1.2 is shim's "kernel modules only": a
 * firmware that trusts this certificate does not boot what it signed.
 */
const PURPOSE = 'extendedKeyUsage = codeSigning,1.3.6.1.4.1.2312.16.1.2';
const SIGNS = `basicConstraints = critical,CA:FALSE
keyUsage = digitalSignature`;
/**
 * A kernel with CONFIG_INTEGRITY_CA_MACHINE_KEYRING_MAX (Fedora) trusts a machine owner's certificate with modules only when it is an
 * authority's that may sign certificates and nothing else.
 */
const CERTIFIES = `basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign`;

const config = (usage: string): string => `[req]
prompt = no
distinguished_name = subject
x509_extensions = extensions
string_mask = utf8only
[subject]
[extensions]
${usage}
${PURPOSE}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
`;

const NAMES = { 'self-signed': 'mok', authority: 'ca', under: 'leaf' } as const;

/**
 * Makes an RSA 2048 key (the size that every shim and kernel takes) and its certificate, all files or none: `mok.key`, `mok.pem`,
 * `mok.der` in outDir, of an authority `ca.…`, under one `leaf.key` and `leaf.pem`. Throws fault `usage` when one of them is
 * there already, and for an authority that is none.
 */
export async function makeKeyPair(options: KeygenOptions): Promise<KeyPair> {
  const { outDir, name, kind = 'self-signed' } = options;
  // RFC 5280's upper bound of a common name; the rest would end up in logs and on the screen at boot.
  if (name.trim() === '' || /[\x00-\x1f\x7f-\x9f]/.test(name) || [...name].length > 64) {
    throw new Dkms2binError('usage', `Not a name for a certificate: ${JSON.stringify(name)}`, {
      hint: 'Give 1 to 64 printable characters.',
    });
  }
  const base = join(outDir, NAMES[typeof kind === 'string' ? kind : 'under']);
  const pair = {
    key: `${base}.key`,
    cert: `${base}.pem`,
    der: typeof kind === 'string' ? `${base}.der` : null,
  };
  for (const file of [pair.key, pair.cert, pair.der]) {
    if (file !== null && (await lstat(file).catch(() => null))) throw exists(file);
  }
  const folder = await scratch(outDir);
  try {
    const made = { key: join(folder, 'key'), cert: join(folder, 'cert'), der: join(folder, 'der') };
    await (typeof kind === 'string'
      ? selfSigned(made, options, kind === 'authority' ? CERTIFIES : SIGNS)
      : signedBy(kind.under, made, options));
    const cert = new X509Certificate(await readFile(made.cert));
    await writeFile(made.der, cert.raw);
    await chmod(made.key, 0o600);
    for (const file of [made.cert, made.der]) await chmod(file, 0o644);
    await place([
      [made.key, pair.key],
      [made.cert, pair.cert],
      ...(pair.der === null ? [] : ([[made.der, pair.der]] as const)),
    ]);
    return { ...pair, keyId: keyIdOf(cert), notAfter: new Date(cert.validTo) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface Made {
  key: string;
  cert: string;
}

// -subj takes / and + for separators.
const subjectOf = (name: string): string => `/CN=${name.replace(/[\\/+]/g, '\\$&')}`;

/** The new key, and what openssl makes of it. */
async function openssl(
  args: readonly string[],
  made: Made,
  { name, passphrase, signal }: KeygenOptions,
): Promise<void> {
  const secret = passphrase === undefined ? ['-nodes'] : ['-passout', 'fd:3'];
  await run(
    'openssl',
    [
      ...['req', ...args, '-newkey', 'rsa:2048', '-sha256', '-utf8', '-batch'],
      ...['-subj', subjectOf(name), '-keyout', made.key, '-out', made.cert, ...secret],
    ],
    {
      ...(passphrase !== undefined && { fds: [Buffer.from(`${passphrase}\n`)] }),
      ...(signal && { cancelSignal: signal }),
    },
  );
}

async function selfSigned(made: Made, options: KeygenOptions, usage: string): Promise<void> {
  const file = `${made.cert}.cnf`;
  await writeFile(file, config(usage));
  await openssl(['-x509', '-config', file, '-days', String(options.days)], made, options);
}

async function signedBy(authority: Authority, made: Made, options: KeygenOptions): Promise<void> {
  const { days, signal } = options;
  const issuer = readCertificate(await readFile(authority.cert), authority.cert);
  const until = new Date(issuer.validTo);
  if (!issuer.ca) {
    throw new Dkms2binError('usage', `The certificate ${authority.cert} is no authority's`, {
      hint: 'Make one with dkms2bin keygen --ca.',
    });
  }
  if (Date.now() + days * 86_400_000 > until.getTime()) {
    const last = until.toISOString().slice(0, 10);
    throw new Dkms2binError('usage', `The authority ${authority.cert} ends before that, on ${last}`, {
      hint: 'Give fewer --days, or make a new authority with dkms2bin keygen --ca and enrol it.',
    });
  }
  const [file, request] = [`${made.cert}.cnf`, `${made.cert}.csr`];
  await writeFile(file, config(SIGNS));
  await openssl(['-config', file], { ...made, cert: request }, options);
  // A positive number of 16 bytes that no other key of the authority has.
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  const { passphrase } = authority;
  const secret = passphrase === undefined ? [] : ['-passin', 'fd:3'];
  await run(
    'openssl',
    [
      ...['x509', '-req', '-in', request, '-sha256', '-days', String(days), '-out', made.cert],
      ...['-CA', authority.cert, '-CAkey', authority.key, '-set_serial', `0x${serial.toString('hex')}`],
      ...['-extfile', file, '-extensions', 'extensions', ...secret],
    ],
    {
      ...(passphrase !== undefined && { fds: [Buffer.from(`${passphrase}\n`)] }),
      ...(signal && { cancelSignal: signal }),
    },
  );
}

/** A folder beside the targets, for this user only. */
async function scratch(outDir: string): Promise<string> {
  try {
    await makeFolder(outDir);
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
