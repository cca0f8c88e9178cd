import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeRpmMetapackage } from '../../../src/pack/rpm-metapackage.js';
import { command, good } from '../fixtures/apt.js';
import { RpmRoot } from '../fixtures/rpm-root.js';
import { hasTool } from '../fixtures/has-tool.js';
import { publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';

// A folder with protected_kmods.py of EPEL's dnf-plugin-protected-kmods, which needs dnf-plugins-core.
const plugins = process.env.DKMS2BIN_TEST_PROTECTED_KMODS;

let tmp: ReturnType<typeof tempFolder>;
let on: RpmRoot;
beforeEach((ctx) => {
  if (!['dnf', 'rpmbuild'].every(hasTool)) ctx.skip('dnf or rpmbuild is not installed');
  tmp = tempFolder();
  on = new RpmRoot(tmp.path);
});
afterEach(() => tmp?.remove());

function meta(release: string, { version = '1.2.2', hold = true, variant = '' } = {}): string {
  const { file, bytes } = makeRpmMetapackage(
    {
      ...{ form: 'kmod', module: 'acpi_call', moduleVersion: version, arch: 'x86_64', replaced: [] },
      image: variant === '' ? 'kernel-core' : `kernel-${variant}-core`,
      release: `5.14.0-${release}.x86_64${variant === '' ? '' : `+${variant}`}`,
    },
    { hold, mtime: 1_700_000_000 },
  );
  const path = join(on.repo, file);
  writeFileSync(path, bytes);
  return path;
}

async function publish(): Promise<void> {
  on.empty('kmod', '1', '1', 'Provides: /bin/sh');
  await publishQuietly(on.repo);
}

/** Red Hat's setting. */
const upgrade = (): Promise<string> => good(on.dnf('upgrade', '--setopt=best=1'));
const has = (): Promise<string[]> => on.installed(/^kernel-modules|^kmod-acpi|^other/);

test('rpm takes the package for one of its own', async () => {
  const path = meta('100.el9', { variant: 'rt' });
  const query = async (...what: string[]): Promise<string> =>
    good(command('rpm', ['-qp', '--nosignature', ...what, path]));
  expect(await good(command('rpm', ['-K', '--nosignature', path]))).toContain('digests OK');
  expect(await query('--qf', '%{NVRA}')).toBe('kmod-acpi_call-rt-5.14.0_100.el9-1.2.2.x86_64');
  const requires = (await query('--requires')).split('\n');
  expect(requires).toEqual(
    expect.arrayContaining([
      ...['kernel-uname-r = 5.14.0-100.el9.x86_64+rt', 'kmod-acpi_call-5.14.0-100.el9.x86_64+rt >= 1.2.2-1'],
      '(kernel-rt-modules = 5.14.0-100.el9 if kernel-rt-modules)',
    ]),
  );
  expect(await query('--recommends')).toBe('dnf-plugin-protected-kmods\n');
  expect(await query('--configfiles')).toBe('/etc/dnf/plugins/protected-kmods.d/kmod-acpi_call-rt.conf\n');
  const free = meta('100.el9', { hold: false });
  expect(await good(command('rpm', ['-qp', '--nosignature', '-l', '--recommends', free]))).toBe(
    '(contains no files)\n',
  );
});

test('a metapackage brings kernel and module, then the next ones, in one transaction each', async () => {
  on.kernel('100.el9');
  await on.ours('100.el9');
  meta('100.el9');
  await publish();
  await good(on.dnf('install', 'kernel', 'kmod-acpi_call'));
  const conf = await command('cat', [join(on.root, 'etc/dnf/plugins/protected-kmods.d/kmod-acpi_call.conf')]);
  expect(conf.text).toBe('[protected_kmods]\nkmod_names = kmod-acpi_call\n');

  on.kernel('200.el9');
  await on.ours('200.el9');
  meta('200.el9');
  await publish();
  await upgrade();
  const both = [
    ...['kernel-modules-5.14.0-100.el9', 'kernel-modules-5.14.0-200.el9'],
    ...['kmod-acpi_call-5.14.0-100.el9.x86_64-1.2.2-1', 'kmod-acpi_call-5.14.0-200.el9.x86_64-1.2.2-1'],
    'kmod-acpi_call-5.14.0_200.el9-1.2.2',
  ];
  expect(await has()).toEqual(both);

  // A newer module for the kernel that is there.
  await on.ours('200.el9', '1.2.10');
  meta('200.el9', { version: '1.2.10' });
  await publish();
  await upgrade();
  expect(await has()).toEqual([
    ...both.slice(0, 3),
    ...['kmod-acpi_call-5.14.0-200.el9.x86_64-1.2.10-1', 'kmod-acpi_call-5.14.0_200.el9-1.2.10'],
  ]);

  // The old kernel goes with its module, and the metapackage stays.
  await good(on.dnf('remove', 'kernel-core-5.14.0-100.el9'));
  expect(await has()).toEqual([
    ...['kernel-modules-5.14.0-200.el9', 'kmod-acpi_call-5.14.0-200.el9.x86_64-1.2.10-1'],
    'kmod-acpi_call-5.14.0_200.el9-1.2.10',
  ]);
});

test('a machine that installs it gets all of the newest kernel that there is a module for', async () => {
  for (const release of ['100.el9', '200.el9']) on.kernel(release);
  for (const release of ['100.el9', '200.el9']) await on.ours(release);
  for (const release of ['100.el9', '200.el9']) meta(release);
  await publish();
  await good(on.dnf('install', 'kernel-5.14.0-100.el9'));
  await good(on.dnf('install', 'kmod-acpi_call'));
  expect(await has()).toEqual([
    ...['kernel-modules-5.14.0-100.el9', 'kernel-modules-5.14.0-200.el9'],
    ...['kmod-acpi_call-5.14.0-200.el9.x86_64-1.2.2-1', 'kmod-acpi_call-5.14.0_200.el9-1.2.2'],
  ]);
});

test.for([
  ['EPEL’s plugin keeps a kernel back that there is no module for, and all else goes on', true],
  ['without the plugin that kernel comes without the module, and nothing stands in the way', false],
] as const)('%s', async ([, protects], { skip }) => {
  if (protects && plugins === undefined) skip('EPEL’s plugin is not there');
  on.kernel('100.el9');
  await on.ours('100.el9');
  meta('100.el9');
  on.empty('other', '1', '1');
  await publish();
  if (protects) on.plugins = plugins;
  await good(on.dnf('install', 'kernel', 'kmod-acpi_call', 'other'));
  on.kernel('200.el9');
  on.empty('other', '2', '1');
  await publish();
  const said = await upgrade();
  if (protects)
    expect(said).toContain(
      'kmod-acpi_call: filtering kernel 5.14.0-200.el9, no precompiled modules available',
    );
  expect(await has()).toEqual([
    ...['kernel-modules-5.14.0-100.el9', ...(protects ? [] : ['kernel-modules-5.14.0-200.el9'])],
    ...['kmod-acpi_call-5.14.0-100.el9.x86_64-1.2.2-1', 'kmod-acpi_call-5.14.0_100.el9-1.2.2', 'other-2-1'],
  ]);
  await on.ours('200.el9');
  meta('200.el9');
  await publish();
  await upgrade();
  expect(await has()).toContain('kmod-acpi_call-5.14.0-200.el9.x86_64-1.2.2-1');
  expect(await has()).toContain('kernel-modules-5.14.0-200.el9');
});
