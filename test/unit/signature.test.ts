import { X509Certificate } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { Dkms2binError } from '../../src/model/errors.js';
import { keyIdOf, keyNameOf, readCertificate } from '../../src/formats/certificate.js';
import { signatureHash } from '../../src/pack/sign.js';
import { appendSignature, readSignature, stripSignature, verifySignature } from '../../src/pack/signature.js';
import { fakeModule } from './pack-fixture.js';

const KO = fakeModule('6.1.0-56-amd64');
/** Of a key that was thrown away: openssl req -x509 -subj '/CN=A test key'. */
const CERTIFICATE = Buffer.from(
  'MIIDCDCCAfCgAwIBAgIUCigj+9R8Wu6+PvmgKK781GTuRT8wDQYJKoZIhvcNAQELBQAwFTETMBEGA1UEAwwKQSB0ZXN0IGtl' +
    'eTAeFw0yNjExMjkxNjQyMzJaFw0zNjExMjYxNjQyMzJaMBUxEzARBgNVBAMMCkEgdGVzdCBrZXkwggEiMA0GCSqGSIb3DQEB' +
    'AQUAA4IBDwAwggEKAoIBAQD26wQNNYffFupWLCWW0HmJP01UqdVrn/BGE06DVXM6Xgcm2HI77YpQRgCkqVdS6NE05EuYY9it' +
    'ALdlvmUmDUxpo0hZcblTfKp5jh09WvZ8VOF6+hUSOQi+56cg+DVN5VTe58vsc58S7pCPpUOgDACyLAkZxJQLRsvipsvziQGF' +
    'S67cU47wpATjA1qxdrw2zFI4tL26pIWYprd2qkYaBOVD4S4IusVhUVsiwa/H02bQxpPKDZygsQHWrHhU+v0pqojdMuZ+tnbn' +
    'zDup71T6bnekOizRLTMYVFHET/Z5j8navhRHTXlkfSAx7Pjpzku+cKVZciVrlof8ZpyOJyVai9ZtAgMBAAGjUDBOMB0GA1Ud' +
    'DgQWBBQFOnz7FLrJpH20SuSHG2FXEW/qIzAfBgNVHSMEGDAWgBQFOnz7FLrJpH20SuSHG2FXEW/qIzAMBgNVHRMBAf8EAjAA' +
    'MA0GCSqGSIb3DQEBCwUAA4IBAQDoi9tFBAi+zI4vasaA/abDr+erpOq2XlSieO36/+vDcK7boYHJnjXjYQ9EcmoFNnl25a2g' +
    '3kmlGGFsiPSUg2SQ9fwWIqu9Bc24hLyYM0HF+xi9K0NJUARidaoTNptEpmGMxuk1QJBUSGD0VwJ+arDVv6Cvqh5NR9nLRrCV' +
    '/ez3fJqDwBlYyCwGqjrLp1NxX8SSciV2Y+3+yMXPzCg6Glj1MC7Lfn04BoMfCwmXLmbvLevc23UAefcwD0rKZraK4RCntl8c' +
    'tiEtaN9Xc+fJPk+rmibHrZUb083DJ4r7SUA7ieBlU22Q7/si2VXZtoruIzCS/JA6PCkybdeTOiywcRqS',
  'base64',
);
/** By that key, of SIGNED: openssl cms -sign -binary -noattr -nocerts -nosmimecap -md sha256. */
const CMS = Buffer.from(
  'MIIBjAYJKoZIhvcNAQcCoIIBfTCCAXkCAQExDTALBglghkgBZQMEAgEwCwYJKoZIhvcNAQcBMYIBVjCCAVICAQEwLTAVMRMw' +
    'EQYDVQQDDApBIHRlc3Qga2V5AhQKKCP71Hxa7r4++aAorvzUZO5FPzALBglghkgBZQMEAgEwDQYJKoZIhvcNAQEBBQAEggEA' +
    'MEt8l/8HwhZfvlRhcQJIS83Jyx4qACFohu9BGlmdjfqAyspY7JuunEZdSOUqoj+UYnQEAHLtbsv8uHTLbwbqxl4XNiy1rr0x' +
    '6Uf+PaxkatkrKyscZB0OEssvZJyNd0+dzY1WZIFrq6FJYgymauDRCtCCmSuMMyytc82CWUyPyzO9HbQo8dKqJ5BZqWBHHR8Z' +
    '6Tfu6Qw8CqQTEcO8vke74vlW0VqGX/F7etsKyj4ywgzAWI7SvXsT1zLmhaADDt/XeeLnAFvKoYHueOfNzVyL3NjOd6d+Ko+C' +
    'CWe3wtXggCJMZB258z9JEdLT4dBTcSy0YQlpJE2iMXvsPygHc+YWPA==',
  'base64',
);
const SIGNED = Buffer.from('a module');
const KEY_ID = '0A:28:23:FB:D4:7C:5A:EE:BE:3E:F9:A0:28:AE:FC:D4:64:EE:45:3F';
const module = appendSignature(SIGNED, CMS);

