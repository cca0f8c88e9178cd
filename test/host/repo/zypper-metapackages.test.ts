import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeRpmMetapackage, replacedRpm } from '../../../src/pack/rpm-metapackage.js';
import { good } from '../fixtures/apt.js';
import { hasTool } from '../fixtures/has-tool.js';
import { RpmRoot } from '../fixtures/rpm-root.js';
import { publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';

let tmp: ReturnType<typeof tempFolder>;
let on: RpmRoot;
beforeEach((ctx) => {
  if (!['zypper', 'rpmbuild'].every(hasTool)) ctx.skip('zypper or rpmbuild is not installed');
  tmp = tempFolder();
  on = new RpmRoot(tmp.path);
  mkdirSync(join(on.root, 'etc/zypp'), { recursive: true });
  // SUSE's setting: kernels are installed side by side.
  writeFileSync(
    join(on.root, 'etc/zypp/zypp.conf'),
    '[main]\nmultiversion = provides:multiversion(kernel)\n',
  );
});
afterEach(() => tmp?.remove());

const release = (n: number): string => `6.4.0-150600.23.${n}-default`;

/** As SUSE's are: a build counter follows the version, and the version without it is provided. */
function kernel(n: number): void {
  const version = `6.4.0-150600.23.${n}`;
  const provides = [`Provides: kernel-default = ${version}`, 'Provides: multiversion(kernel)'];
  on.empty('kernel-default', '6.4.0', `150600.23.${n}.3`, ...provides);
}

async function module(
  n: number,
  { version = '1.2.2', hold = true, meta = true, replaces = '' } = {},
): Promise<void> {
  await on.pack({ release: release(n), version, form: 'kmp' });
  if (!meta) return;
  const following = { form: 'kmp', module: 'acpi_call', moduleVersion: version, arch: 'x86_64' } as const;
  const { file, bytes } = makeRpmMetapackage(
    {
      ...following,
      ...{ image: 'kernel-default', release: release(n) },
      replaced:
        replaces === ''
          ? []
          : [
              replacedRpm({
                ...following,
                image: 'kernel-default',
                release: release(n),
                moduleVersion: replaces,
              }),
            ],
    },
    { hold, mtime: 1_700_000_000 },
  );
  writeFileSync(join(on.repo, file), bytes);
}

async function publish(): Promise<void> {
  // What the packages' scripts would need.
  for (const name of ['kmod', 'suse-module-tools']) on.empty(name, '1', '1', 'Provides: /bin/sh');
  await publishQuietly(on.repo);
  await good(on.zypper('refresh', '--force'));
}

/** A machine with kernel 25, another package, and `what`. */
async function machine(what: string): Promise<void> {
  await good(on.zypper('addrepo', '--no-gpgcheck', `dir:${on.repo}`, 'test'));
  kernel(25);
  on.empty('other', '1', '1');
  await publish();
  await good(on.zypper('install', 'kernel-default', 'other', what));
}

const has = (): Promise<string[]> => on.installed(/^kernel|^acpi_call-kmp|^other/);
const kmp = (n: number, version = '1.2.2'): string =>
  `acpi_call-kmp-default-${version}_k6.4.0_150600.23.${n}-1`;
const meta = (n: number, version = '1.2.2'): string =>
  `acpi_call-kmp-default-meta-6.4.0_150600.23.${n}-${version}`;
const image = (n: number): string => `kernel-default-6.4.0-150600.23.${n}.3`;

test('zypper keeps a kernel back that there is no module for, all else goes on; then one update brings both', async () => {
  await module(25);
  await machine('acpi_call-kmp-default-meta');
  expect(await has()).toEqual([kmp(25), meta(25), image(25), 'other-1-1']);
  kernel(30);
  on.empty('other', '2', '1');
  await publish();
  const said = await good(on.zypper('update'));
  expect(said).toMatch(/NOT be installed:\s+kernel-default/);
  const kept = [kmp(25), meta(25), image(25), 'other-2-1'];
  expect(await has()).toEqual(kept);
  await good(on.zypper('dist-upgrade'));
  expect(await has()).toEqual(kept);

  await module(30);
  await publish();
  await good(on.zypper('update'));
  expect(await has()).toEqual([kmp(25), kmp(30), meta(30), image(25), image(30), 'other-2-1']);

  // A newer module for that kernel.
  await module(30, { version: '1.2.10', replaces: '1.2.2' });
  await publish();
  await good(on.zypper('update'));
  expect(await has()).toEqual([
    kmp(30, '1.2.10'),
    kmp(25),
    meta(30, '1.2.10'),
    image(25),
    image(30),
    'other-2-1',
  ]);
});

test('without the metapackage the next module comes with its kernel, and a kernel comes without one as well', async () => {
  await module(25, { meta: false });
  await machine('acpi_call-kmp-default');
  kernel(30);
  await module(30, { meta: false });
  await publish();
  await good(on.zypper('update'));
  expect(await has()).toEqual([kmp(25), kmp(30), image(25), image(30), 'other-1-1']);
  kernel(35);
  await publish();
  await good(on.zypper('update'));
  expect(await has()).toEqual([kmp(25), kmp(30), image(25), image(30), image(35), 'other-1-1']);
});

test('a metapackage that holds nothing', async () => {
  await module(25, { hold: false });
  await machine('acpi_call-kmp-default-meta');
  kernel(30);
  await publish();
  await good(on.zypper('update'));
  expect(await has()).toEqual([kmp(25), meta(25), image(25), image(30), 'other-1-1']);
});
