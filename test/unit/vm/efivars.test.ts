import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeTrustingVars } from '../../../src/vm/efivars.js';

let tmp: string;
beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
});
afterEach(() => rmSync(tmp, { recursive: true }));

const HEADER = 72;
const STORE = 1024;
const FLASH = 4096;

/** Flash as OVMF ships it: a firmware volume with an empty store, and what follows the store. */
function emptyFlash(): Buffer {
  const flash = Buffer.alloc(FLASH, 0xff);
  flash.fill(0, 0, HEADER);
  flash.write('_FVH', 40);
  flash.writeUInt16LE(HEADER, 48);
  Buffer.from('782cf3aa7b949a43a1802e144ec37792', 'hex').copy(flash, HEADER);
  flash.fill(0, HEADER + 16, HEADER + 28);
  flash.writeUInt32LE(STORE, HEADER + 16);
  flash.set([0x5a, 0xfe], HEADER + 20);
  flash.write('after the store', HEADER + STORE);
  return flash;
}

async function written(flash: Buffer, certificate: Buffer): Promise<Buffer> {
  writeFileSync(join(tmp, 'template.fd'), flash);
  await writeTrustingVars(join(tmp, 'template.fd'), certificate, join(tmp, 'vars.fd'));
  return readFileSync(join(tmp, 'vars.fd'));
}

test('the store holds one variable, db, with the certificate, and all else is the template', async () => {
  const certificate = Buffer.from('a certificate');
  const flash = await written(emptyFlash(), certificate);
  const variable = flash.subarray(HEADER + 28);
  const nameBytes = variable.readUInt32LE(36);
  const dataBytes = variable.readUInt32LE(40);
  // Start mark, state "added", non-volatile for boot and runtime with time-based authentication.
  expect(variable.toString('hex', 0, 8)).toBe('aa553f0027000000');
  expect(variable.toString('hex', 44, 60)).toBe('cbb219d73a3d9645a3bcdad00e67656f');
  expect(variable.toString('utf16le', 60, 60 + nameBytes)).toBe('db\0');
  const list = variable.subarray(60 + nameBytes, 60 + nameBytes + dataBytes);
  expect(list.toString('hex', 0, 16)).toBe('a159c0a5e494a74a87b5ab155c2bf072');
  expect([list.readUInt32LE(16), list.readUInt32LE(20), list.readUInt32LE(24)]).toEqual([
    list.length,
    0,
    list.length - 28,
  ]);
  expect(list.subarray(28 + 16)).toEqual(certificate);

  const end = HEADER + 28 + 60 + nameBytes + dataBytes;
  const template = emptyFlash();
  expect(flash.subarray(0, HEADER + 28)).toEqual(template.subarray(0, HEADER + 28));
  expect(flash.subarray(end)).toEqual(template.subarray(end));
  expect(readFileSync(join(tmp, 'template.fd'))).toEqual(template);
});

test('a file that is no empty store is refused, and so is a certificate that is larger than it', async () => {
  const change = (at: number): Buffer => {
    const flash = emptyFlash();
    flash[at]! ^= 1;
    return flash;
  };
  const small = Buffer.from('x');
  // Magic, format's GUID, formatted, healthy, a variable that is there already.
  for (const at of [40, HEADER, HEADER + 20, HEADER + 21, HEADER + 28, HEADER + STORE - 1]) {
    await expect(written(change(at), small)).rejects.toMatchObject({ fault: 'host' });
  }
  await expect(written(Buffer.alloc(10), small)).rejects.toMatchObject({ fault: 'host' });
  await expect(written(emptyFlash(), Buffer.alloc(STORE))).rejects.toMatchObject({ fault: 'host' });
  expect(() => statSync(join(tmp, 'vars.fd'))).toThrow('ENOENT');
});
