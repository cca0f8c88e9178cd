import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { attest } from '../../../src/cell/attest.js';
import { localDigest } from '../../../src/cell/source.js';
import { engine, type PublishResult } from '../../../src/cli/services.js';
import { findRow, loadCatalogue } from '../../../src/distro/catalogue.js';
import { planRefresh } from '../../../src/engine/refresh.js';
import type { ModuleSource } from '../../../src/model/cell.js';
import { buildRequest } from '../../../src/options/request.js';
import type { RpmForm } from '../../../src/distro/rpm-names.js';
import { fakeModule } from '../../unit/fixtures/elf.js';
import { cell } from '../../unit/fixtures/cli-harness.js';
import { tempFolder } from '../../unit/fixtures/repository.js';
import { FileServer } from '../../unit/fixtures/file-server.js';
import { good } from '../fixtures/apt.js';
import { guestRpmbuild } from '../fixtures/guest-rpmbuild.js';
import { hasTool } from '../fixtures/has-tool.js';
import { RpmRoot } from '../fixtures/rpm-root.js';

// .rpm packages as the guest's rpmbuild makes them, with the provenance that a cell writes beside them: what `repo` and `refresh`
// make of these and of a distro's own index, and what dnf and zypper make of that. The module in them is none that a kernel would load.
const NEEDED = ['rpmbuild', 'createrepo_c', 'qemu-system-x86_64'];

let tmp: ReturnType<typeof tempFolder>;
let on: RpmRoot;
let server: FileServer;
let out: string;
let source: Extract<ModuleSource, { kind: 'rpm' }>;
const { signal } = new AbortController();
const emit = (): void => undefined;

beforeEach(async (ctx) => {
  const missing = NEEDED.filter((each) => !hasTool(each));
  if (missing.length > 0) ctx.skip(`not installed: ${missing.join(', ')}`);
  tmp = tempFolder();
  on = new RpmRoot(tmp.path);
  out = join(tmp.path, 'out');
  mkdirSync(out);
  server = await new FileServer().open();
  vi.stubEnv('DKMS2BIN_CACHE', join(tmp.path, 'cache-of-ours'));
  for (const name of ['http_proxy', 'https_proxy', 'all_proxy']) vi.stubEnv(name, '');
  source = { kind: 'rpm', text: 'acpi_call-dkms.rpm', path: dkmsRpm() };
});
afterEach(() => {
  vi.unstubAllEnvs();
  server?.close();
  tmp?.remove();
});

/** A package with a DKMS source. */
function dkmsRpm(): string {
  const spec = [
    ...[
      'Name: acpi_call-dkms',
      'Version: 1.2.2',
      'Release: 3.el9',
      'Summary: x',
      'License: x',
      'BuildArch: noarch',
    ],
    ...[
      '%description',
      'x',
      '%install',
      'mkdir -p %{buildroot}/usr/src/acpi_call-1.2.2',
      'cd %{buildroot}/usr/src/*',
    ],
    ...[`printf 'PACKAGE_NAME="acpi_call"\\nPACKAGE_VERSION="1.2.2"\\n' >dkms.conf`, 'echo >acpi_call.c'],
    ...['%files', '/usr/src/acpi_call-1.2.2', ''],
  ];
  writeFileSync(join(tmp.path, 'dkms.spec'), spec.join('\n'));
  const defines = ['--define', `_topdir ${tmp.path}/dkms`, '--define', `_rpmdir ${tmp.path}`];
  const name = ['--define', '_rpmfilename acpi_call-dkms.rpm'];
  execFileSync('rpmbuild', ['-bb', ...defines, ...name, join(tmp.path, 'dkms.spec')], { stdio: 'pipe' });
  return join(tmp.path, 'acpi_call-dkms.rpm');
}

/** The distro's repository is what the folder holds now, at a path of its mirror. */
function offer(path: string): void {
  execFileSync('createrepo_c', ['--general-compress-type=gz', on.repo], { stdio: 'pipe' });
  for (const key of [...server.files.keys()]) if (key.includes('/repodata/')) server.files.delete(key);
  for (const name of readdirSync(join(on.repo, 'repodata')))
    server.put(`${path}/repodata/${name}`, readFileSync(join(on.repo, 'repodata', name)));
}

