import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readModule } from '../../src/formats/elf.js';
import { hasTool } from '../unit/pack-fixture.js';

const RELEASE = '6.1.0-56-amd64';

/** A real object file of the host's gcc, made the way MODULE_INFO does. */
function gccModule(release: string): Buffer {
  const folder = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  try {
    const info = (name: string, text: string) =>
      `static const char ${name}[] __attribute__((used, aligned(1), section(".modinfo"))) = "${text}";\n`;
    writeFileSync(
      join(folder, 'm.c'),
      `${info('a', 'license=GPL')}${info('b', 'version=1.2.2')}${info('c', 'alias=pci:v1d2*')}${info('d', 'alias=foo')}` +
        `${info('e', 'depends=videodev,mc')}${info('f', 'name=acpi_call')}${info('g', 'firmware=x/y.bin')}` +
        `${info('h', `vermagic=${release} SMP mod_unload `)}int init_module(void) { return 0; }\n`,
    );
    const made = spawnSync('gcc', ['-c', '-g', '-ffunction-sections', 'm.c', '-o', 'm.ko'], { cwd: folder });
    if (made.status !== 0) throw new Error(String(made.stderr));
    return readFileSync(join(folder, 'm.ko'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

it('reads an object of the real compiler', (ctx) => {
  if (!hasTool('gcc')) ctx.skip('gcc is not installed');
  const info = readModule(gccModule(RELEASE));
  expect(info).toMatchObject({
    vermagic: `${RELEASE} SMP mod_unload`,
    name: 'acpi_call',
    version: '1.2.2',
    license: 'GPL',
    depends: ['videodev', 'mc'],
    firmware: ['x/y.bin'],
    signed: false,
  });
  expect(info.alias.sort()).toEqual(['foo', 'pci:v1d2*']);
  expect(info.srcversion).toBeUndefined();
});

it('refuses a real object cut anywhere', (ctx) => {
  if (!hasTool('gcc')) ctx.skip('gcc is not installed');
  const bytes = gccModule(RELEASE);
  for (let length = 0; length < bytes.length; length++) {
    expect(() => readModule(bytes.subarray(0, length))).toThrow(
      expect.objectContaining({ name: 'Dkms2binError', fault: 'module' }),
    );
  }
});
