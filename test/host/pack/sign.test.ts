import { spawnSync } from 'node:child_process';
import { createPrivateKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { Dkms2binError } from '../../../src/model/errors.js';
import { makeKeyPair, type KeyPair } from '../../../src/pack/keygen.js';
import { openSigner, type SignerOptions } from '../../../src/pack/sign.js';
import { keyNameOf } from '../../../src/formats/certificate.js';
import { SIGNATURE_HASHES } from '../../../src/formats/cms.js';
import { readSignature, stripSignature, verifySignature } from '../../../src/pack/signature.js';
import { hasTool } from '../fixtures/has-tool.js';
import { fakeModule } from '../../unit/fixtures/elf.js';

const RELEASE = '6.1.0-56-amd64';
const KO = fakeModule(RELEASE);
const PASSPHRASE = 'correct horse';

let pairs: string;
let pair: KeyPair;
let other: KeyPair;
/** The key of `pair`, encrypted. */
let encrypted: string;
let tmp: string;

beforeAll(async () => {
  pairs = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  pair = await makeKeyPair({ outDir: join(pairs, 'a'), name: 'A key, "ü" a/b+c=d', days: 10 });
  other = await makeKeyPair({ outDir: join(pairs, 'b'), name: 'Another key', days: 10 });
  encrypted = join(pairs, 'encrypted.key');
  writeFileSync(
    encrypted,
    createPrivateKey(readFileSync(pair.key)).export({
      type: 'pkcs8',
      format: 'pem',
      cipher: 'aes-256-cbc',
      passphrase: PASSPHRASE,
    }),
  );
});
afterAll(() => rmSync(pairs, { recursive: true }));

beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  // '' makes a passphrase of an earlier test forgotten.
  vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', '');
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.useRealTimers();
  rmSync(tmp, { recursive: true });
});

const open = (more: Partial<SignerOptions> = {}) =>
  openSigner({ key: pair.key, cert: pair.cert, cwd: tmp, signal: new AbortController().signal, ...more });

