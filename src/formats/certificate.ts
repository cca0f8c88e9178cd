import { X509Certificate } from 'node:crypto';
import { Dkms2binError } from '../model/errors.js';
import { context, elements, INTEGER, OCTET_STRING, SEQUENCE, sequenceIn, valueIn } from './der.js';

/** A certificate's extensions, after all that has no tag of its own. */
const EXTENSIONS = context(3);
/** 2.5.29.14. */
const SUBJECT_KEY_ID = '551d0e';

/** An X.509 certificate, PEM or DER. Throws fault `usage` naming `what`. */
export function readCertificate(bytes: string | Buffer, what: string): X509Certificate {
  try {
    return new X509Certificate(bytes);
  } catch (error) {
    throw new Dkms2binError('usage', `${what} is not an X.509 certificate (PEM or DER)`, { cause: error });
  }
}

/** Whether nobody else vouches for it. (`checkIssued` says no of what may not sign certificates.) */
export const isSelfSigned = (certificate: X509Certificate): boolean =>
  certificate.verify(certificate.publicKey);

/** The certificate's serial number as modinfo shows it: `0A:1B:…`. */
export function keyIdOf(certificate: X509Certificate): string {
  return colons(Buffer.from(certificate.serialNumber, 'hex'));
}

/** What /proc/keys calls the certificate's key: hex digits of its subject key id or, without one, of its serial number's bytes. */
export function keyNameOf(certificate: X509Certificate): string {
  const body = sequenceIn(valueIn(certificate.raw, SEQUENCE));
  const wrapped = body.find((each) => each.tag === EXTENSIONS);
  for (const { value } of wrapped ? sequenceIn(wrapped.value) : []) {
    const [id, ...rest] = elements(value);
    if (id?.value.toString('hex') !== SUBJECT_KEY_ID) continue;
    return valueIn(rest.at(-1)?.value ?? value, OCTET_STRING).toString('hex');
  }
  return body.find((each) => each.tag === INTEGER)?.value.toString('hex') ?? '';
}

/** Bytes as modinfo shows them: `0A:1B:…`. */
export const colons = (bytes: Buffer): string =>
  bytes
    .toString('hex')
    .toUpperCase()
    .replace(/..(?=.)/g, '$&:');
