import { verify } from 'node:crypto';
import { Dkms2binError } from '../model/errors.js';
import { plain } from '../lib/text.js';
import { Unreadable } from '../formats/bytes.js';
import { colons, keyIdOf, readCertificate } from '../formats/certificate.js';
import { readCms, type CmsSigner } from '../formats/cms.js';
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
    return described(signerOf(signed.signature));
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
  const cms = signerOf(signed.signature);
  const cert = readCertificate(certificate, 'The certificate');
  if (cms.bySerial && cms.keyId !== keyIdOf(cert)) {
    throw bad(`it was made with key ${cms.keyId}, not with ${keyIdOf(cert)}`);
  }
  if (cms.hasAttributes) throw bad('it has attributes, which the kernel does not write');
  if (!verify(cms.hash, signed.module, cert.publicKey, cms.value)) {
    throw bad('it does not match the module and the certificate');
  }
  return described(cms);
}

function signerOf(signature: Buffer): CmsSigner {
  try {
    return readCms(signature);
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    throw bad(error.message);
  }
}

const described = ({ issuer, keyId, hash }: CmsSigner): ModuleSignature => ({
  signer: oneLine(issuer),
  keyId,
  hash,
});

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
