import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { decompress } from '../../../src/formats/decompress.js';
import { compressModule } from '../../../src/pack/compress.js';
import { MAX_MODULE_BYTES } from '../../../src/formats/elf.js';
import { packModules } from '../../../src/pack/module-package.js';
import { hasTool } from '../fixtures/has-tool.js';
import { fakeModule } from '../../unit/fixtures/elf.js';

const RELEASE = '6.12.117+deb13-amd64';
const KO = Buffer.concat([fakeModule(RELEASE), randomBytes(100_000), Buffer.alloc(100_000, 'abc')]);

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(tmp, { recursive: true });
});

describe.each(['gz', 'xz', 'zst'] as const)('%s', (how) => {
  const tool = ({ gz: 'gzip', xz: 'xz', zst: 'zstd' } as const)[how];
  const unpack = (bytes: Buffer) => decompress(bytes, tool, MAX_MODULE_BYTES, `x.ko.${how}`);

  it('is undone by the tool and by decompress', async (ctx) => {
    if (!hasTool(tool)) ctx.skip(`${tool} is not installed`);
    const packed = await compressModule(KO, how);
    expect(packed?.suffix).toBe(`.${how}`);
    const bytes = packed?.bytes ?? Buffer.alloc(0);
    expect(bytes.length).toBeLessThan(KO.length - 90_000);
    expect(spawnSync(tool, ['-dc'], { input: bytes }).stdout.equals(KO)).toBe(true);
    expect((await unpack(bytes)).equals(KO)).toBe(true);
  });

  it('gives the same bytes whatever the user has set', async (ctx) => {
    if (!hasTool(tool)) ctx.skip(`${tool} is not installed`);
    const packed = await compressModule(KO, how);
    vi.stubEnv('XZ_OPT', '-9e --block-size=4096');
    vi.stubEnv('XZ_DEFAULTS', '-T4 -0');
    vi.stubEnv('ZSTD_CLEVEL', '1');
    vi.stubEnv('ZSTD_NBTHREADS', '3');
    expect((await compressModule(KO, how))?.bytes.equals(packed?.bytes ?? KO)).toBe(true);
  });

  // zlib's bytes differ from gzip's, on purpose: they do not depend on the host.
  const itIsThatOfTheTool = how === 'gz' ? () => undefined : it;
  itIsThatOfTheTool('is what the kernel makes of a file', async (ctx) => {
    if (!hasTool(tool)) ctx.skip(`${tool} is not installed`);
    const file = join(tmp, 'x.ko');
    writeFileSync(file, KO);
    const args =
      how === 'xz' ? ['--check=crc32', '--lzma2=dict=1MiB', '-f', '-T1'] : ['-T0', '--rm', '-f', '-q'];
    expect(spawnSync(tool, [...args, file]).status).toBe(0);
    expect((await compressModule(KO, how))?.bytes.equals(readFileSync(`${file}.${how}`))).toBe(true);
  });

  it('is refused when damaged', async (ctx) => {
    if (!hasTool(tool)) ctx.skip(`${tool} is not installed`);
    const bytes = (await compressModule(KO, how))?.bytes ?? Buffer.alloc(0);
    const flipped = Buffer.from(bytes);
    flipped[50_000] = (flipped[50_000] ?? 0) ^ 1;
    for (const each of [bytes.subarray(0, -10), flipped, KO, Buffer.alloc(0)]) {
      await expect(unpack(each)).rejects.toMatchObject({
        name: 'Dkms2binError',
        fault: 'usage',
        message: expect.stringContaining(`x.ko.${how} is damaged or cut off`) as string,
      });
    }
  });

  it('is refused when it grows too large', async (ctx) => {
    if (!hasTool(tool)) ctx.skip(`${tool} is not installed`);
    const large = Buffer.alloc(MAX_MODULE_BYTES + 1);
    const bomb =
      how === 'gz'
        ? gzipSync(large, { level: 1 })
        : spawnSync(tool, ['-1', '-T1', '-c'], { input: large }).stdout;
    expect(bomb.length).toBeLessThan(1_000_000);
    // Not by `rejects`: what is not refused would be printed.
    const result: unknown = await unpack(bomb).then(
      () => 'accepted',
      (error: unknown) => error,
    );
    expect(result).toMatchObject({
      fault: 'usage',
      message: expect.stringContaining(`more than the limit of ${MAX_MODULE_BYTES} bytes`) as string,
    });
  });
});

it('uses CRC32 and a 1 MiB dictionary for xz, as the decompressor in the kernel needs', async (ctx) => {
  if (!hasTool('xz')) ctx.skip('xz is not installed');
  writeFileSync(join(tmp, 'x.xz'), (await compressModule(KO, 'xz'))?.bytes ?? '');
  const listed = String(spawnSync('xz', ['--list', '-vv', join(tmp, 'x.xz')]).stdout);
  expect(listed).toMatch(/CRC32/);
  expect(listed).toContain('--lzma2=dict=1MiB');
});

it('names the package of a missing tool', async () => {
  vi.stubEnv('PATH', tmp);
  if (hasTool('/usr/bin/bwrap')) symlinkSync('/usr/bin/bwrap', join(tmp, 'bwrap'));
  const missing = { fault: 'host', hint: 'Install it: sudo apt-get install xz-utils' };
  await expect(compressModule(KO, 'xz')).rejects.toMatchObject(missing);
  await expect(decompress(KO, 'xz', MAX_MODULE_BYTES, 'x.ko.xz')).rejects.toMatchObject(missing);
});

describe('a package', () => {
  const pack = (packed?: { suffix: string; bytes: Buffer }, release = RELEASE) =>
    packModules({
      module: 'acpi_call',
      version: '1.2.2',
      release,
      debArch: 'amd64',
      kernelImages: [`linux-image-${release}`],
      modules: [{ name: 'acpi_call.ko', bytes: KO, ...(packed && { packed }) }],
      extras: [],
      sourcePackage: null,
      maintainer: 'dkms2bin <root@localhost>',
      dependsModules: [],
      mtime: 1_700_000_000,
      outDir: tmp,
      fileName: 'a.deb',
    });

  it('holds the compressed module, checked by the uncompressed one', async (ctx) => {
    if (!hasTool('dpkg-deb')) ctx.skip('dpkg-deb is not installed');
    const packed = await compressModule(KO, 'gz');
    const [made] = await pack(packed);
    spawnSync('dpkg-deb', ['-x', made?.path ?? '', join(tmp, 'x')]);
    const folder = join(tmp, 'x/lib/modules', RELEASE, 'updates/dkms');
    expect(readFileSync(join(folder, 'acpi_call.ko.gz'))).toEqual(packed?.bytes);
    await expect(pack(packed, '6.1.0-56-amd64')).rejects.toThrow('is built for kernel');
  });
});
