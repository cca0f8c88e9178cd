import { spawnSync } from 'node:child_process';

export function hasTool(name: string): boolean {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** A .modinfo section's bytes. */
export function modinfo(fields: Record<string, string | string[]>): Buffer {
  const lines = Object.entries(fields).flatMap(([key, value]) =>
    [value].flat().map((each) => `${key}=${each}\0`),
  );
  return Buffer.from(lines.join(''));
}

/** The smallest relocatable ELF64 with these sections (after .shstrtab), section table last as ld writes it. */
export function elf(
  sections: [name: string, bytes: Buffer][],
  { big = false, machine = 62, type = 1 }: { big?: boolean; machine?: number; type?: number } = {},
): Buffer {
  const names = Buffer.from(`\0.shstrtab\0${sections.map(([name]) => `${name}\0`).join('')}`);
  const bodies = [names, ...sections.map(([, bytes]) => bytes)];
  const table = 64 + bodies.reduce((sum, body) => sum + body.length, 0);
  const out = Buffer.concat([Buffer.alloc(64), ...bodies, Buffer.alloc(64 * (bodies.length + 1))]);
  const u16 = (value: number, at: number) =>
    big ? out.writeUInt16BE(value, at) : out.writeUInt16LE(value, at);
  const u32 = (value: number, at: number) =>
    big ? out.writeUInt32BE(value, at) : out.writeUInt32LE(value, at);
  const u64 = (value: number, at: number) =>
    big ? out.writeBigUInt64BE(BigInt(value), at) : out.writeBigUInt64LE(BigInt(value), at);
  out.write('\x7fELF', 'latin1');
  out.set([2, big ? 2 : 1, 1], 4);
  u16(type, 16);
  u16(machine, 18);
  u32(1, 20);
  u64(table, 40);
  u16(64, 52);
  u16(64, 58);
  u16(bodies.length + 1, 60);
  u16(1, 62);
  let offset = 64;
  bodies.forEach((body, index) => {
    const at = table + 64 * (index + 1);
    const name = index === 0 ? '.shstrtab' : (sections[index - 1]?.[0] ?? '');
    u32(names.indexOf(`\0${name}\0`) + 1, at);
    u32(index === 0 ? 3 : 1, at + 4);
    u64(offset, at + 24);
    u64(body.length, at + 32);
    offset += body.length;
  });
  return out;
}

/** A stand-in for a module that was built for a kernel. */
export function fakeModule(release: string, name = 'acpi_call'): Buffer {
  return elf([
    ['.text', Buffer.alloc(3000, 0x90)],
    [
      '.modinfo',
      modinfo({ version: '1.2.2', name, vermagic: `${release} SMP preempt mod_unload modversions ` }),
    ],
  ]);
}
