import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeDeb } from '../../../src/pack/deb.js';
import { makeMetapackage, type Following } from '../../../src/pack/metapackage.js';
import { serveRepository, type Served } from '../../../src/repo/index.js';
import { Apt, asRoot, command } from '../fixtures/apt.js';
import { hasTool } from '../fixtures/has-tool.js';
import { publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';

// A real apt with a root of its own decides what would happen; kernels and modules are packages without files.
let tmp: ReturnType<typeof tempFolder>;
let apt: Apt;
let distro: string;
let ours: string;
const served: Served[] = [];
beforeEach((ctx) => {
  if (!hasTool('apt-get') || !hasTool('dpkg-deb')) ctx.skip('apt-get or dpkg-deb is not installed');
  tmp = tempFolder();
  [distro, ours] = [join(tmp.path, 'distro'), join(tmp.path, 'ours')];
  mkdirSync(distro);
  mkdirSync(ours);
  apt = new Apt(join(tmp.path, 'apt'));
});
afterEach(async () => {
  for (const each of served.splice(0)) await each.close();
  tmp?.remove();
});

interface Empty {
  name: string;
  version: string;
  depends?: string[];
}

const control = ({ name, version, depends = [] }: Empty) => ({
  ...{ package: name, version, architecture: 'amd64', section: 'kernel', priority: 'optional', depends },
  maintainer: 'A Person <person@example.org>',
  description: { synopsis: name, lines: [] },
});

function add(dir: string, each: Empty): void {
  const bytes = makeDeb({ control: control(each), files: [], scripts: {}, mtime: 0 });
  writeFileSync(join(dir, `${each.name}_${each.version}_amd64.deb`), bytes);
}

const kernel = (n: number, version: string): void => {
  const image = `linux-image-6.1.0-${n}-amd64`;
  add(distro, { name: image, version });
  add(distro, { name: 'linux-image-amd64', version, depends: [`${image} (= ${version})`] });
};

const module = (n: number, version = '1.2'): void =>
  add(ours, {
    ...{ name: `foo-modules-6.1.0-${n}-amd64`, version },
    depends: [`linux-image-6.1.0-${n}-amd64 | linux-image-6.1.0-${n}-amd64-unsigned`],
  });

const FOLLOWS: Following = {
  ...{ distro: 'debian-12', arch: 'x86_64', module: 'foo', meta: 'linux-image-amd64', backports: false },
  ...{ release: '6.1.0-56-amd64', moduleVersion: '1.2', upTo: '6.1.190-1' },
};

function meta(more: Partial<Following> = {}, hold = true): void {
  const { file, bytes } = makeMetapackage({ ...FOLLOWS, ...more }, { hold, mtime: 0 });
  writeFileSync(join(ours, file), bytes);
}

/** A machine that has kernel 56 and has installed the module's metapackage. */
async function machine(): Promise<void> {
  const kernels = [join(distro, 'linux-image-6.1.0-56-amd64_6.1.190-1_amd64.deb')];
  kernels.push(join(distro, 'linux-image-amd64_6.1.190-1_amd64.deb'));
  const status = (files: string[]): void =>
    writeFileSync(join(apt.root, 'status'), files.map(installed).join('\n'));
  status(kernels);
  await publish();
  const [package_] = readdirSync(ours).filter((name) => name.startsWith('foo-modules-amd64_'));
  const first = await apt.get('install', '--simulate', 'foo-modules-amd64');
  expect(first.text).toContain('Inst foo-modules-6.1.0-56-amd64 (1.2');
  status([...kernels, join(ours, 'foo-modules-6.1.0-56-amd64_1.2_amd64.deb'), join(ours, package_ ?? '')]);
  const auto = ['foo-modules-6.1.0-56-amd64', 'linux-image-6.1.0-56-amd64'];
  const marks = auto.map((name) => `Package: ${name}\nArchitecture: amd64\nAuto-Installed: 1\n\n`);
  writeFileSync(join(apt.root, 'state/extended_states'), marks.join(''));
}

/** What dpkg's status says of a package that is installed. */
function installed(file: string): string {
  const control = execFileSync('dpkg-deb', ['--field', file], { encoding: 'utf8' });
  return control.replace('\n', '\nStatus: install ok installed\n');
}

async function publish(): Promise<void> {
  const lines: string[] = [];
  for (const dir of [distro, ours]) {
    await publishQuietly(dir, { origin: dir === distro ? 'Debian' : 'dkms2bin' });
    const each = await serveRepository(dir);
    served.push(each);
    lines.push(`deb [trusted=yes] ${each.url} ./\n`);
  }
  apt.sources(lines.join(''));
  const update = await apt.get('update');
  expect(update.code, update.text).toBe(0);
}

/** What an upgrade would install and remove. */
async function upgraded(...how: string[]): Promise<string[]> {
  const { code, text } = await apt.get(...how, '--simulate', '-o', 'Debug::pkgProblemResolver=false');
  expect(code, text).toBe(0);
  return [...text.matchAll(/^(Inst|Remv) (\S+)/gm)].map(([, what, name]) => `${what} ${name}`).sort();
}

const HOW = [['upgrade'], ['upgrade', '--with-new-pkgs'], ['dist-upgrade']];
const BOTH = [
  ...['Inst foo-modules-6.1.0-57-amd64', 'Inst foo-modules-amd64'],
  ...['Inst linux-image-6.1.0-57-amd64', 'Inst linux-image-amd64'],
];

async function setUp(hold = true): Promise<void> {
  kernel(56, '6.1.190-1');
  module(56);
  meta({}, hold);
  await machine();
}

test('a kernel that the module is not there for is kept back, whatever kind of upgrade; then both come at once', async () => {
  await setUp();
  kernel(57, '6.1.192-3');
  await publish();
  for (const how of HOW) expect(await upgraded(...how), how.join(' ')).toEqual([]);
  expect((await apt.get('upgrade', '--simulate')).text).toMatch(/kept back:\s+linux-image-amd64/);

  module(57);
  meta({ release: '6.1.0-57-amd64', upTo: '6.1.192-3' });
  await publish();
  expect(await upgraded('upgrade', '--with-new-pkgs')).toEqual(BOTH);
  expect(await upgraded('dist-upgrade')).toEqual(BOTH);
});

test('a rebuild of the kernel that leads to the same release is let through as soon as it was seen', async () => {
  await setUp();
  add(distro, { name: 'linux-image-6.1.0-56-amd64', version: '6.1.191-1' });
  const depends = ['linux-image-6.1.0-56-amd64 (= 6.1.191-1)'];
  add(distro, { name: 'linux-image-amd64', version: '6.1.191-1', depends });
  await publish();
  expect(await upgraded('dist-upgrade')).not.toContain('Inst linux-image-amd64');
  meta({ upTo: '6.1.191-1' });
  await publish();
  expect(await upgraded('upgrade')).toEqual([
    ...['Inst foo-modules-amd64', 'Inst linux-image-6.1.0-56-amd64', 'Inst linux-image-amd64'],
  ]);
});

test('a module that was last built for an older kernel lets that one through and no further', async () => {
  kernel(56, '6.1.190-1');
  module(56);
  // Made when 57 was there already.
  meta({ upTo: '6.1.192-3~' });
  await machine();
  kernel(57, '6.1.192-3');
  await publish();
  for (const how of HOW)
    expect(await upgraded(...how), how.join(' ')).not.toContain('Inst linux-image-amd64');
});

test('a newer module for the same kernel comes through the metapackage', async () => {
  await setUp();
  module(56, '1.3');
  meta({ moduleVersion: '1.3' });
  await publish();
  expect(await upgraded('upgrade')).toEqual(['Inst foo-modules-6.1.0-56-amd64', 'Inst foo-modules-amd64']);
});

test('without holding, the kernel goes on', async () => {
  await setUp(false);
  kernel(57, '6.1.192-3');
  await publish();
  expect(await upgraded('dist-upgrade')).toEqual([
    'Inst linux-image-6.1.0-57-amd64',
    'Inst linux-image-amd64',
  ]);
});

test('a removed kernel takes its module along, and a newer one leaves the older module to its kernel', async () => {
  await setUp();
  kernel(57, '6.1.192-3');
  module(57);
  meta({ release: '6.1.0-57-amd64', upTo: '6.1.192-3' });
  await publish();
  const deb = (dir: string, name: string): string => join(dir, `${name}_amd64.deb`);
  const status = [
    deb(distro, 'linux-image-6.1.0-57-amd64_6.1.192-3'),
    deb(distro, 'linux-image-6.1.0-56-amd64_6.1.190-1'),
    deb(distro, 'linux-image-amd64_6.1.192-3'),
    deb(ours, 'foo-modules-6.1.0-56-amd64_1.2'),
    deb(ours, 'foo-modules-6.1.0-57-amd64_1.2'),
    deb(ours, 'foo-modules-amd64_1.2-6.1.192.3'),
  ];
  writeFileSync(join(apt.root, 'status'), status.map(installed).join('\n'));
  expect(await upgraded('remove', 'linux-image-6.1.0-56-amd64')).toEqual([
    ...['Remv foo-modules-6.1.0-56-amd64', 'Remv linux-image-6.1.0-56-amd64'],
  ]);
});

/** A folder with Debian's unattended-upgrades in it: to have it installed would change this host. Null where it cannot be had. */
async function unattendedUpgrades(): Promise<string | null> {
  const folder = join(tmp.path, 'unattended-upgrades');
  const run = `mkdir "$1" && cd "$1" && [ -x /usr/bin/python3 ] &&
    apt-get download -o APT::Sandbox::User=root unattended-upgrades python3-apt python3-distro-info distro-info-data &&
    for deb in *.deb; do dpkg-deb -x "$deb" . || exit; done`;
  const { code } = await command('sh', ['-c', run, 'sh', folder]);
  return code === 0 ? folder : null;
}

/** What it would install, when packages of these origins may come by themselves. */
async function unattended(program: string, ...origins: string[]): Promise<string> {
  const conf = [
    `Unattended-Upgrade::Origins-Pattern { ${origins.map((each) => `"origin=${each}";`).join(' ')} };`,
    `Unattended-Upgrade::LogDir "${tmp.path}";`,
    'Unattended-Upgrade::Skip-Updates-On-Metered-Connections "false";',
    'Unattended-Upgrade::OnlyOnACPower "false";',
    // In its namespace there is nobody else.
    'APT::Sandbox::User "root";',
  ];
  const file = join(apt.root, 'unattended.conf');
  writeFileSync(file, `${readFileSync(join(apt.root, 'apt.conf'), 'utf8')}${conf.join('\n')}\n`);
  for (const each of ['var/run', 'updates']) mkdirSync(join(apt.root, each), { recursive: true });
  // It reads dpkg's own status, wherever apt's may be.
  const run =
    'mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/dpkg && cp "$2/status" /var/lib/dpkg && mkdir /var/lib/dpkg/info /var/lib/dpkg/updates && exec /usr/bin/python3 "$1/usr/bin/unattended-upgrade" --dry-run --debug';
  const { code, text } = await asRoot('sh', ['-c', run, 'sh', program, apt.root], {
    APT_CONFIG: file,
    PYTHONPATH: join(program, 'usr/lib/python3/dist-packages'),
  });
  expect(code, text).toBe(0);
  return text;
}

test('unattended-upgrades keeps the kernel as well, and brings both where packages of ours may come by themselves', async (ctx) => {
  const program = await unattendedUpgrades();
  if (program === null) return ctx.skip('unattended-upgrades cannot be had');
  await setUp();
  kernel(57, '6.1.192-2');
  await publish();
  const kept =
    /pkg foo-modules-amd64 is marked to be deleted\n[^]*No packages found that can be upgraded unattended/;
  expect(await unattended(program, 'Debian', 'dkms2bin')).toMatch(kept);
  module(57);
  meta({ release: '6.1.0-57-amd64', upTo: '6.1.192-2' });
  await publish();
  // Its own setting: what the distro brings.
  expect(await unattended(program, 'Debian')).toMatch(kept);
  const both = await unattended(program, 'Debian', 'dkms2bin');
  expect(both).toContain('Packages that will be upgraded: foo-modules-amd64 linux-image-amd64\n');
  expect(both).toMatch(/--unpack .*linux-image-6\.1\.0-57-amd64_\S* .*foo-modules-6\.1\.0-57-amd64_/);
}, 120_000);
