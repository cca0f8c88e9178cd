import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
  type KeyObject,
} from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { Dkms2binError } from '../../src/model/errors.js';
import {
  keyId,
  pae,
  payloadOf,
  readEnvelope,
  readPublicKey,
  readSigner,
  signEnvelope,
  verifyEnvelope,
} from '../../src/attest/dsse.js';

const TYPE = 'application/vnd.in-toto+json';
const BODY = Buffer.from('{"größe":1}');
const pem = (key: KeyObject): string =>
  key.export({ type: key.type === 'private' ? 'pkcs8' : 'spki', format: 'pem' }).toString();

const PAIRS: [
  name: string,
  digest: string | null,
  make: () => { privateKey: KeyObject; publicKey: KeyObject },
][] = [
  ['rsa', 'sha256', () => generateKeyPairSync('rsa', { modulusLength: 2048 })],
  ['P-256', 'sha256', () => generateKeyPairSync('ec', { namedCurve: 'P-256' })],
  ['P-384', 'sha384', () => generateKeyPairSync('ec', { namedCurve: 'P-384' })],
  ['P-521', 'sha512', () => generateKeyPairSync('ec', { namedCurve: 'P-521' })],
  ['ed25519', null, () => generateKeyPairSync('ed25519')],
];

describe('pae', () => {
  it("is the protocol's own example", () => {
    expect(pae('http://example.com/HelloWorld', Buffer.from('hello world')).toString()).toBe(
      'DSSEv1 29 http://example.com/HelloWorld 11 hello world',
    );
  });

  it('counts bytes, not characters', () => {
    expect(pae('ü', Buffer.from('é')).toString()).toBe('DSSEv1 2 ü 2 é');
  });

  it('verifies what another implementation signed', () => {
    // The protocol's test key (P-256). Its own signature is r and s as they are; here they are in DER.
    const hex = (decimal: string): string => BigInt(decimal).toString(16).padStart(64, '0');
    const base64 = (decimal: string): string => Buffer.from(hex(decimal), 'hex').toString('base64url');
    const key = createPrivateKey({
      format: 'jwk',
      key: {
        kty: 'EC',
        crv: 'P-256',
        x: base64('46950820868899156662930047687818585632848591499744589407958293238635476079160'),
        y: base64('5640078356564379163099075877009565129882514886557779369047442380624545832820'),
        d: base64('97358161215184420915383655311931858321456579547487070936769975997791359926199'),
      },
    });
    const raw = Buffer.from(
      'A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==',
      'base64',
    );
    const integer = (bytes: Buffer): Buffer => {
      const padded = (bytes[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.from([0]), bytes]) : bytes;
      return Buffer.concat([Buffer.from([2, padded.length]), padded]);
    };
    const body = Buffer.concat([integer(raw.subarray(0, 32)), integer(raw.subarray(32))]);
    const sig = Buffer.concat([Buffer.from([0x30, body.length]), body]).toString('base64');
    const envelope = {
      payload: 'aGVsbG8gd29ybGQ=',
      payloadType: 'http://example.com/HelloWorld',
      signatures: [{ sig }],
    };
    expect(verifyEnvelope(readEnvelope(envelope)!, createPublicKey(key))).toBe(true);
  });
});

describe.each(PAIRS)('%s', (name, digest, make) => {
  const { privateKey, publicKey } = make();
  const signer = readSigner(pem(privateKey), 'key.pem');
  const envelope = signEnvelope(TYPE, BODY, signer);

  it('signs the pre-authentication encoding, put together by hand', () => {
    expect(payloadOf(envelope)).toEqual(BODY);
    const byHand = Buffer.from(`DSSEv1 28 ${TYPE} 13 {"größe":1}`);
    const other = {
      ...envelope,
      signatures: [{ keyid: 'wrong', sig: sign(digest, byHand, privateKey).toString('base64url') }],
    };
    // A false hint and the other alphabet of base64 are no obstacles.
    expect(verifyEnvelope(readEnvelope(other)!, publicKey)).toBe(true);
    expect(verifyEnvelope(envelope, readPublicKey(pem(publicKey), 'pub.pem'))).toBe(true);
  });

  it('notices every change', () => {
    const changed = [
      { ...envelope, payload: Buffer.from('{"größe":2}').toString('base64') },
      { ...envelope, payloadType: 'application/json' },
      { ...envelope, signatures: [{ keyid: signer.keyid, sig: '' }] },
      { ...envelope, signatures: [{ keyid: signer.keyid, sig: Buffer.from(name).toString('base64') }] },
      // The body alone is not what is signed.
      { ...envelope, signatures: [{ keyid: '', sig: sign(digest, BODY, privateKey).toString('base64') }] },
    ];
    for (const each of changed) expect(verifyEnvelope(each, publicKey)).toBe(false);
    for (const [, , more] of PAIRS.slice(1)) expect(verifyEnvelope(envelope, more().publicKey)).toBe(false);
  });

  it('has the digest of the public key as its key id', () => {
    const der = publicKey.export({ type: 'spki', format: 'der' });
    expect(signer.keyid).toBe(createHash('sha256').update(der).digest('hex'));
    expect(keyId(publicKey)).toBe(signer.keyid);
  });
});

describe('keys that are refused', () => {
  const refused = (read: () => unknown): string => {
    try {
      read();
    } catch (error) {
      expect(error).toBeInstanceOf(Dkms2binError);
      expect((error as Dkms2binError).fault).toBe('usage');
      return (error as Dkms2binError).message;
    }
    return 'accepted';
  };

  it('says why', () => {
    expect(refused(() => readSigner('nonsense', 'k'))).toContain('k is not a private key in PEM form');
    expect(refused(() => readPublicKey('nonsense', 'k'))).toContain('k is not a public key in PEM form');
    const weak = generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey;
    expect(refused(() => readSigner(pem(weak), 'k'))).toContain('1024 bits, too weak');
    const curve = generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).privateKey;
    expect(refused(() => readSigner(pem(curve), 'k'))).toContain('k is a key of type ec secp256k1');
    const { privateKey, publicKey } = generateKeyPairSync('ed25519');
    expect(refused(() => readSigner(pem(publicKey), 'k'))).toContain('not a private key');
    expect(refused(() => readPublicKey(pem(privateKey), 'k'))).toContain('k is a private key');
    const locked = privateKey
      .export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'secret' })
      .toString();
    expect(refused(() => readSigner(locked, 'k'))).toContain('passphrase');
    expect(refused(() => readSigner(locked, 'k', 'wrong'))).toContain('passphrase');
    expect(readSigner(locked, 'k', 'secret').keyid).toBe(keyId(publicKey));
  });
});

it('an envelope is read strictly', () => {
  for (const value of [null, 1, {}, { payloadType: TYPE, payload: 'e30=', signatures: [] }]) {
    expect(readEnvelope(value)).toBeNull();
  }
  const bad = { payloadType: TYPE, payload: '{"a": 1}', signatures: [{ sig: 'e30=' }] };
  expect(readEnvelope(bad)).toBeNull();
  expect(readEnvelope({ ...bad, payload: 'e30=' })).not.toBeNull();
});
