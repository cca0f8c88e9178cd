import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { KernelLayer } from '../../../src/environment/kernel-layer.js';
import type { Machine } from '../../../src/environment/boot.js';
import { prepareSource, readConfText, rpmTar, type Lookup, type Prepared } from '../../../src/cell/source.js';
import type { ModuleSource } from '../../../src/model/cell.js';
import { makeDeb } from '../../../src/pack/deb.js';
import { hasTool } from '../fixtures/has-tool.js';

const FIXTURES = fileURLToPath(new URL('../../fixtures', import.meta.url));

let tmp: string;
beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  installed('dkms\t3.0.10-8\t\n');
});
afterEach(() => rmSync(tmp, { recursive: true }));

/** What the layer's dpkg-query said. */
const installed = (text: string): void => writeFileSync(join(tmp, 'packages'), text);

const conf = (name: string, ...needs: string[]): string =>
  [`PACKAGE_NAME="${name}"`, 'PACKAGE_VERSION="1.0"', `BUILD_DEPENDS=(${needs.join(' ')})`, ''].join('\n');

function folder(name: string, text: string): ModuleSource {
  const path = join(tmp, name);
  mkdirSync(path);
  writeFileSync(join(path, 'dkms.conf'), text);
  return { kind: 'folder', text: name, path };
}

function tarball(name: string, text: string): ModuleSource {
  const { path } = folder(`${name}-tree`, text) as { path: string };
  execFileSync('tar', ['-czf', join(tmp, `${name}.tgz`), '-C', tmp, basename(path)]);
  return { kind: 'tarball', text: name, path: join(tmp, `${name}.tgz`) };
}

function deb(name: string, text: string, depends: string[] = []): ModuleSource {
  const path = join(tmp, `${name}-dkms.deb`);
  const control = {
    package: `${name}-dkms`,
    version: '1.0-1',
    architecture: 'all',
    maintainer: 'a <a@b>',
    section: 'kernel',
    priority: 'optional',
    depends: ['dkms (>= 2.1)', ...depends],
    description: { synopsis: name, lines: [] },
  };
  const files = [{ path: `/usr/src/${name}-1.0/dkms.conf`, mode: 0o644, bytes: Buffer.from(text) }];
  writeFileSync(path, makeDeb({ control, files, scripts: {}, mtime: 0 }));
  return { kind: 'deb', text: name, path };
}

function rpm(name: string, path: string, text: string): ModuleSource {
  const spec = join(tmp, `${name}.spec`);
  const lines = [
    `Name: dkms-${name}\nVersion: 1.0\nRelease: 2\nSummary: x\nLicense: GPL\nBuildArch: noarch\n%description\n%install`,
    `mkdir -p %{buildroot}${path}\nprintf '%%s' '${text}' >%{buildroot}${path}/dkms.conf`,
    `ln -s dkms.conf %{buildroot}${path}/link\n%files\n${path}`,
  ];
  writeFileSync(spec, lines.join('\n'));
  execFileSync('rpmbuild', ['-bb', '--quiet', '--define', `_topdir ${tmp}`, spec], { stdio: 'ignore' });
  return { kind: 'rpm', text: name, path: join(tmp, 'RPMS/noarch', `dkms-${name}-1.0-2.noarch.rpm`) };
}

const prepare = (source: ModuleSource, otherSources: ModuleSource[]): Promise<Prepared> =>
  prepareSource({
    source,
    otherSources,
    environment: { layer: { entry: { dir: tmp } } as KernelLayer },
    lookup: {} as Lookup,
    machine: { signal: new AbortController().signal } as Machine,
  });

const names = (prepared: Prepared): string[] => prepared.with.map((each) => each.text);

describe('the text of dkms.conf', () => {
  it.each<[string, ReturnType<typeof readConfText>]>([
    [
      "PACKAGE_NAME='a'\r\nPACKAGE_VERSION=1:2~b\r\n",
      { names: ['a'], versions: ['1:2~b'], needs: [], plain: true },
    ],
    ['PACKAGE_NAME="a"\n', { names: ['a'], versions: [], needs: [], plain: true }],
    [
      'export PACKAGE_NAME=a # b\nBUILD_DEPENDS[0]="b"\n  BUILD_DEPENDS[1]=c\n',
      { names: ['a'], versions: [], needs: ['b', 'c'], plain: true },
    ],
    ['BUILD_DEPENDS=(\n  b # why\n  "c"\n)\n', { names: [], versions: [], needs: ['b', 'c'], plain: true }],
    ['BUILD_DEPENDS+="b c"; x=1\n', { names: [], versions: [], needs: ['b', 'c'], plain: true }],
    ['# BUILD_DEPENDS=b\nBUILD_DEPENDS_REBUILD=yes\n', { names: [], versions: [], needs: [], plain: true }],
    ['BUILD_DEPENDS="$x b"\n', { names: [], versions: [], needs: ['b'], plain: false }],
    ['[ -d /x ] && BUILD_DEPENDS=b\n', { names: [], versions: [], needs: [], plain: false }],
    ['PACKAGE_NAME="a-$x"\nPACKAGE_NAME=`id`\n', { names: [], versions: [], needs: [], plain: true }],
  ])('%j', (text, expected) => expect(readConfText(text)).toEqual(expected));
});

