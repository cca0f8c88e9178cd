import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { pairDebugSymbols } from '../../src/pack/debug-symbols.js';
import { readDeb } from '../../src/formats/deb.js';
import { buildId } from '../../src/formats/elf.js';
import { packModules, type PackInput, type PackedPackage } from '../../src/pack/module-package.js';
import { elf, modinfo } from './pack-fixture.js';

const RELEASE = '6.1.0-56-amd64';
let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

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
    const { control, files } = await readDeb(packed[1]!.path);
    expect(files.map(({ path }) => path)).toEqual([
      `/usr/lib/debug/lib/modules/${RELEASE}/updates/dkms/a.ko.debug`,
    ]);
    expect(files[0]?.bytes()).toEqual(mine);
    expect(control.has('Build-Ids')).toBe(false);
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