async function refusal(promise: Promise<unknown>): Promise<Dkms2binError> {
  const error: unknown = await promise.then(
    () => new Error('it was not refused'),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(Dkms2binError);
  return error as Dkms2binError;
}

describe('a signed module', () => {
  it('is described by modinfo as readSignature does', async (ctx) => {
    if (!hasTool('modinfo')) ctx.skip('modinfo is not installed (package kmod)');
    const signer = await open();
    const signed = await signer.sign(KO, 'sha512');
    writeFileSync(join(tmp, 'm.ko'), signed);
    const field = (name: string): string => {
      const done = spawnSync('modinfo', ['-F', name, join(tmp, 'm.ko')]);
      return String(done.stdout).trim();
    };
    expect(readSignature(signed)).toEqual({
      signer: field('signer'),
      keyId: field('sig_key'),
      hash: field('sig_hashalgo'),
    });
    expect(field('sig_id')).toBe('PKCS#7');
    expect(signer).toMatchObject({
      subject: 'A key, "ü" a/b+c=d',
      keyId: field('sig_key'),
      reproducible: true,
    });
    expect(signer.notAfter).toEqual(pair.notAfter);
    expect(field('vermagic')).toContain(RELEASE);
  });

  it("is what the kernel's own sign-file makes", async (ctx) => {
    const signFile = readdirSync('/usr/lib')
      .filter((name) => name.startsWith('linux-kbuild-'))
      .map((name) => `/usr/lib/${name}/scripts/sign-file`)
      .find((path) => existsSync(path));
    if (signFile === undefined) return ctx.skip('sign-file is not installed (package linux-kbuild-6.1)');
    writeFileSync(join(tmp, 'm.ko'), KO);
    const done = spawnSync(signFile, ['sha256', pair.key, pair.der!, join(tmp, 'm.ko'), join(tmp, 's.ko')]);
    expect(String(done.stderr)).toBe('');
    expect(await (await open({ cert: pair.der! })).sign(KO, 'sha256')).toEqual(
      readFileSync(join(tmp, 's.ko')),
    );
  });

  it('is verified by openssl, too', async () => {
    const signed = await (await open()).sign(KO, 'sha256');
    const cms = signed.subarray(KO.length, signed.length - 40);
    writeFileSync(join(tmp, 'm.ko'), KO);
    const verify = (cert: string) =>
      spawnSync(
        'openssl',
        ['cms', '-verify', '-binary', '-inform', 'DER', '-content', join(tmp, 'm.ko')].concat([
          '-certfile',
          cert,
          '-nointern',
          '-noverify',
          '-out',
          '/dev/null',
        ]),
        { input: cms },
      );
    expect(verify(pair.cert).status).toBe(0);
    expect(verify(other.cert).status).not.toBe(0);
    writeFileSync(join(tmp, 'm.ko'), `${KO.toString('latin1')}x`, 'latin1');
    expect(verify(pair.cert).status).not.toBe(0);
  });

  it('has the same bytes each time, and a new signature in place of an old one', async () => {
    const signer = await open();
    const signed = await signer.sign(KO, 'sha256');
    expect(await signer.sign(KO, 'sha256')).toEqual(signed);
    const again = await openSigner({
      key: other.key,
      cert: other.cert,
      cwd: tmp,
      signal: AbortSignal.timeout(60_000),
    });
    const replaced = await again.sign(signed, 'sha256');
    expect(replaced.length).toBeLessThan(signed.length + 100);
    expect(() => verifySignature(replaced, readFileSync(other.cert))).not.toThrow();
    expect(await signer.sign(replaced, 'sha256')).toEqual(signed);
    expect(stripSignature(replaced)).toEqual(KO);
    expect(stripSignature(KO)).toBe(KO);
  });

  it.each(SIGNATURE_HASHES)('can be signed with %s', async (hash) => {
    const signed = await (await open()).sign(KO, hash);
    expect(verifySignature(signed, readFileSync(pair.cert))).toMatchObject({ hash, keyId: pair.keyId });
  });

  it('is refused when a byte of it is another', async () => {
    const signed = await (await open()).sign(KO, 'sha256');
    const cert = readFileSync(pair.cert);
    expect(verifySignature(signed, cert)).toEqual(readSignature(signed));
    // In the module, in the signature proper, which ends before 40 bytes of trailer and magic, and its last byte.
    for (const at of [100, KO.length - 1, signed.length - 41, signed.length - 140]) {
      const changed = Buffer.from(signed);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(() => verifySignature(changed, cert)).toThrow('does not match the module and the certificate');
    }
    expect(() => verifySignature(signed, readFileSync(other.cert))).toThrow(
      `made with key ${pair.keyId}, not with ${other.keyId}`,
    );
    expect(() => verifySignature(KO, cert)).toThrow('not signed');
    expect(() => verifySignature(signed, 'no certificate')).toThrow('not an X.509 certificate');
  });

  it('never makes the reader fail in its own way', async () => {
    expect(readSignature(KO)).toBeNull();
    const signed = await (await open()).sign(KO, 'sha256');
    const magic = signed.subarray(-28);
    for (const bytes of [magic, Buffer.concat([Buffer.alloc(12), magic]), signed.subarray(-41)]) {
      expect(() => readSignature(bytes)).toThrow(Dkms2binError);
    }
    for (let at = KO.length; at < signed.length - 28; at++) {
      for (const value of [0x00, 0x30, 0x80, 0xff]) {
        const changed = Buffer.from(signed);
        changed[at] = value;
        try {
          readSignature(changed);
        } catch (error) {
          expect(error).toBeInstanceOf(Dkms2binError);
          expect((error as Dkms2binError).fault).toBe('module');
        }
      }
    }
  });

  it('is an uncompressed one', async () => {
    const error = await refusal((await open()).sign(Buffer.from('\xfd7zXZ and more'), 'sha256'));
    expect(error).toMatchObject({ fault: 'module' });
  });
});

describe('openSigner refuses', () => {
  it('files that cannot be read or are something else', async () => {
    expect(await refusal(open({ key: 'no.key' }))).toMatchObject({
      fault: 'usage',
      message: `Cannot read the key ${join(tmp, 'no.key')}: no such file`,
    });
    expect((await refusal(open({ cert: 'no.pem' }))).message).toContain('Cannot read the certificate');
    expect((await refusal(open({ key: pair.cert }))).message).toContain('not a private key in PEM form');
    expect((await refusal(open({ cert: pair.key }))).message).toContain('not an X.509 certificate');
  });

  it('a key of another certificate', async () => {
    const error = await refusal(open({ cert: other.cert }));
    expect(error).toMatchObject({ fault: 'usage' });
    expect(error.message).toBe(`The key ${pair.key} does not belong to the certificate ${other.cert}`);
  });

  it('a certificate that is expired, or not valid yet', async () => {
    const day = 24 * 60 * 60_000;
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 11 * day });
    expect((await refusal(open())).message).toContain('expired on');
    vi.setSystemTime(Date.now() - 12 * day);
    expect((await refusal(open())).message).toContain('is not valid before');
  });

  it('a type of key that kernels do not verify', async () => {
    selfSigned('ed25519');
    expect((await refusal(open({ key: 'ed25519.key', cert: 'ed25519.pem' }))).message).toContain('ed25519');
  });

  it('to work without openssl', async () => {
    vi.stubEnv('PATH', tmp);
    expect(await refusal(open())).toMatchObject({
      fault: 'host',
      hint: 'Install it: sudo apt-get install openssl',
    });
  });
});