describe('a signature', () => {
  it('is described, verified and taken off again', () => {
    const about = { signer: 'A test key', keyId: KEY_ID, hash: 'sha256' };
    expect(readSignature(module)).toEqual(about);
    expect(verifySignature(module, CERTIFICATE)).toEqual(about);
    expect(stripSignature(appendSignature(module, CMS))).toEqual(SIGNED);
    expect(readSignature(SIGNED)).toBeNull();
  });

  it('of other bytes is refused', () => {
    for (const at of [0, SIGNED.length - 1, module.length - 41]) {
      const changed = Buffer.from(module);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(() => verifySignature(changed, CERTIFICATE)).toThrow('does not match the module');
    }
    expect(() => verifySignature(SIGNED, CERTIFICATE)).toThrow('not signed');
    expect(() => verifySignature(module, 'no certificate')).toThrow('not an X.509 certificate');
  });

  it.each([
    [Buffer.from('3003020100', 'hex'), 'it is not a CMS signature'],
    [Buffer.from('30800000', 'hex'), 'its DER is damaged'],
    [Buffer.from('3085010000000000', 'hex'), 'its DER is damaged'],
    [CMS.subarray(0, -1), 'its DER is damaged'],
  ])('that is something else is refused (%#)', (cms, why) => {
    expect(() => readSignature(appendSignature(SIGNED, cms))).toThrow(
      `The module's signature cannot be used: ${why}`,
    );
  });

  it('of the form before Linux 4.3 can be read', () => {
    const [name, id, signature] = [Buffer.from('Old key'), Buffer.from('0a1b', 'hex'), Buffer.alloc(256, 1)];
    const cms = appendSignature(Buffer.concat([KO, name, id]), signature);
    cms.set([1, 4, 1, name.length, id.length], cms.length - 40);
    expect(readSignature(cms)).toEqual({ signer: 'Old key', keyId: '0A:1B', hash: 'sha256' });
    expect(stripSignature(cms)).toEqual(KO);
    expect(() => verifySignature(cms, CERTIFICATE)).toThrow('before Linux 4.3');
  });
});

describe('a certificate', () => {
  it('is named as modinfo and as /proc/keys do', () => {
    const certificate = readCertificate(CERTIFICATE, 'It');
    expect(keyIdOf(certificate)).toBe(KEY_ID);
    expect(keyNameOf(certificate)).toBe('053a7cfb14bac9a47db44ae4871b6157116fea23');
    expect(keyNameOf(new X509Certificate(certificate.toString()))).toBe(keyNameOf(certificate));
  });
});

describe('the hash', () => {
  it("is that of the kernel's configuration", () => {
    expect(signatureHash('CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_HASH="sha512"\nCONFIG_X=y\n')).toBe(
      'sha512',
    );
    expect(signatureHash('CONFIG_MODULE_SIG_HASH="sha3-384"\n')).toBe('sha3-384');
    expect(signatureHash('# CONFIG_MODULE_SIG is not set\n')).toBe('sha256');
    expect(signatureHash('')).toBe('sha256');
    expect(() => signatureHash('CONFIG_MODULE_SIG_HASH="sm3"\n')).toThrow(Dkms2binError);
  });
});
