import { readFile, writeFile } from 'node:fs/promises';
import { Dkms2binError } from '../model/errors.js';

/** A GUID as UEFI stores it: the first three fields little endian. */
function guid(text: string): Buffer {
  const bytes = Buffer.from(text.replaceAll('-', ''), 'hex');
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  return bytes;
}

/** edk2's gEfiAuthenticatedVariableGuid: the format of the store. */
const AUTHENTICATED_STORE = guid('aaf32c78-947b-439a-a180-2e144ec37792');
/** UEFI's EFI_IMAGE_SECURITY_DATABASE_GUID: whose variable `db` is. */
const SECURITY_DATABASE = guid('d719b2cb-3d3a-4596-a3bc-dad00e67656f');
/** UEFI's EFI_CERT_X509_GUID: a signature list of DER certificates. */
const CERT_X509 = guid('a5c059a1-94e4-4aa7-87b5-ab155c2bf072');

const STORE_HEADER = 28;
const STORE_FORMATTED = 0x5a;
const STORE_HEALTHY = 0xfe;
const VARIABLE_HEADER = 60;
const VARIABLE_START = 0x55aa;
const VARIABLE_ADDED = 0x3f;
/** Non-volatile, for boot services and for the running system, written with time-based authentication. */
const ATTRIBUTES = 0x27;
const ERASED = 0xff;

/**
 * Writes the flash image `to`: OVMF's empty variable store `template` (OVMF_VARS*.fd) with an X.509 certificate (DER) in
 * `db`, the keys that the firmware's owner trusts. There is no platform key in it, so Secure Boot stays off. Throws fault
 * `host` for a template of another form.
 */
export async function writeTrustingVars(template: string, certificate: Buffer, to: string): Promise<void> {
  const flash = await readFile(template);
  const at = freeSpace(flash);
  const variable = encodeVariable('db', signatureList(certificate));
  if (at === null || variable.length > at.length) {
    throw new Dkms2binError('host', `${template} is not an empty variable store of OVMF`, {
      hint: "Install the distribution's OVMF package again: its OVMF_VARS file must be unchanged.",
    });
  }
  variable.copy(at);
  await writeFile(to, flash, { mode: 0o600 });
}

/**
 * Where an empty store takes its first variable, up to the store's end. Firmware volume header (its length at 48), then
 * the store's: format, size, two states; see edk2's VariableFormat.h. Null when it is anything else.
 */
function freeSpace(flash: Buffer): Buffer | null {
  if (flash.length < 72 || flash.toString('latin1', 40, 44) !== '_FVH') return null;
  const start = flash.readUInt16LE(48);
  const header = flash.subarray(start, start + STORE_HEADER);
  if (header.length < STORE_HEADER || !header.subarray(0, 16).equals(AUTHENTICATED_STORE)) return null;
  if (header[20] !== STORE_FORMATTED || header[21] !== STORE_HEALTHY) return null;
  const free = flash.subarray(start + STORE_HEADER, start + header.readUInt32LE(16));
  return free.every((byte) => byte === ERASED) ? free : null;
}

/** EFI_SIGNATURE_LIST of one certificate, whose owner nobody asks for. */
function signatureList(certificate: Buffer): Buffer {
  const owner = Buffer.alloc(16);
  const sizes = Buffer.alloc(12);
  sizes.writeUInt32LE(CERT_X509.length + sizes.length + owner.length + certificate.length, 0);
  sizes.writeUInt32LE(owner.length + certificate.length, 8);
  return Buffer.concat([CERT_X509, sizes, owner, certificate]);
}

/** AUTHENTICATED_VARIABLE_HEADER, name and data: count, time and key of an update stay zero, as in a variable never updated. */
function encodeVariable(name: string, data: Buffer): Buffer {
  const header = Buffer.alloc(VARIABLE_HEADER);
  const text = Buffer.from(`${name}\0`, 'utf16le');
  header.writeUInt16LE(VARIABLE_START, 0);
  header[2] = VARIABLE_ADDED;
  header.writeUInt32LE(ATTRIBUTES, 4);
  header.writeUInt32LE(text.length, 36);
  header.writeUInt32LE(data.length, 40);
  SECURITY_DATABASE.copy(header, 44);
  return Buffer.concat([header, text, data]);
}
