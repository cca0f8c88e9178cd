import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeRpmSpec, type RpmInput } from '../../../src/pack/rpm.js';
import { command, type Ended } from '../fixtures/apt.js';
import { hasTool } from '../fixtures/has-tool.js';
import { fakeModule } from '../../unit/fixtures/elf.js';
import { tempFolder } from '../../unit/fixtures/repository.js';

// A real dnf with a root of its own. Kernels, dkms and the DKMS package are made up; the packages of modules are ours. Their
// scripts are not run: there is nothing in that root to run them with.
let tmp: ReturnType<typeof tempFolder>;
let repo: string;
let root: string;
beforeEach((ctx) => {
  if (!['dnf', 'rpmbuild', 'createrepo_c'].every(hasTool))
    ctx.skip('dnf, rpmbuild or createrepo_c is not installed');
  tmp = tempFolder();
  [repo, root] = [join(tmp.path, 'repo'), join(tmp.path, 'root')];
  for (const each of [repo, root, join(tmp.path, 'later')]) mkdirSync(each);
});
afterEach(() => tmp?.remove());

function rpmbuild(spec: string): void {
  const file = join(tmp.path, 'package.spec');
  writeFileSync(file, spec);
  const defines = { _topdir: join(tmp.path, 'top'), _rpmdir: repo, _sourcedir: join(tmp.path, 'sources') };
  const args = Object.entries(defines).flatMap(([key, value]) => ['--define', `${key} ${value}`]);
  const name = '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.rpm';
  execFileSync('rpmbuild', ['-bb', '--target', 'x86_64', ...args, '--define', name, file], { stdio: 'pipe' });
}

const empty = (name: string, version: string, release: string, ...lines: string[]): void =>
  rpmbuild(
    [
      ...[
        `Name: ${name}`,
        `Version: ${version}`,
        `Release: ${release}`,
        'Summary: x',
        'License: x',
        'BuildArch: noarch',
      ],
      ...[...lines, '%description', 'x', '%files', ''],
    ].join('\n'),
  );

/** As Red Hat's are: installed side by side. */
function kernel(release: string): void {
  const only = 'Provides: installonlypkg(kernel)';
  empty('kernel-core', '5.14.0', release, `Provides: kernel-uname-r = 5.14.0-${release}.x86_64`, only);
  empty('kernel', '5.14.0', release, `Requires: kernel-core = 5.14.0-${release}`, only);
}

async function ours(release: string, version = '1.2.2'): Promise<void> {
  const kernelRelease = `5.14.0-${release}.x86_64`;
  const input: RpmInput = {
    ...{ module: 'acpi_call', version, release: kernelRelease, arch: 'x86_64', form: 'kmod', extras: [] },
    modules: [{ name: 'acpi_call.ko', bytes: fakeModule(kernelRelease) }],
    sourcePackage: { name: 'acpi_call-dkms', version: '1.2.2-3.el9' },
    ...{ maintainer: 'a b <a@b>', dependsModules: [], mtime: 1_700_000_000 },
  };
  const { spec, sources } = await makeRpmSpec(input);
  mkdirSync(join(tmp.path, 'sources'), { recursive: true });
  for (const [at, bytes] of sources.entries()) writeFileSync(join(tmp.path, 'sources', String(at)), bytes);
  rpmbuild(spec);
}

