import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { serveRepository, type Served } from '../../../src/repo/index.js';
import { compareRpmVersions } from '../../../src/formats/versions.js';
import { hasTool } from '../fixtures/has-tool.js';
import { command, type Ended } from '../fixtures/apt.js';
import { makeKey, publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';

let tmp: ReturnType<typeof tempFolder>;
let dir: string;
let served: Served | undefined;
beforeEach(() => {
  tmp = tempFolder();
  dir = join(tmp.path, 'out');
  mkdirSync(dir);
});
afterEach(async () => {
  await served?.close();
  served = undefined;
  tmp.remove();
});

const SPEC = `
Name: kmod-foo
Epoch: 2
Version: %{v}
Release: 1
Summary: Kernel module <foo> & "more"
License: GPL-2.0-only
Group: System/Kernel
URL: http://example.org/?a=1&b=2
Vendor: Example
Packager: A Person <person@example.org>
BuildArch: noarch
Provides: kmod(foo.ko) = 1, foo-kmod
Requires: kernel-uname-r = 6.1.0-1.x86_64, bash >= 5
Requires(post): coreutils
Conflicts: old-foo < 1:1.0-3
Obsoletes: older-foo <= 1.0
Recommends: foo-tools
Suggests: foo-doc
%description
Two lines
of <text>.
%install
mkdir -p %{buildroot}/lib/modules/x %{buildroot}/etc/modprobe.d %{buildroot}/usr/sbin %{buildroot}/var/lib/foo
echo module-%{v} > %{buildroot}/lib/modules/x/foo.ko
echo options > %{buildroot}/etc/modprobe.d/foo.conf
echo tool > %{buildroot}/usr/sbin/foo-tool
%files
/lib/modules/x/foo.ko
%config /etc/modprobe.d/foo.conf
/usr/sbin/foo-tool
%dir /var/lib/foo
%ghost /var/lib/foo/state
%post
true
%changelog
* Tue Jan 02 2024 A Person <person@example.org> - 2
- second <change>
* Mon Jan 01 2024 A Person <person@example.org> - 1
- first
`;

/** Builds kmod-foo in this version with the host's rpmbuild. */
function addRpm(version: string): string {
  const top = join(tmp.path, 'rpmbuild');
  mkdirSync(top, { recursive: true });
  writeFileSync(join(top, 'foo.spec'), SPEC);
  execFileSync(
    'rpmbuild',
    [
      '-bb',
      '--define',
      `_topdir ${top}`,
      '--define',
      `v ${version}`,
      '--define',
      `_dbpath ${top}/db`,
      join(top, 'foo.spec'),
    ],
    { stdio: 'pipe', env: { ...process.env, SOURCE_DATE_EPOCH: '1700000000' } },
  );
  const name = `kmod-foo-${version}-1.noarch.rpm`;
  cpSync(join(top, 'RPMS/noarch', name), join(dir, name));
  return name;
}

const metadata = (of: string, type: string): string => {
  const name = readdirSync(join(of, 'repodata')).find((each) =>
    new RegExp(`^[0-9a-f]{64}-${type}\\.xml\\.gz$`).test(each),
  );
  return gunzipSync(readFileSync(join(of, 'repodata', name ?? ''))).toString();
};

/** Elements as a set of lines, without what differs for a reason: times of files, order of attributes and elements. */
const elements = (xml: string): string[] =>
  xml
    .replace(/<time [^>]*>/g, '')
    .replaceAll('&quot;', '"')
    .replace(/<([a-z:]+)\/>/g, '<$1></$1>')
    .replace(/<([a-z:]+)((?: [a-z]+="[^"]*")+)(\/?)>/g, (_, tag: string, list: string, end: string) => {
      return `<${tag}${[...list.matchAll(/ [a-z]+="[^"]*"/g)].sort().join('')}${end}>`;
    })
    .split(/\n\s*(?=<)/)
    .map((each) => each.trim())
    .filter((each) => each !== '' && !/^<(metadata|filelists|otherdata) /.test(each))
    .sort();

function dnf(root: string, ...args: string[]): Promise<Ended> {
  const at = (name: string): string => join(tmp.path, root, name);
  for (const each of ['cache', 'repos', 'persist', 'log', 'root']) mkdirSync(at(each), { recursive: true });
  writeFileSync(join(at('repos'), 'dkms2bin.repo'), served?.sources.dnf ?? '');
  writeFileSync(at('dnf.conf'), `[main]\nkeepcache=1\nproxy=\n`);
  const options = {
    reposdir: at('repos'),
    cachedir: at('cache'),
    persistdir: at('persist'),
    logdir: at('log'),
    pluginpath: '/nonexistent',
  };
  return command('dnf', [
    '--config',
    at('dnf.conf'),
    `--installroot=${at('root')}`,
    '--releasever=9',
    '-y',
    ...Object.entries(options).map(([key, value]) => `--setopt=${key}=${value}`),
    ...args,
  ]);
}

test('versions compare as rpm compares them', () => {
  const cases: [string, string, number][] = [
    ['1.0', '1.0', 0],
    ['1.0', '2.0', -1],
    ['2.0.1', '2.0.1a', -1],
    ['5.5p1', '5.5p10', -1],
    ['xyz10', 'xyz10.1', -1],
    ['xyz.4', '8', -1],
    ['5.5p2', '5.6p1', -1],
    ['6.0.rc1', '6.0', 1],
    ['10b2', '10a1', 1],
    ['1.0010', '1.9', 1],
    ['1.05', '1.5', 0],
    ['1.0~rc1', '1.0', -1],
    ['1.0~rc1', '1.0~rc2', -1],
    ['1.0^', '1.0', 1],
    ['1.0^git1', '1.0^git2', -1],
    ['1.0^git1', '1.01', -1],
    ['1.0^git1~pre', '1.0^git1', -1],
    ['1.0~rc1^git1', '1.0~rc1', 1],
    ['1.0-2', '1.0-10', -1],
    ['1:1.0-1', '2.0-1', 1],
    ['a', 'b', -1],
    ['2_0', '2.0', 0],
  ];
  for (const [a, b, expected] of cases) {
    expect([a, b, Math.sign(compareRpmVersions(a, b))]).toEqual([a, b, expected]);
    expect([b, a, Math.sign(compareRpmVersions(b, a))]).toEqual([b, a, expected === 0 ? 0 : -expected]);
  }
});

test('the metadata say what createrepo_c says', async (ctx) => {
  if (!hasTool('rpmbuild') || !hasTool('createrepo_c')) ctx.skip('rpmbuild or createrepo_c is not installed');
  addRpm('1.0');
  addRpm('1.1');
  const result = await publishQuietly(dir);
  expect(result).toMatchObject({
    kinds: ['dnf'],
    leftOut: [],
    packages: [{ version: '2:1.0-1' }, { version: '2:1.1-1' }],
  });
  const other = join(tmp.path, 'other');
  mkdirSync(other);
  for (const { path } of result.packages) cpSync(join(dir, path), join(other, path));
  execFileSync('createrepo_c', [
    '--quiet',
    '--no-database',
    '--compress-type=gz',
    '--general-compress-type=gz',
    other,
  ]);
  for (const type of ['primary', 'filelists', 'other']) {
    expect(elements(metadata(dir, type)), type).toEqual(elements(metadata(other, type)));
  }
});

test('dnf reads and downloads from a signed repository, and refuses a tampered one', async (ctx) => {
  if (!hasTool('rpmbuild') || !hasTool('dnf')) ctx.skip('rpmbuild or dnf is not installed');
  const { key } = await makeKey(tmp.path);
  const name = addRpm('1.0');
  await publishQuietly(dir, { key });
  served = await serveRepository(dir);
  expect(served.sources).toMatchObject({
    apt: null,
    dnf: expect.stringContaining('repo_gpgcheck=1') as string,
  });
  const found = await dnf('a', 'repoquery', '--qf', '%{name} %{evr}', 'kmod-foo');
  expect(found, found.text).toMatchObject({
    code: 0,
    text: expect.stringContaining('kmod-foo 2:1.0-1') as string,
  });
  const files = await dnf('a', 'repoquery', '--list', 'kmod-foo');
  expect(files.text).toContain('/lib/modules/x/foo.ko');

  // A newer one, and the superseded metadata are still there.
  const before = readFileSync(join(dir, 'repodata/repomd.xml'), 'utf8');
  addRpm('1.1');
  await publishQuietly(dir, { key, keep: 1 });
  expect(readdirSync(dir)).not.toContain(name);
  for (const [, href] of before.matchAll(/href="([^"]+)"/g)) readFileSync(join(dir, href ?? ''));
  const newer = await dnf('b', 'repoquery', '--qf', '%{name} %{evr}', 'kmod-foo');
  expect(newer.text).toContain('kmod-foo 2:1.1-1');

  const repomd = readFileSync(join(dir, 'repodata/repomd.xml'), 'utf8');
  writeFileSync(join(dir, 'repodata/repomd.xml'), repomd.replace(/<revision>\d/, '<revision>9'));
  const refused = await dnf('c', 'repoquery', 'kmod-foo');
  expect(refused.code, refused.text).not.toBe(0);
  expect(refused.text).toMatch(/GPG|signature/i);
  expect(await publishQuietly(dir, { key })).toMatchObject({ changed: true });
  expect((await dnf('d', 'repoquery', 'kmod-foo')).code).toBe(0);
});

test('the same packages give the same metadata, and a cut-off rpm is named and left out', async (ctx) => {
  if (!hasTool('rpmbuild')) ctx.skip('rpmbuild is not installed');
  const name = addRpm('1.0');
  const cut = addRpm('1.1');
  truncateSync(join(dir, cut), 3000);
  writeFileSync(
    join(dir, 'not.rpm'),
    'not an rpm at all, but long enough to have a lead of ninety-six bytes. '.repeat(4),
  );
  const result = await publishQuietly(dir);
  expect(result.packages.map((each) => each.path)).toEqual([name]);
  expect(result.leftOut).toEqual([
    { path: cut, reason: 'cut off' },
    { path: 'not.rpm', reason: 'not an RPM package' },
  ]);
  // Every length: named, never an exception.
  const whole = readFileSync(join(dir, name));
  for (const length of [0, 50, 96, 100, 500, 1500, 2500, whole.length - 1]) {
    writeFileSync(join(dir, cut), whole.subarray(0, length));
    expect((await publishQuietly(dir)).leftOut).toMatchObject([{ path: cut }, {}]);
  }
  rmSync(join(dir, cut));
  const again = await publishQuietly(dir);
  expect(again.changed).toBe(false);
  const primary = metadata(dir, 'primary');
  spawnSync('touch', [join(dir, name)]);
  rmSync(join(dir, 'repodata'), { recursive: true });
  await publishQuietly(dir);
  expect(metadata(dir, 'primary')).toBe(primary);
});
