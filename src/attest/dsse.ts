import { createHash, createPrivateKey, createPublicKey, sign, verify, type KeyObject } from 'node:crypto';
import { z } from 'zod';
import { Dkms2binError } from '../model/errors.js';

/** A DSSE envelope, https://github.com/secure-systems-lab/dsse/blob/master/envelope.md, as it is serialised. */
export interface Envelope {
  payloadType: string;
  /** Base64. */
  payload: string;
  signatures: { keyid: string; sig: string }[];
}

/** A private key that can sign. */
export interface Signer {
  key: KeyObject;
  keyid: string;
}

/**
 * What DSSE signs: the type and the body, each after its length in bytes, so that neither can flow into the other.
 * @internal
 */
export function pae(payloadType: string, body: Buffer): Buffer {
  const type = Buffer.from(payloadType);
  return Buffer.concat([Buffer.from(`DSSEv1 ${type.length} `), type, Buffer.from(` ${body.length} `), body]);
}

/**
 * Hex SHA-256 of the public key's DER (SubjectPublicKeyInfo): what `openssl pkey -pubout -outform DER | sha256sum` prints.
 * @internal
 */
export function keyId(key: KeyObject): string {
  const publicKey = key.type === 'private' ? createPublicKey(key) : key;
  return createHash('sha256')
    .update(publicKey.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

/** A signer from a private key in PEM; `name` is what errors call the key. Throws fault `usage`. */
export function readSigner(pem: string, name: string, passphrase?: string): Signer {
  const key = read(pem, name, 'private', () => createPrivateKey({ key: pem, format: 'pem', passphrase }));
  return { key, keyid: keyId(key) };
}

/** A public key in PEM, or the one of a certificate. Throws fault `usage`. */
export function readPublicKey(pem: string, name: string): KeyObject {
  if (/PRIVATE KEY-----/.test(pem)) {
    throw new Dkms2binError('usage', `${name} is a private key, and verifying takes the public one`, {
      hint: `openssl pkey -in ${name} -pubout`,
    });
  }
  return read(pem, name, 'public', () => createPublicKey({ key: pem, format: 'pem' }));
}

function read(pem: string, name: string, kind: 'private' | 'public', parse: () => KeyObject): KeyObject {
  let key: KeyObject;
  try {
    key = parse();
  } catch (error) {
    // OpenSSL has many words for it, and takes one wrong passphrase of 256 for the right one at first.
    const locked = /ENCRYPTED/.test(pem);
    throw new Dkms2binError(
      'usage',
      locked
        ? `${name} needs a passphrase, and it is missing or wrong`
        : `${name} is not a ${kind} key in PEM form`,
      { hint: 'RSA, ECDSA and Ed25519 keys can be used, such as openssl genpkey makes.', cause: error },
    );
  }
  digestFor(key, name);
  return key;
}

/** The digest that goes with a key: by the curve's size for ECDSA; Ed25519 has its own (null). Refuses weak and odd keys. */
function digestFor(key: KeyObject, name: string): 'sha256' | 'sha384' | 'sha512' | null {
  const { modulusLength = 0, namedCurve = '' } = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case 'ed25519':
      return null;
    case 'rsa':
      if (modulusLength >= 2048) return 'sha256';
      throw new Dkms2binError(
        'usage',
        `${name} is an RSA key of ${modulusLength} bits, too weak to sign with`,
        {
          hint: 'Make one with at least 2048 bits.',
        },
      );
    case 'ec':
      if (namedCurve === 'prime256v1') return 'sha256';
      if (namedCurve === 'secp384r1') return 'sha384';
      if (namedCurve === 'secp521r1') return 'sha512';
  }
  throw new Dkms2binError(
    'usage',
    `${name} is a key of type ${key.asymmetricKeyType ?? 'unknown'} ${namedCurve}`.trimEnd(),
    { hint: 'RSA, ECDSA (P-256, P-384, P-521) and Ed25519 keys can be used.' },
  );
}

/**
 * Signs a payload: RSA with PKCS #1 v1.5 and SHA-256, ECDSA in DER with the curve's digest, Ed25519 as it is.
 */
export function signEnvelope(payloadType: string, payload: Buffer, signer: Signer): Envelope {
  const sig = sign(digestFor(signer.key, 'The key'), pae(payloadType, payload), signer.key);
  return {
    payloadType,
    payload: payload.toString('base64'),
    signatures: [{ keyid: signer.keyid, sig: sig.toString('base64') }],
  };
}

const Base64 = z.string().regex(/^[A-Za-z0-9+/_-]*={0,2}$/);
const EnvelopeShape = z.object({
  payloadType: z.string(),
  payload: Base64,
  signatures: z.array(z.object({ keyid: z.string().default(''), sig: Base64 })).min(1),
});

/** An envelope from parsed JSON, null when it is none. */
export function readEnvelope(value: unknown): Envelope | null {
  return EnvelopeShape.safeParse(value).data ?? null;
}

/** The signed bytes; trust them only when `verifyEnvelope` says so. */
export function payloadOf(envelope: Envelope): Buffer {
  // Node reads both alphabets of base64, as the protocol asks.
  return Buffer.from(envelope.payload, 'base64');
}

/** Whether one of the signatures is this key's. The keyid is a hint that nobody signed, so every signature is tried. */
export function verifyEnvelope(envelope: Envelope, key: KeyObject): boolean {
  const digest = digestFor(key, 'The key');
  const signed = pae(envelope.payloadType, payloadOf(envelope));
  return envelope.signatures.some(({ sig }) => verify(digest, signed, key, Buffer.from(sig, 'base64')));
}
