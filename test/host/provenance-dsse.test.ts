import { spawnSync } from 'node:child_process';
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { keyId, readPublicKey, readSigner } from '../../src/attest/dsse.js';

const pem = (key: KeyObject): string =>
  key.export({ type: key.type === 'private' ? 'pkcs8' : 'spki', format: 'pem' }).toString();

describe.each<[name: string, make: () => { privateKey: KeyObject; publicKey: KeyObject }]>([
  ['rsa', () => generateKeyPairSync('rsa', { modulusLength: 2048 })],
  ['P-256', () => generateKeyPairSync('ec', { namedCurve: 'P-256' })],
  ['P-384', () => generateKeyPairSync('ec', { namedCurve: 'P-384' })],
  ['P-521', () => generateKeyPairSync('ec', { namedCurve: 'P-521' })],
  ['ed25519', () => generateKeyPairSync('ed25519')],
])('%s', (_name, make) => {
  const { privateKey, publicKey } = make();
  const signer = readSigner(pem(privateKey), 'key.pem');

  it('has the key id that openssl gives', (ctx) => {
    if (spawnSync('openssl', ['version']).status !== 0) ctx.skip('openssl is not installed');
    const out = spawnSync('sh', ['-c', 'openssl pkey -pubout -outform DER | sha256sum'], {
      input: pem(privateKey),
    });
    expect(signer.keyid).toBe(String(out.stdout).split(' ')[0]);
    expect(keyId(publicKey)).toBe(signer.keyid);
  });
});

it('takes the public key of a certificate', (ctx) => {
  if (spawnSync('openssl', ['version']).status !== 0) ctx.skip('openssl is not installed');
  const tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  try {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    writeFileSync(join(tmp, 'key.pem'), pem(privateKey), { mode: 0o600 });
    const args = ['req', '-x509', '-new', '-subj', '/CN=x', '-key', 'key.pem', '-out', 'cert.pem'];
    expect(spawnSync('openssl', args, { cwd: tmp }).status).toBe(0);
    const cert = readPublicKey(readFileSync(join(tmp, 'cert.pem'), 'latin1'), 'cert.pem');
    expect(keyId(cert)).toBe(keyId(publicKey));
  } finally {
    rmSync(tmp, { recursive: true });
  }
});
