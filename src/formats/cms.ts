import { Unreadable } from './bytes.js';
import { colons } from './certificate.js';
import {
  context,
  elements,
  INTEGER,
  OBJECT_ID,
  OCTET_STRING,
  SEQUENCE,
  sequenceIn,
  SET,
  valueIn,
} from './der.js';

/** The first signer of a CMS signature. */
export interface CmsSigner {
  /** Common name of the signing certificate's issuer as written, empty when it has none or is not named. */
  issuer: Buffer;
  /** Serial number of the signing certificate, or its subject key id: `0A:1B:…`. */
  keyId: string;
  /** Which of the two `keyId` is. */
  bySerial: boolean;
  /** As in CONFIG_MODULE_SIG_HASH: `sha256`. */
  hash: string;
  /** Whether it is attributes that are signed, and not the content itself. */
  hasAttributes: boolean;
  /** The signature proper. */
  value: Buffer;
}

/** Hashes that a kernel can be configured to sign its modules with, by the object identifier's bytes. */
const HASHES: Partial<Record<string, string>> = {
  '2b0e03021a': 'sha1',
  '608648016503040204': 'sha224',
  '608648016503040201': 'sha256',
  '608648016503040202': 'sha384',
  '608648016503040203': 'sha512',
  '608648016503040208': 'sha3-256',
  '608648016503040209': 'sha3-384',
  '60864801650304020a': 'sha3-512',
};
export const SIGNATURE_HASHES: readonly string[] = Object.values(HASHES).filter((each) => each !== undefined);

/** 1.2.840.113549.1.7.2 and 2.5.4.3. */
const SIGNED_DATA = '2a864886f70d010702';
const COMMON_NAME = '550403';
/** The content, or signed attributes. */
const CONTEXT_0 = context(0);
/** [0], primitive: a signer named by subject key id. */
const KEY_ID = 0x80;

/** The first signer of a CMS SignedData (RFC 5652, DER). Throws Unreadable. */
export function readCms(der: Buffer): CmsSigner {
  const [, id, algorithm, ...rest] = sequenceIn(signersOf(der));
  const value = rest.find((each) => each.tag === OCTET_STRING)?.value;
  if (id === undefined || algorithm === undefined || value === undefined) throw cutOff();
  const oid = valueIn(algorithm.value, OBJECT_ID).toString('hex');
  const hash = HASHES[oid];
  if (hash === undefined) throw new Unreadable(`unknown hash ${oid}`);
  const common = { hash, value, hasAttributes: rest[0]?.tag === CONTEXT_0 };
  if (id.tag === KEY_ID) {
    return { ...common, bySerial: false, issuer: Buffer.alloc(0), keyId: colons(id.value) };
  }
  const [issuer, serial] = elements(id.value);
  if (issuer?.tag !== SEQUENCE || serial?.tag !== INTEGER) throw cutOff();
  return {
    ...common,
    bySerial: true,
    issuer: commonName(issuer.value),
    keyId: colons(unsigned(serial.value)),
  };
}

/** The set of signers. */
function signersOf(der: Buffer): Buffer {
  const [contentType, wrapped] = sequenceIn(der);
  const signed = contentType?.tag === OBJECT_ID && contentType.value.toString('hex') === SIGNED_DATA;
  if (!signed || wrapped?.tag !== CONTEXT_0) throw new Unreadable('it is not a CMS signature');
  // After version come the hashes' set, the content, certificates and revocations, and last the signers' set.
  const signedData = sequenceIn(wrapped.value);
  const signers = signedData.at(-1);
  if (signedData.length < 4 || signers?.tag !== SET) throw new Unreadable('it has no signer');
  return signers.value;
}

/** A leading zero byte only keeps the number positive. */
const unsigned = (number: Buffer): Buffer =>
  number.length > 1 && number[0] === 0 ? number.subarray(1) : number;

function commonName(name: Buffer): Buffer {
  for (const relative of elements(name)) {
    for (const pair of elements(relative.value)) {
      const [type, value] = elements(pair.value);
      if (type?.value.toString('hex') === COMMON_NAME && value !== undefined) return value.value;
    }
  }
  return Buffer.alloc(0);
}

const cutOff = (): Unreadable => new Unreadable('its signer is cut off');
