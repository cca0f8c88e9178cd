import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as openpgp from 'openpgp';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadSigningKey } from '../../src/repo/index.js';
import { hasTool } from '../unit/pack-fixture.js';
import { command, makeKey, tempFolder } from '../unit/repo-fixture.js';

let tmp: ReturnType<typeof tempFolder>;
beforeEach(() => (tmp = tempFolder()));
afterEach(() => tmp.remove());

test('a key opens with its passphrase, from the environment or asked for, and not without', async () => {
  const { file } = await makeKey(tmp.path, { passphrase: 'open sesame' });
  const key = await loadSigningKey(file, { passphrase: 'open sesame' });
  expect(key.fingerprint).toMatch(/^[0-9A-F]{40}$/);
  expect(key.publicKey).toMatch(/^-----BEGIN PGP PUBLIC KEY BLOCK-----\n/);
  const asked: string[] = [];
  const ask = (question: string): Promise<string> => {
    asked.push(question);
    return Promise.resolve('open sesame');
  };
  await loadSigningKey(file, { ask });
  expect(asked).toEqual([`Passphrase of the repository key ${file}: `]);
  const hint = expect.stringContaining('DKMS2BIN_REPO_PASSPHRASE') as string;
  for (const none of [{}, { ask: () => Promise.resolve(null) }, { passphrase: '' }]) {
    await expect(loadSigningKey(file, none)).rejects.toMatchObject({
      fault: 'usage',
      message: `The key ${file} needs its passphrase`,
      hint,
    });
  }
  const wrong = loadSigningKey(file, { passphrase: 'open barley' });
  await expect(wrong).rejects.toMatchObject({
    fault: 'usage',
    message: `Wrong passphrase for the key ${file}`,
    hint,
  });
});

test('what is no key to sign with is said in so many words', async () => {
  const refused = async (file: string, message: RegExp): Promise<void> => {
    await expect(loadSigningKey(file, { passphrase: 'secret' })).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringMatching(message) as string,
    });
  };
  const write = (name: string, content: string | Uint8Array): string => {
    writeFileSync(join(tmp.path, name), content);
    return join(tmp.path, name);
  };
  const { publicKey, file } = await makeKey(tmp.path, { load: false });
  await refused(join(tmp.path, 'none.asc'), /no such file/);
  await refused(tmp.path, /a folder/);
  await refused(write('text', 'hello'), /not an OpenPGP key/);
  await refused(write('empty', ''), /holds 0 keys|not an OpenPGP key/);
  await refused(write('public.asc', publicKey), /public part only/);
  await refused(write('cut.asc', readFileSync(file, 'utf8').slice(0, 300)), /not an OpenPGP key/);
  const expired = await makeKey(tmp.path, {
    date: new Date('2020-01-01'),
    keyExpirationTime: 86400,
    load: false,
  });
  await refused(expired.file, /expired on 2020-01-02/);
  const v6 = await openpgp.generateKey({
    userIDs: [{ name: 'x' }],
    config: { v6Keys: true },
    format: 'armored',
  });
  await refused(write('v6.asc', v6.privateKey), /OpenPGP version 6/);
  const two = await makeKey(tmp.path);
  const both = await Promise.all(
    [file, two.file].map((each) => openpgp.readPrivateKey({ armoredKey: readFileSync(each, 'utf8') })),
  );
  await refused(write('two.gpg', Buffer.concat(both.map((each) => each.write()))), /holds 2 keys/);
  // A binary key is as good as an armored one.
  await loadSigningKey(write('one.gpg', both[0]?.write() ?? ''));
});

test('gpgv takes both kinds of signature, of every kind of key; nobody takes them for another text', async (ctx) => {
  if (!hasTool('gpgv')) ctx.skip('gpgv is not installed');
  const text = 'Origin: x\nDate: y\n- dashes and trailing blanks  \nSHA256:\n abc 1 Packages\n';
  const kinds = [
    { type: 'ecc', curve: 'ed25519Legacy' },
    { type: 'ecc', curve: 'nistP384' },
    { type: 'rsa', rsaBits: 2048 },
  ] as const;
  for (const kind of kinds) {
    const made = await openpgp.generateKey({
      ...kind,
      userIDs: [{ name: 'x' }],
      subkeys: [{ sign: true }],
      format: 'armored',
    });
    const file = join(tmp.path, 'key.asc');
    writeFileSync(file, made.privateKey);
    const key = await loadSigningKey(file);
    const [clear, detached] = [await key.clearSign(text), await key.detachSign(text)];
    const ring = join(tmp.path, 'ring.gpg');
    writeFileSync(ring, (await openpgp.readKey({ armoredKey: key.publicKey })).write());
    for (const [name, content] of Object.entries({ clear, detached, text })) {
      writeFileSync(join(tmp.path, name), content);
    }
    const gpgv = (...args: string[]) => command('gpgv', ['--homedir', tmp.path, '--keyring', ring, ...args]);
    expect(await gpgv(join(tmp.path, 'clear'))).toMatchObject({ code: 0 });
    expect(await gpgv(join(tmp.path, 'detached'), join(tmp.path, 'text'))).toMatchObject({ code: 0 });
    for (const message of [clear, detached]) expect(message).not.toContain('\r');
    expect(await key.isDetachSigned(detached, text)).toBe(true);
    expect(await key.isDetachSigned(detached, `${text}x`)).toBe(false);
    expect(await key.isDetachSigned('no signature', text)).toBe(false);
    const plain = text.replace('  \n', '\n');
    expect(await key.isClearSigned(await key.clearSign(plain), plain)).toBe(true);
    expect(await key.isClearSigned(clear, `${text}x`)).toBe(false);
    expect(await key.isClearSigned(clear.replace('Origin: x', 'Origin: z'), plain)).toBe(false);
    const stranger = (await makeKey(tmp.path)).key;
    expect(await stranger?.isClearSigned(await key.clearSign(plain), plain)).toBe(false);
    const signature = await openpgp.readSignature({ armoredSignature: detached });
    expect(signature.packets[0]).toMatchObject({ version: 4 });
    expect([8, 9, 10]).toContain(signature.packets[0]?.hashAlgorithm);
  }
});