it('signs with an elliptic curve, and says that it is not reproducible', async () => {
  selfSigned('ec');
  const signer = await open({ key: 'ec.key', cert: 'ec.pem' });
  expect(signer.reproducible).toBe(false);
  const signed = await signer.sign(KO, 'sha384');
  expect(verifySignature(signed, signer.certPem).hash).toBe('sha384');
});

/** `<type>.key` and `<type>.pem` in tmp. */
function selfSigned(type: 'ec' | 'ed25519'): void {
  const { privateKey } =
    type === 'ec' ? generateKeyPairSync('ec', { namedCurve: 'P-384' }) : generateKeyPairSync('ed25519');
  const key = join(tmp, `${type}.key`);
  writeFileSync(key, privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const made = spawnSync('openssl', [
    ...[
      'req',
      '-x509',
      '-new',
      '-key',
      key,
      '-subj',
      '/CN=test',
      '-days',
      '10',
      '-out',
      join(tmp, `${type}.pem`),
    ],
  ]);
  if (made.status !== 0) throw new Error(String(made.stderr));
}

describe('the passphrase', () => {
  const secret = () => open({ key: encrypted });

  it('is asked for when a person is there', async () => {
    const prompt = vi.fn(() => Promise.resolve(PASSPHRASE));
    const signer = await open({ key: encrypted, prompt });
    await signer.sign(KO, 'sha256');
    expect(prompt.mock.calls).toEqual([[`Passphrase of the key ${encrypted}: `]]);
    await open({ prompt });
    expect(prompt).toHaveBeenCalledTimes(1);
  });

  it('comes from the environment, which then no longer holds it', async () => {
    vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', PASSPHRASE);
    await secret();
    expect(process.env['DKMS2BIN_SIGN_PASSPHRASE']).toBeUndefined();
    await secret();
  });

  it('comes from a file before all else', async () => {
    vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', 'wrong');
    writeFileSync(join(tmp, 'pw'), `${PASSPHRASE}\r\nmore\n`);
    await open({ key: encrypted, passphraseFile: 'pw' });
    expect((await refusal(open({ key: encrypted, passphraseFile: 'no' }))).message).toContain('ENOENT');
    writeFileSync(join(tmp, 'pw'), '\n');
    expect((await refusal(open({ key: encrypted, passphraseFile: 'pw' }))).message).toContain('is empty');
  });

  it('is missing or wrong in words that do not hold it', async () => {
    const missing = await refusal(secret());
    expect(missing).toMatchObject({
      fault: 'usage',
      message: `The passphrase of the key ${encrypted} is missing`,
    });
    expect(missing.hint).toContain('DKMS2BIN_SIGN_PASSPHRASE');
    vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', 'hunter2');
    const wrong = await refusal(secret());
    expect(wrong).toMatchObject({
      fault: 'usage',
      message: `The passphrase does not open the key ${encrypted}`,
    });
    expect(JSON.stringify([wrong.message, wrong.hint, wrong.stack, wrong.cause])).not.toContain('hunter2');
  });

  it('and the key never reach an argument, an environment or a file', async () => {
    const real = String(spawnSync('sh', ['-c', 'command -v openssl']).stdout).trim();
    const bin = join(tmp, 'bin');
    mkdirSync(bin);
    mkdirSync(join(tmp, 'tmp'));
    writeFileSync(
      join(bin, 'openssl'),
      `#!/bin/sh\n{ printf 'arg %s\\n' "$@"; env; find "$TMPDIR" -type f; } >>'${join(tmp, 'seen')}'\nexec '${real}' "$@"\n`,
    );
    chmodSync(join(bin, 'openssl'), 0o755);
    vi.stubEnv('PATH', `${bin}:${process.env['PATH'] ?? ''}`);
    vi.stubEnv('TMPDIR', join(tmp, 'tmp'));
    vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', PASSPHRASE);
    const signed = await (await secret()).sign(KO, 'sha256');
    verifySignature(signed, readFileSync(pair.cert));

    const seen = readFileSync(join(tmp, 'seen'), 'utf8');
    expect(seen).toContain(`arg ${encrypted}\n`);
    expect(seen).toContain('TMPDIR=');
    expect(seen).not.toContain(PASSPHRASE);
    expect(seen).not.toContain('DKMS2BIN_SIGN_PASSPHRASE');
    const body = readFileSync(encrypted, 'utf8').split('\n').slice(1, -2);
    const clear = readFileSync(pair.key, 'utf8').split('\n').slice(1, -2);
    for (const line of [...body, ...clear]) expect(seen).not.toContain(line);
    // The certificate's file had lost its name before openssl ran, and nothing stays.
    expect(seen).not.toContain(join(tmp, 'tmp/'));
    expect(readdirSync(join(tmp, 'tmp'))).toEqual([]);
  });
});

describe('a key in a token', () => {
  const LIBRARIES = ['/usr/lib/softhsm/libsofthsm2.so', '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so'];
  const PIN = '4321';
  const URI = 'pkcs11:token=test;object=module%20key;type=private';

  it('is refused when its URI holds the PIN, which no error repeats', async () => {
    for (const key of ['pkcs11:token=t;object=k?pin-value=4321', 'pkcs11:object=k;pin-value=4321']) {
      const error = await refusal(open({ key }));
      expect(error).toMatchObject({ fault: 'usage' });
      expect(error.message).toContain('must not hold or name the PIN');
      expect(`${error.message}${error.hint ?? ''}`).not.toContain('4321');
    }
    const missing = await refusal(open({ key: URI }));
    expect(missing.message).toBe(`The passphrase of the token of ${URI} is missing`);
  });

  it('signs as the same key in a file does', async (ctx) => {
    const library = LIBRARIES.find((path) => existsSync(path));
    if (library === undefined) return ctx.skip('SoftHSM is not installed (package softhsm2)');
    if (spawnSync('openssl', ['engine', 'pkcs11']).status !== 0)
      return ctx.skip("openssl has no engine 'pkcs11' (package libengine-pkcs11-openssl)");
    if (spawnSync('pkcs11-tool', ['--help']).error)
      return ctx.skip('pkcs11-tool is not installed (package opensc)');
    const tokens = join(tmp, 'tokens');
    mkdirSync(tokens);
    writeFileSync(join(tmp, 'softhsm2.conf'), `directories.tokendir = ${tokens}\n`);
    vi.stubEnv('SOFTHSM2_CONF', join(tmp, 'softhsm2.conf'));
    vi.stubEnv('PKCS11_MODULE_PATH', library);
    const tool = (...args: string[]): void => {
      const done = spawnSync('pkcs11-tool', ['--module', library, ...args]);
      if (done.status !== 0) throw new Error(`${String(done.stdout)}${String(done.stderr)}`);
    };
    const der = join(tmp, 'key.der');
    writeFileSync(der, createPrivateKey(readFileSync(pair.key)).export({ type: 'pkcs8', format: 'der' }));
    tool('--init-token', '--slot-index', '0', '--label', 'test', '--so-pin', '8765');
    tool('--init-pin', '--token-label', 'test', '--so-pin', '8765', '--pin', PIN);
    const write = ['--write-object', der, '--type', 'privkey', '--id', '01', '--label', 'module key'];
    tool('--token-label', 'test', '--login', '--pin', PIN, ...write);

    const token = (more: Partial<SignerOptions> = {}) =>
      open({ key: URI, prompt: () => Promise.resolve(PIN), ...more });
    const signed = await (await token()).sign(KO, 'sha256');
    expect(signed).toEqual(await (await open()).sign(KO, 'sha256'));

    const wrong = await refusal(token({ prompt: () => Promise.resolve('9999') }));
    expect(wrong.message).toBe(`Wrong PIN for the token of ${URI}`);
    expect(JSON.stringify([wrong.message, wrong.hint])).not.toContain('9999');
    const absent = URI.replace('module', 'no');
    expect((await refusal(token({ key: absent }))).message).toBe(`No private key at ${absent}`);
    expect((await refusal(token({ cert: other.cert }))).message).toContain(
      'does not belong to the certificate',
    );
  });

  it('names the package when openssl has no engine for it', async () => {
    vi.stubEnv('OPENSSL_ENGINES', tmp);
    const error = await refusal(open({ key: URI, prompt: () => Promise.resolve(PIN) }));
    expect(error).toMatchObject({
      fault: 'host',
      hint: 'Install it: sudo apt-get install libengine-pkcs11-openssl',
    });
  });
});

it('names a key as /proc/keys does: by its subject key id, or by the bytes of its serial number', () => {
  const shown = String(
    spawnSync('openssl', ['x509', '-noout', '-ext', 'subjectKeyIdentifier', '-in', pair.cert]).stdout,
  );
  expect(keyNameOf(new X509Certificate(readFileSync(pair.cert)))).toBe(
    /(?:[0-9A-F]{2}:){19}[0-9A-F]{2}/.exec(shown)![0].replaceAll(':', '').toLowerCase(),
  );
  const cert = join(tmp, 'plain.pem');
  const config = join(tmp, 'openssl.cnf');
  writeFileSync(config, '[req]\nprompt = no\ndistinguished_name = dn\n[dn]\nCN = plain\n');
  const args = [
    'req',
    '-x509',
    '-key',
    pair.key,
    '-config',
    config,
    '-set_serial',
    '0xb28ddf47',
    '-out',
    cert,
  ];
  expect(spawnSync('openssl', args).status).toBe(0);
  expect(keyNameOf(new X509Certificate(readFileSync(cert)))).toBe('00b28ddf47');
});
