import { X509Certificate } from 'node:crypto';
import { Dkms2binError } from '../model/errors.js';

export const INTEGER = 0x02;
export const OCTET_STRING = 0x04;
export const SEQUENCE = 0x30;
/** Context-specific [3], constructed: a certificate's extensions. */
const EXTENSIONS = 0xa3;
const SUBJECT_KEY_ID = '551d0e';

/** An X.509 certificate, PEM or DER. Throws fault `usage` naming `what`. */
export function readCertificate(bytes: string | Buffer, what: string): X509Certificate {
  try {
    return new X509Certificate(bytes);
  } catch (error) {
    throw new Dkms2binError('usage', `${what} is no X.509 certificate (PEM or DER)`, { cause: error });
  }
}

/** The certificate's serial number as modinfo shows it: `0A:1B:…`. */
export function keyIdOf(certificate: X509Certificate): string {
  return colons(Buffer.from(certificate.serialNumber, 'hex'));
}

/** What /proc/keys calls the certificate's key: hex digits of its subject key id or, without one, of its serial number's bytes. */
export function keyNameOf(certificate: X509Certificate): string {
  const body = elements(first(elements(first(elements(certificate.raw), SEQUENCE).value), SEQUENCE).value);
  const wrapped = body.find((each) => each.tag === EXTENSIONS);
  for (const { value } of wrapped ? elements(first(elements(wrapped.value), SEQUENCE).value) : []) {
    const [id, ...rest] = elements(value);
    if (id?.value.toString('hex') !== SUBJECT_KEY_ID) continue;
    return first(elements(rest.at(-1)?.value ?? value), OCTET_STRING).value.toString('hex');
  }
  return body.find((each) => each.tag === INTEGER)?.value.toString('hex') ?? '';
}

export const colons = (bytes: Buffer): string =>
  bytes
    .toString('hex')
    .toUpperCase()
    .replace(/..(?=.)/g, '$&:');

function damaged(): Dkms2binError {
  return new Dkms2binError('module', "The module's signature cannot be used: its DER is damaged");
}

export interface Element {
  tag: number;
  value: Buffer;
}

/** The DER elements that fill these bytes. */
export function elements(bytes: Buffer): Element[] {
  const found: Element[] = [];
  for (let at = 0; at < bytes.length;) {
    const [tag = 0, short = 0x80] = bytes.subarray(at, at + 2);
    const more = short < 0x80 ? 0 : short - 0x80;
    const start = at + 2 + more;
    // 0x80 alone is BER's indefinite length, which DER forbids.
    if (short === 0x80 || more > 4 || start > bytes.length) throw damaged();
    const length = more === 0 ? short : bytes.readUIntBE(at + 2, more);
    if (length > bytes.length - start) throw damaged();
    found.push({ tag, value: bytes.subarray(start, start + length) });
    at = start + length;
  }
  return found;
}

export function first(found: Element[], tag: number): Element {
  if (found[0]?.tag !== tag) throw damaged();
  return found[0];
}