/** Packs and attests as a cell does that has built the module. */
async function build(distro: string, form: RpmForm, kernel: string): Promise<void> {
  const plans = await guestRpmbuild(
    {
      ...{
        module: 'acpi_call',
        version: '1.2.2',
        release: kernel,
        arch: 'x86_64',
        form,
        extras: [],
        dependsModules: [],
      },
      modules: [{ name: 'acpi_call.ko', bytes: fakeModule(kernel) }],
      sourcePackage: { name: 'acpi_call-dkms', version: '1.2.2-3.el9' },
      ...{ maintainer: 'a b <a@b>', mtime: 1_700_000_000 },
    },
    out,
  );
  const layer = join(tmp.path, 'layer');
  mkdirSync(layer, { recursive: true });
  writeFileSync(join(layer, 'packages'), 'gcc\t11.5.0-2.el9\t\tx86_64\ndkms\t3.2.0-1.el9\t\tnoarch\n');
  const result = cell({
    kernel,
    distro,
    package: plans.find(({ role }) => role === 'modules')!.path,
    log: null,
  });
  const about = {
    input: {
      ...{
        source,
        target: { release: kernel, distro, arch: 'x86_64' },
        outDir: out,
        machine: { accel: 'tcg' },
      },
      environment: {
        layer: {
          ...{ entry: { dir: layer }, image: { origin: 'official', digest: { sha256: 'e'.repeat(64) } } },
          ...{ kernelPackages: [], buildPackages: [], versions: { 'image-package': 'kernel-core' } },
        },
      },
      ...{
        invocation: { id: 'run', options: {}, signer: null },
        lookup: { row: findRow(await loadCatalogue(), distro) },
      },
    },
    prepared: {
      ...{ package: { name: 'acpi_call-dkms', version: '1.2.2-3.el9' }, with: [] },
      digest: await localDigest(source, signal),
    },
    ...{ startedOn: new Date(), built: {} },
  } as unknown as Parameters<typeof attest>[0];
  await attest(
    about,
    result,
    plans.map(({ path }) => path),
  );
}

/** What `dkms2bin repo` does. */
const publish = (): Promise<PublishResult> =>
  engine.publishRepository(out, {
    hold: true,
    offline: false,
    mirror: server.origin,
    proxy: '',
    emit,
    signal,
  });

/** What `dkms2bin refresh` would build. */
async function wanted(): Promise<string[]> {
  const request = buildRequest({
    ...{ cwd: tmp.path, outDir: 'out', mirror: server.origin, proxy: '', dkms: [source.path] },
  });
  const { wanted: cells, blocked } = await planRefresh(
    request,
    { newest: false, validate: [] },
    { emit, signal },
  );
  expect(blocked).toEqual([]);
  return cells.map(({ modules, kernel }) => `${modules.join()} ${kernel.release}`);
}

test('dnf: refresh wants the next kernel, repo says who waits for it, and a machine gets both', async (ctx) => {
  if (!hasTool('dnf')) ctx.skip('dnf is not installed');
  const path = '/9-stream/BaseOS/x86_64/os';
  const EL = (n: number): string => `5.14.0-${n}.el9.x86_64`;
  on.kernel('100.el9');
  on.empty('kmod', '1', '1', 'Provides: /bin/sh');
  offer(path);
  await build('centos-stream-9', 'kmod', EL(100));
  const first = await publish();
  expect(first.leftOut).toEqual([]);
  expect(first.metapackages).toEqual([
    {
      name: 'kmod-acpi_call',
      follows: 'kernel-core',
      distro: 'centos-stream-9',
      kernel: EL(100),
      held: null,
    },
  ]);
  expect(await wanted()).toEqual([]);
  const dnf = (...args: string[]): Promise<string> => good(on.dnf(`--repofrompath=ours,${out}`, ...args));
  const has = (): Promise<string[]> => on.installed(/^kernel-core|^kmod-acpi|^acpi_call/);
  await dnf('install', 'kernel', 'kmod-acpi_call');
  const old = ['kernel-core-5.14.0-100.el9', `kmod-acpi_call-${EL(100)}-1.2.2-1`];
  const common = 'acpi_call-kmod-common-1.2.2_3.el9-1';
  expect(await has()).toEqual([common, ...old, 'kmod-acpi_call-5.14.0_100.el9-1.2.2'].sort());

  on.kernel('200.el9');
  offer(path);
  expect((await publish()).metapackages).toMatchObject([
    {
      kernel: EL(100),
      held: { meta: 'kernel-core', release: EL(200), why: 'no package for that kernel yet' },
    },
  ]);
  expect(await wanted()).toEqual([`acpi_call ${EL(200)}`]);
  await build('centos-stream-9', 'kmod', EL(200));
  expect((await publish()).metapackages).toMatchObject([{ kernel: EL(200), held: null }]);
  expect(await wanted()).toEqual([]);
  await dnf('upgrade', '--setopt=best=1');
  expect(await has()).toEqual(
    [
      ...[common, ...old, 'kernel-core-5.14.0-200.el9', `kmod-acpi_call-${EL(200)}-1.2.2-1`],
      'kmod-acpi_call-5.14.0_200.el9-1.2.2',
    ].sort(),
  );
});

