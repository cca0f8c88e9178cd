import { X509Certificate } from 'node:crypto';
import { execa } from 'execa';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bootEnforcing } from '../../src/environment/enforcing.js';
import type { KernelLayer } from '../../src/environment/kernel-layer.js';
import type { Booted, Machine } from '../../src/environment/boot.js';
import { readDeb } from '../../src/formats/deb.js';
import { openSigner, type Signer } from '../../src/pack/sign.js';
import { keyIdOf } from '../../src/formats/certificate.js';
import { appendSignature, stripSignature } from '../../src/pack/signature.js';
import { distroDebs, openLayer } from './layer.js';
import { FIXTURES, kernels, ROAD, temporary, tool, type Document } from './tool.js';

const { signal } = new AbortController();
let kernel = '';
let work = '';
let layer: KernelLayer;
let opened: Awaited<ReturnType<typeof openLayer>> | undefined;
let machine: Machine;

beforeAll(async () => {
  kernel = (await kernels()).newest;
  work = await temporary('enforce');
  opened = await openLayer(kernel, 'build', work);
  ({ layer, machine } = opened);
});

afterAll(async () => {
  await opened?.[Symbol.asyncDispose]();
  await rm(work, { recursive: true, force: true });
});

/** Loads these bytes in the guest as a module, and takes it out again: what insmod and the kernel said of it. */
async function load(
  { guest }: Booted,
  bytes: Buffer,
): Promise<{ code: number; said: string; kernel: string; taint: string }> {
  await guest.put({ bytes }, '/tmp/m.ko');
  const said = await guest.text(
    'dmesg -C; insmod /tmp/m.ko 2>&1; echo code=$?; dmesg; cat /sys/module/dk2b_tiny/taint && rmmod dk2b_tiny || true',
  );
  const [insmod = '', code = '', log = '', taint = ''] = /^([^]*)code=(\d+)\n((?:\[.*\n)*)([^]*)$/
    .exec(said)!
    .slice(1);
  return { code: Number(code), said: insmod.trim(), kernel: log, taint: taint.trim() };
}

/** Where the machine code of a section of an ELF64 file lies. */
function sectionOf(elf: Buffer, wanted: string): { start: number; size: number } {
  const header = (index: number): Buffer => {
    const at = Number(elf.readBigUInt64LE(0x28)) + index * elf.readUInt16LE(0x3a);
    return elf.subarray(at, at + 64);
  };
  const place = (section: Buffer) => ({
    start: Number(section.readBigUInt64LE(24)),
    size: Number(section.readBigUInt64LE(32)),
  });
  const names = place(header(elf.readUInt16LE(0x3e))).start;
  for (let index = 0; index < elf.readUInt16LE(0x3c); index++) {
    const name = names + header(index).readUInt32LE(0);
    if (elf.toString('latin1', name, elf.indexOf(0, name)) === wanted) return place(header(index));
  }
  throw new Error(`no section ${wanted}`);
}

test('under module.sig_enforce=1 a kernel that trusts the certificate loads the signed module and nothing else', async () => {
  for (const name of ['keys', 'other']) {
    const made = await tool(['keygen', '--out-dir', name, '--name', `Tests, ${name}`], { cwd: work });
    expect(made.code, made.stderr).toBe(0);
  }
  const built = await tool(
    [
      ...['--dkms', join(FIXTURES, 'tiny'), '--kernel', kernel, ...ROAD, '--no-verify', '--json'],
      ...['--out-dir', 'out', '--sign-key', 'keys/mok.key', '--sign-cert', 'keys/mok.pem'],
    ],
    { cwd: work, env: { DKMS2BIN_STATE: join(work, 'state') } },
  );
  expect(built.code, built.stderr).toBe(0);
  const deb = await readDeb((JSON.parse(built.stdout) as Document).cells[0]!.package!);
  const signed = deb.files.find((file) => file.path.endsWith('/dk2b_tiny.ko'))!.bytes();
  const certificate = new X509Certificate(await readFile(join(work, 'keys', 'mok.pem')));

  await using booted = await bootEnforcing(
    { layer, network: 'none' },
    certificate,
    join(work, 'vm'),
    machine,
  );

  const good = await load(booted, signed);
  expect(good).toMatchObject({ code: 0, said: '' });
  expect(good.kernel).toContain('dk2b_tiny loaded');
  // Out of tree, and not E: the kernel found the signature good.
  expect(good.taint).toBe('O');
  const shown = await booted.guest.text('modinfo -F signer /tmp/m.ko; modinfo -F sig_key /tmp/m.ko');
  expect(shown.trim().split('\n')).toEqual(['Tests, keys', keyIdOf(certificate)]);

  const changed = Buffer.from(signed);
  const code = sectionOf(changed, '.init.text');
  changed[code.start + code.size - 1]! ^= 1;
  const tampered = await load(booted, changed);
  expect(tampered).toMatchObject({ code: 1, taint: '' });
  expect(tampered.said).toMatch(/Key was rejected by service|Bad message/);

  const unsigned = await load(booted, stripSignature(signed));
  expect(unsigned).toMatchObject({ code: 1, taint: '' });
  expect(unsigned.kernel).toMatch(/loading of unsigned module is rejected/i);

  const other = await openSigner({ key: 'other/mok.key', cert: 'other/mok.pem', cwd: work, signal });
  const stranger = await load(booted, await other.sign(signed, 'sha256'));
  expect(stranger).toMatchObject({ code: 1, taint: '' });
  expect(stranger.kernel).toMatch(/loading of module with unavailable key is rejected/i);
});

test('under an enrolled authority a key made later signs; a foreign, a forged and a hidden one do not', async () => {
  const keygen = async (...argv: string[]): Promise<void> => {
    const made = await tool(['keygen', ...argv], { cwd: work });
    expect(made.code, made.stderr).toBe(0);
  };
  const openssl = (...args: string[]) => execa('openssl', args, { cwd: work, encoding: 'buffer' });
  const leaf = (dir: string): Promise<Signer> =>
    openSigner({ key: `${dir}/leaf.key`, cert: `${dir}/leaf.pem`, cwd: work, signal });
  /** As whoever does not ask dkms2bin signs. */
  const signedBy = async (dir: string, ...more: string[]): Promise<Buffer> => {
    const form = ['cms', '-sign', '-binary', '-noattr', '-nosmimecap', '-outform', 'DER', '-md', 'sha256'];
    const key = ['-signer', `${dir}/leaf.pem`, '-inkey', `${dir}/leaf.key`, '-in', 'tiny.ko'];
    return appendSignature(tiny, Buffer.from((await openssl(...form, ...key, ...more)).stdout));
  };
  for (const name of ['fleet', 'foreign']) await keygen('--ca', '--out-dir', name, '--name', name);
  const built = await tool(
    [
      ...['--dkms', join(FIXTURES, 'tiny'), '--kernel', kernel, ...ROAD, '--no-verify', '--json'],
      ...['--out-dir', 'unsigned'],
    ],
    { cwd: work, env: { DKMS2BIN_STATE: join(work, 'state') } },
  );
  expect(built.code, built.stderr).toBe(0);
  const deb = await readDeb((JSON.parse(built.stdout) as Document).cells[0]!.package!);
  const tiny = stripSignature(deb.files.find((file) => file.path.endsWith('/dk2b_tiny.ko'))!.bytes());
  await writeFile(join(work, 'tiny.ko'), tiny);
  const authority = new X509Certificate(await readFile(join(work, 'fleet', 'ca.pem')));

  await using booted = await bootEnforcing(
    { layer, network: 'none' },
    authority,
    join(work, 'fleet-vm'),
    machine,
  );

  // After the enrolment.
  const under = (name: string): string[] => ['--ca-key', `${name}/ca.key`, '--ca-cert', `${name}/ca.pem`];
  await keygen(...under('fleet'), '--out-dir', 'november', '--name', 'November');
  await keygen(...under('fleet'), '--out-dir', 'december', '--name', 'December');
  await keygen(...under('foreign'), '--out-dir', 'stranger');
  for (const dir of ['november', 'december']) {
    expect(await load(booted, await (await leaf(dir)).sign(tiny, 'sha256'))).toMatchObject({
      ...{ code: 0, taint: 'O' },
    });
  }
  const shown = await booted.guest.text('modinfo -F signer /tmp/m.ko');
  expect(shown.trim()).toBe('fleet');

  const refused = /loading of module with unavailable key is rejected/i;
  const stranger = await load(booted, await (await leaf('stranger')).sign(tiny, 'sha256'));
  expect(stranger.code).toBe(1);
  expect(stranger.kernel).toMatch(refused);
  // As the kernel's own sign-file does it.
  const hidden = await load(booted, await signedBy('november', '-nocerts'));
  expect(hidden.code).toBe(1);
  expect(hidden.kernel).toMatch(refused);
  const whole = await load(booted, await signedBy('november'));
  expect(whole.code).toBe(0);

  // It says that it is under the authority, and somebody else made it.
  await keygen('--ca', '--out-dir', 'forger', '--name', 'fleet');
  await keygen(...under('forger'), '--out-dir', 'forged');
  const forged = await load(booted, await (await leaf('forged')).sign(tiny, 'sha256'));
  expect(forged.code).toBe(1);
  expect(forged.kernel).toMatch(refused);

  // Nothing is signed with a key that has ended. The kernel itself does not look at dates.
  await mkdir(join(work, 'expired'));
  const request = ['req', '-new', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=expired'];
  await openssl(...request, '-keyout', 'expired/leaf.key', '-out', 'expired/leaf.csr');
  await writeFile(join(work, 'expired.cnf'), 'authorityKeyIdentifier=keyid\n');
  await openssl(
    ...['x509', '-req', '-in', 'expired/leaf.csr', '-days', '0', '-out', 'expired/leaf.pem'],
    ...['-CA', 'fleet/ca.pem', '-CAkey', 'fleet/ca.key', '-set_serial', '7', '-extfile', 'expired.cnf'],
  );
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await expect(leaf('expired')).rejects.toThrow(/expired on/);
  expect(await load(booted, await signedBy('expired'))).toMatchObject({ code: 0, taint: 'O' });

  await enrolAndPurge(booted, join(work, 'foreign', 'ca.pem'));
});

/** The package that a repository gets with --enrol asks the firmware for it, and takes it back. */
async function enrolAndPurge({ guest }: Booted, authority: string): Promise<void> {
  const repository = join(work, 'enrol');
  await mkdir(repository);
  const published = await tool(['repo', repository, '--enrol', authority, '--json']);
  expect(published.code, published.stderr).toBe(0);
  const [file = ''] = (await readdir(repository)).filter((name) => name.startsWith('module-key-foreign_'));
  // What mokutil needs beside what every Debian has.
  const its = ['mokutil', 'libefivar1', 'libkeyutils1'];
  const debs = [...(await distroDebs(work, 'mokutil', its)), join(repository, file)];
  for (const [at, path] of debs.entries()) await guest.put({ bytes: await readFile(path) }, `/tmp/${at}.deb`);
  const name = 'module-key-foreign';
  const { raw } = new X509Certificate(await readFile(authority));
  /** Whether the firmware has a request with this certificate for its next start. */
  const asked = async (): Promise<boolean> => {
    const text = await guest.text('cat /sys/firmware/efi/efivars/MokNew-* 2>/dev/null | base64 -w0 || true');
    return Buffer.from(text, 'base64').includes(raw);
  };
  const quiet = 'export DEBIAN_FRONTEND=noninteractive;';
  await guest.text(`${quiet} dpkg -i /tmp/[0-2].deb`);

  // Nobody gave a password: it says what to type.
  const bare = await guest.text(`${quiet} dpkg -i /tmp/3.deb 2>&1`);
  expect(bare).toContain(`mokutil --import /usr/share/module-keys/${name}.der`);
  expect(await asked()).toBe(false);

  const preseed = `echo '${name} ${name}/password password a secret of 1' | debconf-set-selections`;
  const enrolled = await guest.text(`${quiet} ${preseed}; dpkg-reconfigure ${name} 2>&1`);
  expect(enrolled).toContain('choose "Enroll MOK"');
  expect(await asked()).toBe(true);
  expect(await guest.text("grep -c 'a secret of 1' /var/cache/debconf/*.dat || true")).not.toMatch(/:[1-9]/);
  // Once more asks for nothing more.
  expect(await guest.text(`${quiet} ${preseed}; dpkg-reconfigure ${name} 2>&1`)).not.toContain('Enroll MOK');

  await guest.text(`${quiet} dpkg --purge ${name} 2>&1`);
  expect(await asked()).toBe(false);
  expect(await guest.text(`ls -d /var/lib/${name} 2>&1 || true`)).toContain('No such file');
}
