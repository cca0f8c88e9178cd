import { describe, expect, test } from 'vitest';
import { findConf, type ConfHints, type FoundConf } from '../../../src/source/conf.js';
import { TREES, treeOf } from '../fixtures/source-trees.js';

const commit = { id: 'abcdef0123456789abcdef0123456789abcdef01', date: new Date('2026-03-04T05:06:07Z') };
const found = (files: Readonly<Record<string, string>>, hints: Partial<ConfHints> = {}): FoundConf =>
  findConf(treeOf(files), { text: 'X', name: 'repo', ...hints });
const confOf = (result: FoundConf): string => result.tree.text('dkms.conf') ?? '';

describe('the forms of known drivers', () => {
  test('nine modules, the version by the tag', () => {
    const result = found(TREES.xone, { tags: ['v0.3'] });
    expect(confOf(result)).toContain('PACKAGE_VERSION="0.3"');
    expect(confOf(result)).toContain('BUILT_MODULE_NAME[8]="m8"');
    expect(result.said).toBe('dkms.conf: version 0.3 from the tag v0.3');
  });

  test('dkms.conf.in in a folder, VERSION above', () => {
    const result = found(TREES.xpadneo);
    expect(result).toMatchObject({ folder: 'hid-pad', asGiven: false });
    expect(result.said).toBe('dkms.conf from hid-pad/dkms.conf.in; version 0.9.7 from VERSION');
    expect(confOf(result)).toContain('PACKAGE_VERSION="0.9.7"');
    // What the shell of dkms expands stays.
    expect(confOf(result)).toContain("VERSION='${PACKAGE_VERSION}'");
    expect(result.tree.paths).toEqual(expect.arrayContaining(['src/hid-pad.c', 'src/Makefile']));
    expect(result.tree.paths).not.toContain('VERSION');
  });

  test('no version anywhere: of a commit its date, else refused with the option', () => {
    expect(confOf(found(TREES.it87, { commit }))).toContain('PACKAGE_VERSION="0~git20260304.abcdef0"');
    expect(() => found(TREES.it87)).toThrow(
      expect.objectContaining({
        fault: 'usage',
        hint: expect.stringContaining('--module-version') as string,
      }) as Error,
    );
    expect(confOf(found(TREES.it87, { given: '9.9' }))).toContain('PACKAGE_VERSION="9.9"');
  });

  test('debian/changelog before the tag, flags that only its Makefile knows are left empty', () => {
    const result = found(TREES.ryzen, { tags: ['v7'] });
    expect(confOf(result)).toContain('PACKAGE_VERSION="0.1.5"');
    expect(confOf(result)).toContain('CFLAGS_MODULE+="\n');
    expect(result.said).toContain('@CFLGS@ is left empty');
    expect(confOf(found(TREES.ryzen, { given: '3' }))).toContain('PACKAGE_VERSION="3"');
  });

  test('complete in a folder: that folder, unchanged', () => {
    expect(found(TREES.evdi)).toMatchObject({
      folder: 'module',
      asGiven: true,
      said: 'its dkms.conf is module/dkms.conf',
    });
    expect(found(TREES.amneziawg)).toMatchObject({ folder: 'src', asGiven: true });
  });

  test('complete at the top: nothing is said, --module-version is not used and told', () => {
    expect(found(TREES.nct6687d)).toMatchObject({ folder: '', asGiven: true, said: null, warnings: [] });
    expect(found(TREES.nct6687d, { given: '2' })).toMatchObject({
      asGiven: true,
      warnings: ['X: --module-version is not used, since dkms.conf says its version itself'],
    });
  });

  test("shell of the dkms.conf's own stays", () => {
    const conf = confOf(found(TREES.rtl88x2bu, { tags: ['release', '5.13.1'] }));
    expect(conf).toContain('PACKAGE_VERSION="5.13.1"');
    expect(conf).toContain('[ $PROCS_NUM -gt 16 ] && PROCS_NUM=16');
  });

  test('without dkms.conf: one of obj-m', () => {
    const bare = (name: keyof typeof TREES): Record<string, string> =>
      Object.fromEntries(Object.entries(TREES[name]).filter(([path]) => !/dkms/.test(path)));
    expect(confOf(found(bare('xone'), { tags: ['v1'] }))).toContain(
      'PACKAGE_NAME="repo"\nPACKAGE_VERSION="1"\nBUILT_MODULE_NAME[0]="m0"',
    );
    expect(confOf(found(bare('it87'), { given: '1' }))).toContain('PACKAGE_NAME="chip"');
    const wifi = found(bare('rtl88x2bu'), { given: '1' });
    expect(wifi.made).toContain('BUILT_MODULE_NAME[0]="88x2bu"');
    expect(wifi.made).not.toContain('BUILT_MODULE_NAME[1]');
    expect(wifi.said).toBe(
      'no dkms.conf; one is made from obj-m of Makefile: 88x2bu, version 1 from --module-version',
    );
    const deep = found(bare('xpadneo'), { given: '1' });
    expect(deep.folder).toBe('hid-pad/src');
  });
});

