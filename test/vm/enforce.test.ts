import { X509Certificate } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { baseImage } from '../../src/environment/base-image.js';
import { bootEnforcing } from '../../src/environment/enforcing.js';
import { kernelLayer, type KernelLayer } from '../../src/environment/kernel-layer.js';
import type { Booted, Machine } from '../../src/environment/boot.js';
import { cacheDir } from '../../src/lib/paths.js';
import { resolveKernels } from '../../src/distro/resolve.js';
import { findRow, loadCatalogue } from '../../src/distro/catalogue.js';
import { readDeb } from '../../src/formats/deb.js';
import { openSigner } from '../../src/pack/sign.js';
import { keyIdOf } from '../../src/formats/certificate.js';
import { stripSignature } from '../../src/pack/signature.js';
import { chooseAccelerator } from '../../src/vm/accel.js';
import { DISTRO, FIXTURES, IMAGE, kernels, ROAD, temporary, tool, type Document } from './tool.js';

const { signal } = new AbortController();
let kernel = '';
let work = '';
let layer: KernelLayer;
let release: (() => Promise<void>)[] = [];
let machine: Machine;

beforeAll(async () => {
  kernel = (await kernels()).newest;
  work = await temporary('enforce');
  const emit = (): void => undefined;
  const { name: accel, cpu } = await chooseAccelerator('auto', 'x86_64', { emit, signal });
  machine = { arch: 'x86_64', accel, cpu, cpus: 2, memoryMiB: 2048, emit, signal };
  const rows = await loadCatalogue();
  const context = { arch: 'x86_64' as const, offline: false, signal };
  const row = findRow(rows, DISTRO);
  const [target] = await resolveKernels([kernel], rows, {
    distro: DISTRO,
    ...context,
    cacheDir: cacheDir(),
    warn: emit,
  });
  const base = await baseImage(row, { ...context, image: IMAGE[1]!, variant: 'build', cwd: work, emit });
  layer = await kernelLayer(
    { base, target: target!, variant: 'build', kernelPackages: [], buildPackages: { names: [], files: [] } },
    machine,
  );
  release = [() => layer.entry.use.release(), async () => base.entry?.use.release()];
});

afterAll(async () => {
  for (const each of release) await each();
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

  await using booted = await bootEnforcing(layer, certificate, join(work, 'vm'), machine);

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
