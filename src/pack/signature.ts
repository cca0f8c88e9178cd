import { verify } from 'node:crypto';
import { Dkms2binError } from '../model/errors.js';
import { plain } from '../lib/text.js';
import {
  colons,
  elements,
  first,
  INTEGER,
  keyIdOf,
  OCTET_STRING,
  readCertificate,
  SEQUENCE,
} from '../formats/certificate.js';
import { SIGNATURE_MAGIC } from '../formats/elf.js';

/** A signature that is appended to a module, as `modinfo` shows it. Texts are stripped of control bytes. */
export interface ModuleSignature {
  /** Common name of the signing certificate's issuer, '' when it has none (modinfo: signer). */
  signer: string;
  /** Serial number of the signing certificate, or its subject key id: `0A:1B:…` (modinfo: sig_key). */
  keyId: string;
  /** As in CONFIG_MODULE_SIG_HASH: `sha256` (modinfo: sig_hashalgo). */
  hash: string;
}

const MAGIC = Buffer.from(SIGNATURE_MAGIC);
/** struct module_signature: algo, hash, id_type, signer_len, key_id_len, 3 bytes of padding, sig_len (big endian). */
const TRAILER = 12;
const PKEY_ID_PKCS7 = 2;
/** Hashes of the form before Linux 4.3, by number. */
const OLD_HASHES = ['md4', 'md5', 'sha1', 'rmd160', 'sha256', 'sha384', 'sha512', 'sha224'];

/** Hashes that a kernel can be configured to sign its modules with, by the object identifier's bytes. */
const HASHES: Record<string, string> = {
  '2b0e03021a': 'sha1',
  '608648016503040204': 'sha224',
  '608648016503040201': 'sha256',
  '608648016503040202': 'sha384',
  '608648016503040203': 'sha512',
  '608648016503040208': 'sha3-256',
  '608648016503040209': 'sha3-384',
  '60864801650304020a': 'sha3-512',
};
export const SIGNATURE_HASHES: readonly string[] = Object.values(HASHES);

const SIGNED_DATA = '2a864886f70d010702';
const COMMON_NAME = '550403';

/** The module with a CMS signature (DER) of it appended, in the form that the kernel's scripts/sign-file.c writes. */
export function appendSignature(module: Buffer, cms: Buffer): Buffer {
  const trailer = Buffer.alloc(TRAILER);
  trailer[2] = PKEY_ID_PKCS7;
  trailer.writeUInt32BE(cms.length, 8);
  return Buffer.concat([module, cms, trailer, MAGIC]);
}

/** The module without its signatures; itself when it has none. Throws fault `module` for a damaged signature. */
export function stripSignature(ko: Buffer): Buffer {
  let module = ko;
  for (let signed = split(module); signed !== null; signed = split(module)) module = signed.module;
  return module;
}

/** Describes the signature without verifying it; null when there is none. Throws fault `module` for a damaged one. */
export function readSignature(ko: Buffer): ModuleSignature | null {
  const signed = split(ko);
  if (signed === null) return null;
  if (signed.type === PKEY_ID_PKCS7) {
    const { signer, keyId, hash } = parseCms(signed.signature);
    return { signer, keyId, hash };
  }
  return {
    signer: oneLine(signed.signer),
    keyId: colons(signed.keyId),
    hash: OLD_HASHES[signed.hash] ?? `hash-${signed.hash}`,
  };
}

/**
 * Checks the signature against one certificate (PEM or DER), as the kernel does: neither its dates nor who issued it
 * count. Throws fault `module` when it is missing, damaged, made with another key, or not of these bytes.
 */
export function verifySignature(ko: Buffer, certificate: string | Buffer): ModuleSignature {
  const signed = split(ko);
  if (signed === null) throw bad('the module is not signed');
  if (signed.type !== PKEY_ID_PKCS7) throw bad('it is of the form before Linux 4.3');
  const cms = parseCms(signed.signature);
  const cert = readCertificate(certificate, 'The certificate');
  if (cms.bySerial && cms.keyId !== keyIdOf(cert)) {
    throw bad(`it was made with key ${cms.keyId}, not with ${keyIdOf(cert)}`);
  }
  if (cms.hasAttributes) throw bad('it has attributes, which the kernel does not write');
  if (!verify(cms.hash, signed.module, cert.publicKey, cms.value)) {
    throw bad('it does not match the module and the certificate');
  }
  return { signer: cms.signer, keyId: cms.keyId, hash: cms.hash };
}

