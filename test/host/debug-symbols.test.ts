import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hasDebugInfo, pairDebugSymbols } from '../../src/pack/debug-symbols.js';
import { buildId } from '../../src/formats/elf.js';
import { packModules, type PackInput, type PackedPackage } from '../../src/pack/module-package.js';
import { hasTool } from '../unit/pack-fixture.js';

const RELEASE = '6.1.0-56-amd64';
let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

function tool(file: string, ...args: string[]): string {
  const done = spawnSync(file, args, { cwd: tmp, encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
  if (done.status !== 0) throw new Error(`${file} ${args.join(' ')}: ${done.stdout}${done.stderr}`);
  return done.stdout;
}

const pack = async (modules: PackInput['modules']): Promise<PackedPackage[]> => {
  mkdirSync(join(tmp, 'out'), { recursive: true });
  return packModules({
    ...{ module: 'foo_bar', version: '1.0', release: RELEASE, debArch: 'amd64', modules, extras: [] },
    kernelImages: [`linux-image-${RELEASE}`],
    ...{ sourcePackage: null, maintainer: 'a b <a@b>', dependsModules: [], mtime: 1_700_000_000 },
    ...{ outDir: join(tmp, 'out'), fileName: 'foo.deb' },
  });
};

describe('with a real compiler', () => {
  it('gdb and readelf find the source of an installed, stripped module by its build id', async (ctx) => {
    if (!['gcc', 'ld', 'objcopy', 'strip', 'readelf', 'dpkg-deb'].every(hasTool)) ctx.skip('no compiler');
    const info = `static const char i[] __attribute__((used, section(".modinfo"))) = "vermagic=${RELEASE} ";\n`;
    writeFileSync(join(tmp, 'source.c'), `${info}int answer(int x) { return x + 42; }\n`);
    tool('gcc', '-c', '-g', 'source.c', '-o', 'source.o');
    tool('ld', '-r', '--build-id=sha1', 'source.o', '-o', 'foo.ko');
    tool('objcopy', '--only-keep-debug', 'foo.ko', 'foo.ko.debug');
    tool('strip', '-g', 'foo.ko');
    const bytes = readFileSync(join(tmp, 'foo.ko'));
    expect(hasDebugInfo(bytes)).toBe(false);
    const id = /Build ID: (\w+)/.exec(tool('readelf', '-n', 'foo.ko'))![1]!;
    expect(buildId(bytes)).toBe(id);

    // What dkms built under one name may be installed under another: they are paired by build id.
    const files = [{ name: 'built-as.ko.debug', bytes: readFileSync(join(tmp, 'foo.ko.debug')) }];
    const debug = pairDebugSymbols([{ name: 'foo.ko', bytes }], files).get('foo.ko')!;
    const packed = await pack([{ name: 'foo.ko', bytes, debug }]);
    expect(packed.map(({ role }) => role)).toEqual(['modules', 'debug']);
    const alone = await pack([{ name: 'foo.ko', bytes }]);
    expect(alone.map(({ role, sha256 }) => [role, sha256])).toEqual([['modules', packed[0]!.sha256]]);

    const deb = join(tmp, 'out', `foo-bar-modules-${RELEASE}-dbgsym_1.0_amd64.deb`);
    expect(packed[1]!.path).toBe(deb);
    const control = tool('dpkg-deb', '-f', deb);
    expect(control).toContain(`Depends: foo-bar-modules-${RELEASE} (= 1.0)\n`);
    expect(control).toContain('Section: debug\n');
    expect(control).toContain(`Auto-Built-Package: debug-symbols\nBuild-Ids: ${id}\n`);

    for (const each of packed) tool('dpkg-deb', '-x', each.path, 'root');
    const symbols = `root/usr/lib/debug/.build-id/${id.slice(0, 2)}/${id.slice(2)}.debug`;
    expect(tool('readelf', '--debug-dump=info', symbols)).toContain('source.c');
    expect(tool('readelf', '-n', symbols)).toContain(`Build ID: ${id}`);
    // crash finds it by name: the link leads to the same file.
    const byName = join(tmp, `root/usr/lib/debug/lib/modules/${RELEASE}/updates/dkms/foo.ko.debug`);
    expect(readFileSync(byName)).toEqual(readFileSync(join(tmp, symbols)));
    if (hasTool('gdb')) {
      const set = `set debug-file-directory ${join(tmp, 'root/usr/lib/debug')}`;
      const ko = `root/lib/modules/${RELEASE}/updates/dkms/foo.ko`;
      const said = tool('gdb', '-nx', '-batch', '-iex', set, '-ex', 'info line answer', ko);
      expect(said).toMatch(/Line 2 of "source\.c"/);
    }
  });
});
