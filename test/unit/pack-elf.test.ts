import { describe, expect, it } from 'vitest';
import { Dkms2binError } from '../../src/model/errors.js';
import { checkModule, MAX_MODULE_BYTES, readModule } from '../../src/formats/elf.js';
import { elf, fakeModule, modinfo } from './pack-fixture.js';

const RELEASE = '6.1.0-56-amd64';

function refused(bytes: Buffer): string {
  try {
    readModule(bytes);
  } catch (error) {
    expect(error).toBeInstanceOf(Dkms2binError);
    expect((error as Dkms2binError).fault).toBe('module');
    return (error as Dkms2binError).message;
  }
  return 'accepted';
}

describe('readModule', () => {
  it('reads both byte orders and knows a signature', () => {
    const section = modinfo({ vermagic: `${RELEASE} ` });
    expect(readModule(elf([['.modinfo', section]], { big: true, machine: 22 })).machine).toBe('s390x');
    expect(readModule(elf([['.modinfo', section]], { machine: 183 })).machine).toBe('aarch64');
    expect(readModule(elf([['.modinfo', section]], { machine: 999 })).machine).toBe('em-999');
    const signed = Buffer.concat([fakeModule(RELEASE), Buffer.from('PKCS7~Module signature appended~\n')]);
    expect(readModule(signed)).toMatchObject({ signed: true, version: '1.2.2' });
  });

  it('throws nothing but its own error, whatever byte is changed', () => {
    const bytes = fakeModule(RELEASE);
    for (const value of [0x00, 0x7f, 0x80, 0xff]) {
      for (let at = 0; at < bytes.length; at++) {
        const changed = Buffer.from(bytes);
        changed[at] = value;
        refused(changed);
      }
    }
  });

  it('throws nothing but its own error on noise behind a right magic', () => {
    let seed = 1;
    const next = () => (seed = (seed * 1103515245 + 12345) % 2 ** 31);
    for (let round = 0; round < 500; round++) {
      const bytes = Buffer.from(Array.from({ length: 64 + (next() % 1000) }, () => next() >> 8));
      Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1 + (round % 2), 1]).copy(bytes);
      bytes.writeUInt16LE(round % 2 === 0 ? 1 : 256, 16);
      expect(refused(bytes)).not.toBe('accepted');
    }
  });

  it.each<[string, Buffer, RegExp]>([
    ['an empty file', Buffer.alloc(0), /no ELF header/],
    ['text', Buffer.from('not a module'.repeat(20)), /no ELF header/],
    ['an executable', elf([], { type: 2 }), /not a relocatable/],
    ['no .modinfo', elf([['.text', Buffer.alloc(8)]]), /no \.modinfo/],
    ['no vermagic', elf([['.modinfo', modinfo({ license: 'GPL' })]]), /no vermagic/],
    ['two vermagics', elf([['.modinfo', modinfo({ vermagic: ['a', 'b'] })]]), /more than one vermagic/],
    ['a vermagic with a newline', elf([['.modinfo', modinfo({ vermagic: 'a\nEvil: 1' })]]), /not plain/],
    [
      'two .modinfo',
      elf([
        ['.modinfo', modinfo({ vermagic: 'a' })],
        ['.modinfo', modinfo({ vermagic: 'b' })],
      ]),
      /more than one \.modinfo/,
    ],
    ['a giant', Buffer.alloc(MAX_MODULE_BYTES + 1), /limit/],
  ])('refuses %s', (_name, bytes, message) => {
    expect(refused(bytes)).toMatch(message);
  });

  it('cleans the texts of a hostile module', () => {
    const bytes = elf([['.modinfo', modinfo({ vermagic: 'x', version: '1\x1b[31m\nDepends: evil\u202e' })]]);
    expect(readModule(bytes).version).toBe('1 Depends: evil');
  });
});

describe('checkModule', () => {
  const info = readModule(fakeModule(RELEASE));
  it('wants exactly the kernel and the machine', () => {
    checkModule(info, { release: RELEASE, arch: 'x86_64' });
    expect(() => checkModule(info, { release: '6.1.0-5', arch: 'x86_64' }, 'a.ko')).toThrow(
      'a.ko is built for kernel 6.1.0-56-amd64, not for 6.1.0-5',
    );
    expect(() => checkModule(info, { release: RELEASE, arch: 'aarch64' })).toThrow(
      'acpi_call is built for x86_64, not for aarch64',
    );
  });
});