function bad(why: string): Dkms2binError {
  return new Dkms2binError('module', `The module's signature cannot be used: ${why}`);
}

const oneLine = (bytes: Buffer): string => plain(bytes.toString('utf8')).replace(/[\n\t]/g, ' ');

interface Signed {
  module: Buffer;
  type: number;
  hash: number;
  signer: Buffer;
  keyId: Buffer;
  signature: Buffer;
}

/** Module, signer's name, key id, signature, trailer, magic; names and ids are empty in a CMS signature's trailer. */
function split(ko: Buffer): Signed | null {
  if (!ko.subarray(-MAGIC.length).equals(MAGIC)) return null;
  const at = ko.length - MAGIC.length - TRAILER;
  if (at < 0) throw bad('it is cut off');
  const trailer = ko.subarray(at, at + TRAILER);
  const [, hash = 0, type = 0, signerLength = 0, keyLength = 0] = trailer;
  const end = at - trailer.readUInt32BE(8);
  const start = end - keyLength - signerLength;
  if (start < 0 || end === at) throw bad('its length is wrong');
  if (type > PKEY_ID_PKCS7) throw bad(`unknown form ${type}`);
  return {
    module: ko.subarray(0, start),
    type,
    hash,
    signer: ko.subarray(start, start + signerLength),
    keyId: ko.subarray(start + signerLength, end),
    signature: ko.subarray(end, at),
  };
}

interface Cms extends ModuleSignature {
  bySerial: boolean;
  hasAttributes: boolean;
  value: Buffer;
}

const OBJECT_ID = 0x06;
const SET = 0x31;
/** Context-specific [0], constructed: the content, or signed attributes. */
const CONTEXT_0 = 0xa0;
/** Context-specific [0], primitive: a signer named by subject key id. */
const KEY_ID = 0x80;

/** The first signer of a CMS SignedData (RFC 5652, DER). */
function parseCms(der: Buffer): Cms {
  const [contentType, wrapped] = elements(first(elements(der), SEQUENCE).value);
  if (contentType?.tag !== OBJECT_ID || contentType.value.toString('hex') !== SIGNED_DATA) {
    throw bad('it is no CMS signature');
  }
  if (wrapped?.tag !== CONTEXT_0) throw bad('it is no CMS signature');
  const signedData = elements(first(elements(wrapped.value), SEQUENCE).value);
  // After version come the hashes' set, the content, certificates and revocations, and last the signers' set.
  const signers = signedData.at(-1);
  if (signedData.length < 4 || signers?.tag !== SET) throw bad('it has no signer');
  const [, id, algorithm, ...rest] = elements(first(elements(signers.value), SEQUENCE).value);
  if (id === undefined || algorithm === undefined) throw bad('its signer is cut off');
  const oid = first(elements(algorithm.value), OBJECT_ID).value.toString('hex');
  const hash = HASHES[oid];
  if (hash === undefined) throw bad(`unknown hash ${oid}`);
  const value = rest.find((each) => each.tag === OCTET_STRING)?.value;
  if (value === undefined) throw bad('its signer is cut off');
  const common = { hash, value, hasAttributes: rest[0]?.tag === CONTEXT_0 };
  if (id.tag === KEY_ID) return { ...common, bySerial: false, signer: '', keyId: colons(id.value) };
  const [issuer, serial] = elements(id.value);
  if (issuer?.tag !== SEQUENCE || serial?.tag !== INTEGER) throw bad('its signer is cut off');
  // A leading zero byte only keeps the number positive.
  const number = serial.value.length > 1 && serial.value[0] === 0 ? serial.value.subarray(1) : serial.value;
  return { ...common, bySerial: true, signer: commonName(issuer.value), keyId: colons(number) };
}

function commonName(name: Buffer): string {
  for (const relative of elements(name)) {
    for (const pair of elements(relative.value)) {
      const [type, value] = elements(pair.value);
      if (type?.value.toString('hex') === COMMON_NAME && value !== undefined) return oneLine(value.value);
    }
  }
  return '';
}