test('zypper: the next kernel waits, and comes with its module once there is one', async (ctx) => {
  if (!hasTool('zypper')) ctx.skip('zypper is not installed');
  const path = '/update/leap/15.6/sle';
  const LEAP = (n: number): string => `6.4.0-150600.23.${n}-default`;
  mkdirSync(join(on.root, 'etc/zypp'), { recursive: true });
  writeFileSync(
    join(on.root, 'etc/zypp/zypp.conf'),
    '[main]\nmultiversion = provides:multiversion(kernel)\n',
  );
  const suse = (n: number): void => {
    const version = `6.4.0-150600.23.${n}`;
    const provides = [
      `Provides: kernel-default = ${version}`,
      'Provides: multiversion(kernel)',
      'ExclusiveArch: x86_64',
    ];
    for (const name of ['kernel-default', 'kernel-default-devel'])
      on.empty(name, '6.4.0', `150600.23.${n}.3`, ...(name.endsWith('devel') ? provides.slice(1) : provides));
  };
  for (const name of ['kmod', 'suse-module-tools']) on.empty(name, '1', '1', 'Provides: /bin/sh');
  suse(25);
  offer(path);
  await build('opensuse-leap-15.6', 'kmp', LEAP(25));
  const meta = 'acpi_call-kmp-default-meta';
  expect((await publish()).metapackages).toMatchObject([
    { name: meta, follows: 'kernel-default', kernel: LEAP(25), held: null },
  ]);
  for (const [name, folder] of Object.entries({ distro: on.repo, ours: out }))
    await good(on.zypper('addrepo', '--no-gpgcheck', `dir:${folder}`, name));
  // zypper cannot be told to run no scripts, and there is nothing in that root to run them with: rpm installs, and of zypper
  // is asked what it would do.
  const would = async (what: 'install' | 'update', ...names: string[]): Promise<string[]> => {
    await good(on.zypper('refresh', '--force'));
    const said = await good(on.zypper('--no-refresh', what, '--dry-run', ...names));
    return (
      (/going to be (?:installed|upgraded)[^]*/.exec(said)?.[0] ?? said).match(/\S*(?:kernel|kmp)\S*/g) ?? []
    );
  };
  const both = ['acpi_call-kmp-default', meta, 'kernel-default'];
  expect(await would('install', 'kernel-default', meta)).toEqual(expect.arrayContaining(both));
  const rpms = [on.repo, out].flatMap((folder) =>
    readdirSync(folder).flatMap((name) => (name.endsWith('.rpm') ? [join(folder, name)] : [])),
  );
  await good(on.rpm('-i', '--noscripts', '--nosignature', ...rpms));
  suse(30);
  offer(path);
  expect((await publish()).metapackages).toMatchObject([
    { kernel: LEAP(25), held: { release: LEAP(30), why: 'no package for that kernel yet' } },
  ]);
  expect(await wanted()).toEqual([`acpi_call ${LEAP(30)}`]);
  const kept = await good(on.zypper('refresh', '--force')).then(() => good(on.zypper('update', '--dry-run')));
  expect(kept).toMatch(/NOT be installed:\s+kernel-default/);
  await build('opensuse-leap-15.6', 'kmp', LEAP(30));
  expect((await publish()).metapackages).toMatchObject([{ kernel: LEAP(30), held: null }]);
  expect(await wanted()).toEqual([]);
  const brings = [
    'acpi_call-kmp-default-1.2.2_k6.4.0_150600.23.30-1',
    meta,
    'kernel-default-6.4.0-150600.23.30.3',
  ];
  expect(await would('update')).toEqual(expect.arrayContaining(brings));
});
