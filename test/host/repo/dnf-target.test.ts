import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect, afterEach, beforeEach, test } from 'vitest';
import { asRoot, command, good, type Ended } from '../fixtures/apt.js';
import { RpmRoot } from '../fixtures/rpm-root.js';
import { hasTool } from '../fixtures/has-tool.js';
import { tempFolder } from '../../unit/fixtures/repository.js';

let tmp: ReturnType<typeof tempFolder>;
let on: RpmRoot;
beforeEach((ctx) => {
  if (!['dnf', 'rpmbuild', 'createrepo_c'].every(hasTool))
    ctx.skip('dnf, rpmbuild or createrepo_c is not installed');
  tmp = tempFolder();
  on = new RpmRoot(tmp.path);
});
afterEach(() => tmp?.remove());

const kernel = (release: string): void => on.kernel(release);
const empty = (...args: Parameters<RpmRoot['empty']>): void => on.empty(...args);
const ours = (...args: Parameters<RpmRoot['ours']>): Promise<void> => on.ours(...args);
const dnf = (...args: string[]): Promise<Ended> => on.dnf(...args);
const installed = (of: RegExp): Promise<string[]> => on.installed(of);

async function publish(): Promise<void> {
  empty('kmod', '1', '1', 'Provides: /bin/sh');
  const { code, text } = await command('createrepo_c', ['--quiet', on.repo]);
  expect(code, text).toBe(0);
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
      'kernel-modules-5.14.0-100.el9',
      'kernel-modules-5.14.0-200.el9',
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

test('before an .rpm of ours comes, what dkms has from a folder is told; what a package brought is not', async () => {
  await on.ours('100.el9');
  const rpm = join(
    on.repo,
    readdirSync(on.repo).find((name) => name.startsWith('kmod-acpi_call'))!,
  );
  const script = execFileSync('rpm', ['-qp', '--nosignature', '--qf', '%{PREIN}', rpm], { encoding: 'utf8' });
  // A package of the machine owns /usr/src/acpi_call-1.2.2/dkms.conf, nobody that of 1.3.
  const spec = [
    ...[
      '%install',
      'mkdir -p %{buildroot}/usr/src/acpi_call-1.2.2',
      'touch %{buildroot}/usr/src/acpi_call-1.2.2/dkms.conf',
    ],
    ...['%files', '/usr/src/acpi_call-1.2.2'],
  ];
  on.filled('acpi_call-dkms', '1.2.2', '3.el9', spec);
  await good(on.rpm('-i', '--nodeps', '--nosignature', join(on.repo, 'acpi_call-dkms-1.2.2-3.el9.rpm')));
  const dkms = (version: string): void => {
    mkdirSync(join(on.root, 'var/lib/dkms/acpi_call', version), { recursive: true });
    symlinkSync(`/usr/src/acpi_call-${version}`, join(on.root, 'var/lib/dkms/acpi_call', version, 'source'));
  };
  const ask = `rpm() { command rpm --root '${on.root}' "$@"; }\n`;
  const run = (): Promise<Ended> =>
    asRoot('sh', ['-c', ask + script.replaceAll("'/var/lib/dkms/", `'${on.root}/var/lib/dkms/`)]);
  expect(await run()).toEqual({ code: 0, text: '' });
  dkms('1.2.2');
  expect(await run()).toEqual({ code: 0, text: '' });
  dkms('1.3');
  const refused = await run();
  expect(refused.code).toBe(1);
  expect(refused.text).toContain(
    'dkms has acpi_call/1.3 from /usr/src/acpi_call-1.3, and would build it beside',
  );
  expect(refused.text).toContain('Take it from dkms first: dkms remove acpi_call/1.3 --all');
});
