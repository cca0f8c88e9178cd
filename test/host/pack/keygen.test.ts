import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { openSigner } from '../../../src/pack/sign.js';
import { stripSignature, verifySignature } from '../../../src/pack/signature.js';
import { cli } from '../../unit/fixtures/cli-harness.js';

let tmp: string;
beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', '');
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(tmp, { recursive: true });
});

const keygen = (...argv: string[]) => cli(['keygen', '--out-dir', tmp, ...argv]);
const sign = (key: string, prompt?: () => Promise<string>) =>
  openSigner({
    key: join(tmp, key),
    cert: join(tmp, 'mok.der'),
    cwd: '/',
    signal: new AbortController().signal,
    ...(prompt && { prompt }),
  });
const x509 = (...args: string[]): string =>
  String(spawnSync('openssl', ['x509', '-noout', '-in', join(tmp, 'mok.pem'), ...args]).stdout);

describe('keygen', () => {
  it('makes a pair that shim, mokutil and the kernel take', async () => {
    const { code, stdout, stderr } = await keygen('--name', 'Müller / Söhne + "Co"', '--days', '5');
    expect(stderr).toBe('');
    expect(code).toBe(0);
    expect(readdirSync(tmp).sort()).toEqual(['mok.der', 'mok.key', 'mok.pem']);
    expect(statSync(join(tmp, 'mok.key')).mode & 0o777).toBe(0o600);
    expect(statSync(join(tmp, 'mok.pem')).mode & 0o777).toBe(0o644);
    const text = x509('-text');
    expect(text).toMatch(/Version: 3 /);
    expect(text).toMatch(/Public-Key: \(2048 bit\)/);
    expect(text).toMatch(/Basic Constraints: critical\s+CA:FALSE/);
    expect(text).toMatch(/X509v3 Key Usage:\s+Digital Signature\n/);
    expect(text).toMatch(/Extended Key Usage:\s+Code Signing, 1\.3\.6\.1\.4\.1\.2312\.16\.1\.2\n/);
    const id = /Subject Key Identifier:\s+([0-9A-F:]+)\n/.exec(text)?.[1];
    expect(/Authority Key Identifier:\s+(?:keyid:)?([0-9A-F:]+)\n/.exec(text)?.[1]).toBe(id);
    expect(x509('-checkend', String(4 * 86400))).toContain('will not expire');
    expect(x509('-checkend', String(6 * 86400))).toContain('will expire');
    const signer = await sign('mok.key');
    expect(signer.subject).toBe('Müller / Söhne + "Co"');

    expect(stdout).toContain(`key id ${signer.keyId}`);
    expect(stdout).toContain(
      `sudo mokutil --import ${relative('/home/user/project', join(tmp, 'mok.der'))}\n`,
    );
    expect(stdout).toMatch(/--sign-key \S+mok\.key --sign-cert \S+mok\.pem\n/);
    expect(stdout).toContain('it has no passphrase');
  });

  it('makes an authority as .machine keyrings take it, and keys under it whose signatures carry their certificate', async () => {
    const made = await keygen('--ca', '--name', 'Fleet');
    expect([made.code, made.stderr]).toEqual([0, '']);
    expect(made.stdout).toMatch(/--ca-key \S+ca\.key --ca-cert \S+ca\.pem --out-dir DIR\n/);
    const about = (file: string): string =>
      String(spawnSync('openssl', ['x509', '-noout', '-in', join(tmp, file), '-text']).stdout);
    expect(about('ca.pem')).toMatch(/Basic Constraints: critical\s+CA:TRUE, pathlen:0\n/);
    expect(about('ca.pem')).toMatch(/Key Usage: critical\s+Certificate Sign, CRL Sign\n/);
    expect(about('ca.pem')).toMatch(/Code Signing, 1\.3\.6\.1\.4\.1\.2312\.16\.1\.2\n/);

    const under = ['--ca-key', join(tmp, 'ca.key'), '--ca-cert', join(tmp, 'ca.pem')];
    const leaf = await keygen(...under, '--name', 'November', '--days', '30');
    expect([leaf.code, leaf.stderr]).toEqual([0, '']);
    expect(leaf.stdout).toMatch(/Machines that have enrolled \S+ca\.pem load them\.\n/);
    expect(readdirSync(tmp).sort()).toEqual(['ca.der', 'ca.key', 'ca.pem', 'leaf.key', 'leaf.pem']);
    expect(about('leaf.pem')).toMatch(/Issuer: CN = Fleet\n[^]*Subject: CN = November\n/);
    expect(about('leaf.pem')).toMatch(/CA:FALSE[^]*Key Usage:\s+Digital Signature\n/);

    const cert = join(tmp, 'leaf.pem');
    const signer = await openSigner({
      ...{ key: join(tmp, 'leaf.key'), cert, cwd: '/', signal: new AbortController().signal },
    });
    const ko = Buffer.concat([Buffer.from('7f454c46', 'hex'), Buffer.from('a module')]);
    const signed = await signer.sign(ko, 'sha256');
    expect(verifySignature(signed, readFileSync(cert))).toMatchObject({
      signer: 'Fleet',
      keyId: signer.keyId,
    });
    expect(stripSignature(signed)).toEqual(ko);
    // Knowing the authority alone, openssl finds the way by what is in the signature.
    writeFileSync(join(tmp, 'm.ko'), ko);
    writeFileSync(join(tmp, 'm.p7s'), signed.subarray(ko.length, signed.length - 40));
    const check = (authority: string) =>
      spawnSync('openssl', [
        ...['cms', '-verify', '-binary', '-inform', 'DER', '-in', join(tmp, 'm.p7s'), '-purpose', 'any'],
        ...['-content', join(tmp, 'm.ko'), '-CAfile', join(tmp, authority), '-out', '/dev/null'],
      ]);
    const good = check('ca.pem');
    expect(good.status, String(good.stderr)).toBe(0);
    await keygen('--name', 'Another');
    expect(check('mok.pem').status).not.toBe(0);
  });

  it('wants both files of an authority that is one, outlives the key, and opens', async () => {
    await keygen();
    const [key, cert] = [join(tmp, 'mok.key'), join(tmp, 'mok.pem')];
    expect((await keygen('--ca-key', key)).stderr).toContain('--ca-cert is missing');
    expect((await keygen('--ca-key', key, '--ca')).code).toBe(2);
    const none = await keygen('--ca-key', key, '--ca-cert', cert);
    expect([none.code, none.stderr]).toEqual([2, expect.stringContaining(`${cert} is no authority's`)]);

    const secret = join(tmp, 'secret');
    writeFileSync(secret, 'of the authority\n');
    const made = await keygen('--ca', '--days', '20', '--passphrase-file', secret);
    expect([made.code, made.stderr]).toEqual([0, '']);
    const under = ['--ca-key', join(tmp, 'ca.key'), '--ca-cert', join(tmp, 'ca.pem')];
    expect((await keygen(...under, '--days', '30')).stderr).toContain('--ca-passphrase-file');
    const file = [...under, '--ca-passphrase-file', secret];
    expect((await keygen(...file, '--days', '30')).stderr).toMatch(/ca\.pem ends before that, on 20\d\d-/);
    expect(await keygen(...file, '--days', '10')).toMatchObject({ code: 0, stderr: '' });
    expect(readFileSync(join(tmp, 'leaf.key'), 'latin1')).toContain('BEGIN PRIVATE KEY');
  });

  it('never replaces a file, and leaves none beside it', async () => {
    writeFileSync(join(tmp, 'mok.der'), 'precious');
    const { code, stderr } = await keygen();
    expect(code).toBe(2);
    expect(stderr).toContain(`${join(tmp, 'mok.der')} already exists`);
    expect(stderr).toContain('hint:');
    expect(readdirSync(tmp)).toEqual(['mok.der']);
    expect(readFileSync(join(tmp, 'mok.der'), 'utf8')).toBe('precious');
  });

  it('never replaces a file that came while it worked', async () => {
    const real = String(spawnSync('sh', ['-c', 'command -v openssl']).stdout).trim();
    const bin = join(tmp, 'bin');
    mkdirSync(bin);
    writeFileSync(
      join(bin, 'openssl'),
      `#!/bin/sh\necho other >'${join(tmp, 'mok.pem')}'\nexec '${real}' "$@"\n`,
    );
    chmodSync(join(bin, 'openssl'), 0o755);
    vi.stubEnv('PATH', `${bin}:${process.env['PATH'] ?? ''}`);
    const { code, stderr } = await keygen();
    expect(code).toBe(2);
    expect(stderr).toContain(`${join(tmp, 'mok.pem')} already exists`);
    expect(readdirSync(tmp).sort()).toEqual(['bin', 'mok.pem']);
    expect(readFileSync(join(tmp, 'mok.pem'), 'utf8')).toBe('other\n');
  });

  it('leaves nothing when openssl fails', async () => {
    const bin = join(tmp, 'bin');
    mkdirSync(bin);
    writeFileSync(join(bin, 'openssl'), '#!/bin/sh\necho "no randomness" >&2\nexit 1\n');
    chmodSync(join(bin, 'openssl'), 0o755);
    vi.stubEnv('PATH', `${bin}:${process.env['PATH'] ?? ''}`);
    const { code, stderr } = await keygen();
    expect(code).toBe(4);
    expect(stderr).toContain('no randomness');
    expect(readdirSync(tmp)).toEqual(['bin']);
  });

  it('encrypts with the passphrase of the environment or a file', async () => {
    vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', 'from env');
    expect((await keygen('--encrypt')).stdout).not.toContain('no passphrase');
    expect(readFileSync(join(tmp, 'mok.key'), 'utf8')).toMatch(/^-----BEGIN ENCRYPTED PRIVATE KEY-----\n/);
    await sign('mok.key');
    vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', 'from file');
    await expect(sign('mok.key')).rejects.toThrow('does not open the key');
    for (const name of ['mok.key', 'mok.pem', 'mok.der']) rmSync(join(tmp, name));
    writeFileSync(join(tmp, 'pw'), 'from file\n');
    await keygen('--passphrase-file', join(tmp, 'pw'));
    await sign('mok.key');
  });

  it('asks twice for it on a terminal, showing nothing', async () => {
    const ask = async (first: string, second: string) => {
      const stdin = new PassThrough();
      const raw: boolean[] = [];
      Object.assign(stdin, { setRawMode: (on: boolean) => raw.push(on) });
      const done = cli(['keygen', '--out-dir', tmp, '--encrypt'], {}, { stdin, tty: true });
      stdin.write(first);
      await vi.waitFor(() => expect(raw).toEqual([true, false, true]), 5000);
      stdin.write(second);
      const result = await done;
      expect(raw).toEqual([true, false, true, false]);
      return result;
    };
    const differ = await ask('one\r', 'two\r');
    expect(differ.code).toBe(2);
    expect(differ.stderr).toContain('The two passphrases differ');
    const same = await ask('typpo\x7f\x7f\x7fed\r', 'typed\n'.replace('typed', 'tyed'));
    expect(same.code).toBe(0);
    expect(same.stderr).toBe('Passphrase of the new key: \nThe same passphrase again: \n');
    await sign('mok.key', () => Promise.resolve('tyed'));
  });

  it('stops at Ctrl-C, and says what is missing without a terminal', async () => {
    const stdin = new PassThrough();
    const done = cli(['keygen', '--out-dir', tmp, '--encrypt'], {}, { stdin, tty: true });
    stdin.write('abc\x03');
    expect((await done).code).toBe(130);
    const none = await keygen('--encrypt');
    expect(none.code).toBe(2);
    expect(none.stderr).toContain('The passphrase for the new key is missing');
    expect(readdirSync(tmp)).toEqual([]);
  });

  it('names the host by default, and refuses names and days that cannot be', async () => {
    for (const argv of [
      ['--name', 'x'.repeat(65)],
      ['--name', 'a\nb'],
      ['--days', '0'],
      ['--days', 'x'],
    ]) {
      expect((await keygen(...argv)).code).toBe(2);
    }
    writeFileSync(join(tmp, 'file'), '');
    expect((await keygen('--out-dir', join(tmp, 'file'))).code).toBe(2);
    rmSync(join(tmp, 'file'));
    expect(readdirSync(tmp)).toEqual([]);
    await keygen('--out-dir', join(tmp, 'new/folder'));
    const cert = join(tmp, 'new/folder/mok.pem');
    const subject = spawnSync('openssl', ['x509', '-noout', '-subject', '-in', cert]).stdout;
    expect(String(subject)).toContain(`${hostname().slice(0, 40)} module signing`);
  });
});