describe('build dependencies from the same request', () => {
  it('brings the fixture that another one needs, without the network', async () => {
    const source = (name: string): ModuleSource => ({
      kind: 'folder',
      text: name,
      path: join(FIXTURES, name),
    });
    const [lib, needs, tiny] = [source('lib'), source('needs-lib'), source('tiny')];
    const prepared = await prepare(needs, [needs, tiny, lib]);
    expect(prepared).toMatchObject({ source: needs, with: [lib], brings: ['dk2b-lib'], network: false });
    expect(await prepare(lib, [needs, tiny, lib])).toMatchObject({ with: [], brings: [], network: false });
    expect(await prepare(needs, [needs, tiny])).toMatchObject({ with: [], brings: [], network: true });
  });

  it('is another input when what it brings changes', async () => {
    const path = join(tmp, 'lib');
    cpSync(join(FIXTURES, 'lib'), path, { recursive: true });
    const lib: ModuleSource = { kind: 'folder', text: 'lib', path };
    const needs = folder('needs', conf('needs', 'dk2b-lib'));
    const content = async (): Promise<string> => {
      const { digest, with: others } = await prepare(needs, [lib]);
      return [digest, ...others.map((each) => each.digest)].join('\n');
    };
    const before = await content();
    expect(await content()).toBe(before);
    writeFileSync(join(path, 'dk2b_lib.c'), '');
    expect(await content()).not.toBe(before);
  });

  it('follows them, what is needed first, in tarballs and folders; a cycle ends', async () => {
    const a = folder('a', conf('a', 'b', 'c'));
    const b = tarball('b', conf('b', 'c'));
    const c = folder('c', conf('c', 'a'));
    const other = folder('d', conf('d', 'a'));
    const all = [other, a, b, c];
    const prepared = await prepare(a, all);
    expect(names(prepared)).toEqual(['c', 'b']);
    expect(prepared).toMatchObject({ brings: ['c', 'b'], network: false });
    expect(names(await prepare(c, all))).toEqual(['b', 'a']);
    expect(names(await prepare(other, all))).toEqual(['c', 'b', 'a']);
  });

  it('needs the network for what nobody brings, unless the layer has it', async () => {
    const a = folder('a', conf('a', 'b', 'Some_Lib'));
    const b = folder('b', conf('b'));
    expect(await prepare(a, [b])).toMatchObject({ with: [b], network: true });
    installed('some-lib-dkms\t1.0-1\t\n');
    expect(await prepare(a, [b])).toMatchObject({ with: [b], network: false });
    const shell = folder('shell', 'PACKAGE_NAME=s\nBUILD_DEPENDS="b $more"\n');
    expect(await prepare(shell, [b])).toMatchObject({ with: [b], network: true });
  });

  it('takes the first of two that bring a name, and its own before all', async () => {
    const [one, two] = [folder('one', conf('b')), folder('two', conf('b'))];
    expect(names(await prepare(folder('a', conf('a', 'b')), [one, two]))).toEqual(['one']);
    const both = folder('both', `${conf('a', 'b')}\n${conf('b')}`);
    expect(await prepare(both, [one])).toMatchObject({ with: [], network: false });
  });

  it('counts a package that comes along as there', async (ctx) => {
    if (!hasTool('dpkg-deb')) ctx.skip('dpkg-deb is not installed');
    const a = deb('a', conf('a', 'b'), ['b-dkms (>= 1.0)']);
    const b = deb('b', conf('b'));
    expect(await prepare(a, [a, b])).toMatchObject({ with: [b], brings: ['b'], network: false });
    expect(await prepare(a, [a])).toMatchObject({ with: [], network: true });
    const greedy = deb('c', conf('c'), ['not-in-the-layer']);
    expect(await prepare(folder('d', conf('d', 'c')), [greedy])).toMatchObject({
      with: [greedy],
      network: true,
    });
  });
});

describe.skipIf(!hasTool('rpmbuild'))('an .rpm', () => {
  it('is unpacked on this host, links and all, and brings what others need', async () => {
    const source = rpm('needs', '/usr/src/needs-1.0', conf('needs', 'lib'));
    const prepared = await prepare(source, [rpm('lib', '/usr/src/lib-1.0', conf('lib'))]);
    expect(prepared.package).toEqual({ name: 'dkms-needs', version: '1.0-2' });
    expect(names(prepared)).toEqual(['lib']);
    expect(prepared.network).toBe(false);
    const tar = join(tmp, 'out.tar');
    writeFileSync(tar, await rpmTar((source as { path: string }).path));
    execFileSync('tar', ['-xf', tar, '-C', tmp]);
    expect(readFileSync(join(tmp, 'usr/src/needs-1.0/link'), 'utf8')).toBe(conf('needs', 'lib'));
  });

  it('without a DKMS source is refused', async () => {
    await expect(prepare(rpm('doc', '/usr/share/doc/x', conf('doc')), [])).rejects.toThrow(
      'holds no DKMS source',
    );
  });
});
