import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { compressionOf, decompress } from '../../src/formats/decompress.js';
import { compressModule, moduleCompression } from '../../src/pack/compress.js';
import { packModules } from '../../src/pack/module-package.js';
import { fakeModule } from './pack-fixture.js';

const RELEASE = '6.12.117+deb13-amd64';
const KO = Buffer.concat([fakeModule(RELEASE), Buffer.alloc(100_000, 'abc')]);

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

describe('what the configuration says', () => {
  it.each([
    // 3.18 to 5.12
    ['# CONFIG_MODULE_COMPRESS is not set', 'none'],
    ['CONFIG_MODULE_COMPRESS=y\nCONFIG_MODULE_COMPRESS_GZIP=y\n# CONFIG_MODULE_COMPRESS_XZ is not set', 'gz'],
    ['CONFIG_MODULE_COMPRESS=y\n# CONFIG_MODULE_COMPRESS_GZIP is not set\nCONFIG_MODULE_COMPRESS_XZ=y', 'xz'],
    // 5.13 to 6.11
    ['CONFIG_MODULE_COMPRESS_NONE=y\n# CONFIG_MODULE_COMPRESS_XZ is not set', 'none'],
    ['# CONFIG_MODULE_COMPRESS_NONE is not set\nCONFIG_MODULE_COMPRESS_ZSTD=y', 'zst'],
    // 6.12 and later
    ['CONFIG_MODULE_COMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y\nCONFIG_MODULE_COMPRESS_ALL=y', 'xz'],
    [
      'CONFIG_MODULE_COMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y\n# CONFIG_MODULE_COMPRESS_ALL is not set',
      'none',
    ],
    ['', 'none'],
    ['# CONFIG_X\n#CONFIG_MODULE_COMPRESS_XZ=y', 'none'],
  ])('%j: %s', (config, how) => {
    expect(moduleCompression(config)).toBe(how);
  });
});

it('leaves a plain module alone, and makes gzip without a tool of the host', async () => {
  expect(await compressModule(KO, 'none')).toBeUndefined();
  const packed = await compressModule(KO, 'gz');
  expect(packed?.suffix).toBe('.gz');
  const bytes = packed?.bytes ?? Buffer.alloc(0);
  expect(gunzipSync(bytes).equals(KO)).toBe(true);
  expect((await compressModule(KO, 'gz'))?.bytes.equals(bytes)).toBe(true);
});

describe('decompress', () => {
  it('gives plain bytes back as they are, up to its limit', async () => {
    expect(await decompress(KO, compressionOf(KO), KO.length, 'x')).toBe(KO);
    await expect(decompress(KO, 'none', KO.length - 1, 'x')).rejects.toThrow(
      'x unpacks to more than the limit',
    );
  });

  it('refuses damaged and too large gzip', async () => {
    const bytes = (await compressModule(KO, 'gz'))?.bytes ?? Buffer.alloc(0);
    expect(compressionOf(bytes)).toBe('gzip');
    await expect(decompress(bytes.subarray(0, -10), 'gzip', KO.length, 'x')).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringContaining('x is damaged or cut off') as string,
    });
    await expect(decompress(bytes, 'gzip', KO.length - 1, 'x')).rejects.toThrow('more than the limit');
  });
});

it('a package refuses a compressed module with another suffix', async () => {
  const pack = (packed: { suffix: string; bytes: Buffer }) =>
    packModules({
      module: 'acpi_call',
      version: '1.2.2',
      release: RELEASE,
      debArch: 'amd64',
      kernelImages: [`linux-image-${RELEASE}`],
      modules: [{ name: 'acpi_call.ko', bytes: KO, packed }],
      extras: [],
      sourcePackage: null,
      maintainer: 'dkms2bin <root@localhost>',
      dependsModules: [],
      mtime: 1_700_000_000,
      outDir: tmp,
      fileName: 'a.deb',
    });
  for (const suffix of ['.bz2', '/../x', 'xz']) {
    await expect(pack({ suffix, bytes: KO })).rejects.toThrow("Not a kernel module's file name");
  }
});