function dnf(...args: string[]): Promise<Ended> {
  const settings = [
    ...['reposdir=/nonexistent', 'varsdir=/nonexistent', `cachedir=${join(tmp.path, 'cache')}`],
    ...['tsflags=noscripts', 'gpgcheck=0', `logdir=${tmp.path}`, `persistdir=${join(tmp.path, 'persist')}`],
  ];
  return command('unshare', [
    ...(process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']),
    ...['--mount', 'dnf', '--assumeyes', '--noplugins'],
    // metadata_expire=0 would take metadata of the same second for fresh.
    '--refresh',
    ...[`--installroot=${root}`, '--releasever=9', `--repofrompath=test,${repo}`],
    ...settings.map((each) => `--setopt=${each}`),
    ...args,
  ]);
}

async function publish(): Promise<void> {
  empty('kmod', '1', '1', 'Provides: /bin/sh');
  const { code, text } = await command('createrepo_c', ['--quiet', repo]);
  expect(code, text).toBe(0);
}

/** Names of what is installed, those of `of`. */
async function installed(of: RegExp): Promise<string[]> {
  const { text } = await command('rpm', ['--root', root, '-qa', '--qf', '%{NAME}-%{VERSION}-%{RELEASE}\n']);
  return text
    .split('\n')
    .filter((each) => of.test(each))
    .sort();
}

async function good(ran: Promise<Ended>): Promise<string> {
  const { code, text } = await ran;
  expect(code, text).toBe(0);
  return text;
}

const COMMON = 'acpi_call-kmod-common-1.2.2_3.el9-1';
const kmod = (release: string, version = '1.2.2'): string =>
  `kmod-acpi_call-5.14.0-${release}.x86_64-${version}-1`;

test('dnf exchanges the DKMS package for ours when it may erase, either way, and what depends on it stays', async () => {
  kernel('100.el9');
  empty('dkms', '3.0', '1');
  empty('acpi_call-dkms', '1.2.2', '3.el9', 'Requires: dkms');
  empty('acpi-tool', '1', '1', 'Requires: acpi_call-dkms >= 1.2');
  await ours('100.el9');
  await publish();
  await good(dnf('install', 'kernel', 'acpi_call-dkms', 'acpi-tool'));
  const name = 'kmod-acpi_call-5.14.0-100.el9.x86_64';
  const refused = await dnf('install', name);
  expect([refused.code, refused.text]).toEqual([1, expect.stringContaining('conflicts with acpi_call-dkms')]);
  expect(refused.text).toContain("try to add '--allowerasing'");
  await good(dnf('install', '--allowerasing', name));
  expect(await installed(/acpi/)).toEqual(['acpi-tool-1-1', COMMON, kmod('100.el9')]);
  await good(dnf('install', '--allowerasing', 'acpi_call-dkms'));
  expect(await installed(/acpi/)).toEqual(['acpi-tool-1-1', 'acpi_call-dkms-1.2.2-3.el9']);
});

test('kernels and their modules stay side by side, a newer module takes the older one’s place, a kernel takes its module along', async () => {
  for (const release of ['100.el9', '200.el9']) kernel(release);
  await ours('100.el9');
  await ours('200.el9');
  await publish();
  await good(dnf('install', 'kernel-5.14.0-100.el9', 'kmod-acpi_call-5.14.0-100.el9.x86_64'));
  // dnf brings the next kernel, and no module for it: nobody has asked for that.
  await good(dnf('upgrade'));
  expect(await installed(/^kernel|^kmod-a/)).toEqual([
    ...[
      'kernel-5.14.0-100.el9',
      'kernel-5.14.0-200.el9',
      'kernel-core-5.14.0-100.el9',
      'kernel-core-5.14.0-200.el9',
    ],
    kmod('100.el9'),
  ]);
  await good(dnf('install', 'kmod-acpi_call-5.14.0-200.el9.x86_64'));
  await ours('200.el9', '1.2.3');
  await publish();
  await good(dnf('upgrade'));
  expect(await installed(/^kmod-acpi/)).toEqual([kmod('100.el9'), kmod('200.el9', '1.2.3')]);
  await good(dnf('remove', 'kernel-core-5.14.0-100.el9'));
  expect(await installed(/^kmod-acpi/)).toEqual([kmod('200.el9', '1.2.3')]);
});

test('what dnf makes of a package that keeps the next kernel away with Conflicts: no upgrade at all where it wants the best', async () => {
  for (const release of ['100.el9', '200.el9']) kernel(release);
  await ours('100.el9');
  empty(
    'acpi_call-kmod-holder',
    '1',
    '100',
    'Requires: kmod-acpi_call-5.14.0-100.el9.x86_64',
    'Conflicts: kernel-core > 5.14.0-100.el9',
  );
  empty('other', '1', '1');
  await publish();
  await good(dnf('install', 'kernel-5.14.0-100.el9', 'acpi_call-kmod-holder', 'other'));
  empty('other', '2', '1');
  await publish();
  // Red Hat's setting.
  const best = await dnf('upgrade', '--setopt=best=1');
  expect([best.code, best.text]).toEqual([
    1,
    expect.stringContaining('acpi_call-kmod-holder-1-100.noarch conflicts with kernel-core'),
  ]);
  expect(await installed(/^other/)).toEqual(['other-1-1']);
  // Fedora's.
  await good(dnf('upgrade', '--setopt=best=0'));
  expect(await installed(/^other|^kernel-core/)).toEqual(['kernel-core-5.14.0-100.el9', 'other-2-1']);
});
