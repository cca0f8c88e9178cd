import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hasDebugInfo, pairDebugSymbols } from '../../src/pack/debug-symbols.js';
import { buildId } from '../../src/formats/elf.js';
import { packModules, type PackInput, type PackedPackage } from '../../src/pack/module-package.js';
import { elf, hasTool, modinfo } from './pack-fixture.js';

const RELEASE = '6.1.0-56-amd64';
let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

function tool(file: string, ...args: string[]): string {
  const done = spawnSync(file, args, { cwd: tmp, encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
  if (done.status !== 0) throw new Error(`${file} ${args.join(' ')}: ${done.stdout}${done.stderr}`);
  return done.stdout;
}

/** The shortest build id that ld could write, as a section. */
const note = (id: Buffer): [string, Buffer] => {
  const head = Buffer.alloc(12);
  [4, id.length, 3].forEach((value, at) => head.writeUInt32LE(value, at * 4));
  return ['.note.gnu.build-id', Buffer.concat([head, Buffer.from('GNU\0'), id])];
};

const module = (...more: [string, Buffer][]): Buffer =>
  elf([['.modinfo', modinfo({ vermagic: `${RELEASE} SMP ` })], ...more]);
const INFO: [string, Buffer] = ['.debug_info', Buffer.from('dwarf')];

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

describe('pairDebugSymbols', () => {
  const [id, other] = [Buffer.alloc(20, 0xaa), Buffer.alloc(20, 0xbb)];

  it('goes by build id, never by name where there is one', () => {
    const mine = module(note(id), INFO);
    const pairs = pairDebugSymbols(
      [{ name: 'a.ko', bytes: module(note(id)) }],
      [
        { name: 'a.ko.debug', bytes: module(note(other), INFO) },
        { name: 'b.ko.debug', bytes: mine },
      ],
    );
    expect([...pairs]).toEqual([['a.ko', mine]]);
  });

  it('goes by name where there is none', async () => {
    const mine = module(INFO);
    const pairs = pairDebugSymbols(
      [{ name: 'a.ko', bytes: module() }],
      [{ name: 'a.ko.debug', bytes: mine }],
    );
    expect(pairs.get('a.ko')).toBe(mine);
    const packed = await pack([{ name: 'a.ko', bytes: module(), debug: mine }]);
    if (!hasTool('dpkg-deb')) return;
    tool('dpkg-deb', '-x', packed[1]!.path, 'root');
    const dir = join(tmp, 'root/usr/lib/debug');
    expect(readFileSync(join(dir, `lib/modules/${RELEASE}/updates/dkms/a.ko.debug`))).toEqual(mine);
    expect(existsSync(join(dir, '.build-id'))).toBe(false);
    expect(tool('dpkg-deb', '-f', packed[1]!.path)).not.toContain('Build-Ids');
  });

  it('takes no file without debug information, and none that is nonsense', () => {
    const modules = [{ name: 'a.ko', bytes: module(note(id)) }];
    for (const bytes of [
      module(note(id)),
      module(note(id), ['.debug_info', Buffer.alloc(0)]),
      Buffer.from('no'),
    ]) {
      expect(pairDebugSymbols(modules, [{ name: 'a.ko.debug', bytes }]).size).toBe(0);
    }
  });
});

it('a build id is read only from a whole note', () => {
  const [name, whole] = note(Buffer.alloc(20, 0xab));
  expect(buildId(module([name, whole]))).toBe('ab'.repeat(20));
  for (const bytes of [whole.subarray(0, 35), Buffer.alloc(36), Buffer.alloc(4)]) {
    expect(buildId(module([name, bytes]))).toBeUndefined();
  }
  expect(buildId(module(note(Buffer.alloc(40))))).toBeUndefined();
});