test('modules of subfolders, MODULE_VERSION, and a version out of nowhere', () => {
  const files = {
    Makefile: 'obj-m := a.o sub/\n# obj-m += not.o\nobj-m += \\\n  b.o\n',
    'sub/Kbuild': 'obj-m += c.o\n',
    'a.c': 'MODULE_VERSION("2.5");\n',
  };
  const conf = confOf(found(files));
  expect(conf).toContain('PACKAGE_VERSION="2.5"');
  expect(conf).toContain('BUILT_MODULE_NAME[1]="c"\nBUILT_MODULE_LOCATION[1]="sub"');
  expect(conf).toContain('BUILT_MODULE_NAME[2]="b"');
  expect(conf).not.toContain('not');
  expect(confOf(found({ ...files, 'a.c': '' }))).toContain('PACKAGE_VERSION="0.1"');
});

test("debhelper's file alone, also when it only points to another, belongs to the folder of the makefile", () => {
  const files = {
    'debian/x-dkms.dkms': 'PACKAGE_NAME="x"\nPACKAGE_VERSION="#MODULE_VERSION#"\n',
    'debian/changelog': 'x (3.1-1) sid; urgency=low\n',
    'src/Makefile': 'obj-m := x.o\n',
  };
  expect(found(files)).toMatchObject({
    folder: 'src',
    said: 'dkms.conf from debian/x-dkms.dkms; version 3.1 from debian/changelog',
  });
  const pointing = {
    'debian/dkms': 'extra/x.conf\n',
    'extra/x.conf': 'PACKAGE_NAME=x\nPACKAGE_VERSION=1\n',
    Makefile: 'obj-m := x.o\n',
  };
  expect(confOf(found(pointing))).toBe('PACKAGE_NAME=x\nPACKAGE_VERSION=1\n');
});

test.each([
  [
    'a name that is open, too',
    'PACKAGE_NAME="@_PKGBASE@"\nPACKAGE_VERSION="@PKGVER@"\nBUILT_MODULE_NAME[0]="@_PKGBASE@"\n',
    'PACKAGE_NAME="repo"\nPACKAGE_VERSION="1.0"\nBUILT_MODULE_NAME[0]="repo"\n',
  ],
  [
    'double marks',
    'PACKAGE_NAME=x\nPACKAGE_VERSION="@@VERSION@@"\n',
    'PACKAGE_NAME=x\nPACKAGE_VERSION="1.0"\n',
  ],
  ['an empty version', 'PACKAGE_NAME=x\nPACKAGE_VERSION=\n', 'PACKAGE_NAME=x\nPACKAGE_VERSION="1.0"\n'],
  ['CRLF', 'PACKAGE_NAME=x\r\nPACKAGE_VERSION="#V#"\r\n', 'PACKAGE_NAME=x\r\nPACKAGE_VERSION="1.0"\r\n'],
  [
    'a comment with such words',
    '# @VERSION@ is #FILLED#\nPACKAGE_NAME=x\nPACKAGE_VERSION="@VERSION@"\n',
    '# @VERSION@ is #FILLED#\nPACKAGE_NAME=x\nPACKAGE_VERSION="1.0"\n',
  ],
])('placeholders: %s', (_, text, filled) => {
  expect(confOf(found({ 'dkms.conf': text }, { given: '1.0' }))).toBe(filled);
});

test('refused, with what to do', () => {
  const refused = (files: Record<string, string>, message: RegExp): void =>
    expect(() => found(files, { given: '1' })).toThrow(message);
  refused({ README: 'x' }, /holds no dkms\.conf, and no Makefile or Kbuild with obj-m/);
  refused(
    { 'a/Makefile': 'obj-m := a.o\n', 'b/Makefile': 'obj-m := b.o\n' },
    /several folders with modules: a, b/,
  );
  refused(
    { 'dkms.conf.in': 'PACKAGE_NAME=x\nPACKAGE_VERSION=1\nMAKE="make K=@KDIR@"\n' },
    /dkms\.conf\.in holds @KDIR@/,
  );
});

test('links are followed inside the tree and nowhere else', () => {
  expect(
    found({ 'dkms.conf': '->conf/real', 'conf/real': 'PACKAGE_NAME=x\nPACKAGE_VERSION=1\n' }),
  ).toMatchObject({ asGiven: true });
  expect(() => found({ 'dkms.conf': '->/etc/passwd' })).toThrow('holds no dkms.conf');
  expect(() => found({ 'dkms.conf': '->../../../../etc/passwd' })).toThrow('holds no dkms.conf');
  expect(() => found({ 'dkms.conf': '->dkms.conf' })).toThrow('holds no dkms.conf');
});
