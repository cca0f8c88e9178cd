import { execa } from 'execa';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import type { Server } from 'node:https';
import { join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Proof } from '../../src/model/proof.js';
import { inspectFile } from '../../src/attest/inspect.js';
import { hostMirrors } from '../../src/distro/mirrors.js';
import { readRpmFile } from '../../src/formats/rpm.js';
import { ProofDocument } from '../../src/model/result-schema.js';
import { hostAddress, makeAuthority, serveHttps } from '../rig/https.js';
import { cachedImage, IMAGE_TOOLS, lacking, lookingTiny } from '../rig/images.js';
import { makeKey } from '../unit/fixtures/repository.js';
import { cacheWithoutLayers, FIXTURES, temporary, tool, type Document } from './tool.js';

// Real rpm, rpmbuild, dnf, createrepo_c and dkms in a Debian guest, whose image has the form of CentOS Stream 9's or Fedora's and whose
// kernel and compiler come from an rpm repository: see test/rig.
const RIG = fileURLToPath(new URL('../rig', import.meta.url));
// Images, layers and snapshots of their own take minutes: not part of every run.
const missing = process.env.DKMS2BIN_TEST_RIG ? [] : ['DKMS2BIN_TEST_RIG, as npm run test:rig sets it'];
missing.push(...(await lacking([...IMAGE_TOOLS, 'rpmbuild', 'createrepo_c', 'dnf', 'dpkg-deb', 'apt-get'])));
const { main: mirror } = await hostMirrors();
if (mirror === undefined) missing.push("a mirror of Debian in this host's apt configuration");
const address = hostAddress();
if (address === undefined) missing.push('an address that guests reach');

let folder = '';
let cache = '';
let release = '';
let fingerprint = '';
let server: Server | undefined;
let url = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  if (missing.length > 0) return;
  folder = await temporary('rpm-rig');
  cache = await cacheWithoutLayers();
  const kernel = await execa(join(RIG, 'kernel-debs.sh'), [folder, 'bookworm-backports']);
  release = kernel.stdout.trim();
  // One that nobody but NODE_EXTRA_CA_CERTS knows.
  const authority = await makeAuthority(folder, address!);
  const images = new Map<string, string>();
  ({ server, url } = await serveHttps(authority, address!, (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname));
    const image = images.get(path.split('/')[1] ?? '');
    const file = image === undefined ? join(folder, 'repo', path) : join(image, path.split('/')[2] ?? '');
    createReadStream(file)
      .on('error', () => response.writeHead(404).end())
      .pipe(response);
  }));
  const sources = `deb ${mirror!} bookworm main\n`;
  for (const form of ['stream', 'fedora'] as const) {
    images.set(form, await cachedImage(form, { sources, url }));
  }
  await execa(join(RIG, 'make-rpms.sh'), [release, folder, join(images.get('stream')!, 'packages'), url]);
  const catalogue = join(folder, 'catalogue');
  await mkdir(catalogue);
  const rows = await readFile(join(RIG, 'rig.yaml'), 'utf8');
  await writeFile(join(catalogue, 'rig.yaml'), rows.replaceAll(`'{domain}'`, `'${new URL(url).host}'`));
  env = {
    DKMS2BIN_STATE: join(folder, 'state'),
    DKMS2BIN_CACHE: cache,
    DKMS2BIN_CATALOGUE: catalogue,
    NODE_EXTRA_CA_CERTS: authority.file,
  };
});

afterAll(async () => {
  server?.closeAllConnections();
  server?.close();
  for (const dir of [folder, cache]) if (dir) await rm(dir, { recursive: true, force: true });
});

/** A DKMS package as .rpm, of the fixture `tiny`; it needs dkms and `more` packages. */
async function sourceRpm(more = ''): Promise<string> {
  const spec = join(folder, 'tiny.spec');
  const lines = [
    'Name: dk2b-tiny-dkms',
    'Version: 1.0',
    'Release: 3',
    'Summary: x',
    'License: GPL-2.0-only',
    'BuildArch: noarch',
    `Requires: dkms ${more}`,
    '%description',
    '%install',
    'mkdir -p %{buildroot}/usr/src/dk2b-tiny-1.0 %{buildroot}/etc/modprobe.d',
    `cp '${await lookingTiny(FIXTURES, folder)}'/* %{buildroot}/usr/src/dk2b-tiny-1.0/`,
    'echo "# nothing" >%{buildroot}/etc/modprobe.d/dk2b-tiny.conf',
    '%files',
    '/usr/src/dk2b-tiny-1.0',
    '/etc/modprobe.d/dk2b-tiny.conf',
  ];
  await writeFile(spec, lines.join('\n'));
  await execa('rpmbuild', ['-bb', '--quiet', '--define', `_topdir ${folder}/src`, spec]);
  return join(folder, 'src/RPMS/noarch/dk2b-tiny-dkms-1.0-3.noarch.rpm');
}

/** What the module's build saw of its guest: the root has grown, and the image's SELinux is at work. */
async function expectGuest(log: string | null, filesystem: string): Promise<void> {
  const text = await readFile(log!, 'utf8');
  const [, size = '', type] = /root: +(\d+) KiB of (\S+)/.exec(text) ?? [];
  expect(type).toBe(filesystem);
  expect(Number(size)).toBeGreaterThan(13 * 1024 * 1024);
  expect(text).toMatch(/^SELinux: Permissive, \S+$/m);
}

const skipped = missing.length > 0 ? ` (skipped: no ${missing.join(', ')})` : '';

test.skipIf(missing.length > 0)(
  `Stream's form, BIOS and xfs: from an .rpm with a DKMS source to a kmod that dnf installs and the kernel loads${skipped}`,
  async () => {
    const out = join(folder, 'out');
    const { file, key } = await makeKey(folder);
    fingerprint = key!.fingerprint;
    const of = ['--distro', 'stream-rig', '--kernel', release, '--image', 'official'];
    const more = ['--out-dir', out, '--repo-key', file, '--debug-symbols', '--json', '--verbose'];
    const ended = await tool(['--dkms', await sourceRpm(), ...of, ...more], { env });
    expect(ended.code, ended.stderr).toBe(0);
    const [cell] = (JSON.parse(ended.stdout) as Document).cells;
    const name = `kmod-${cell?.module}-${release}`;
    expect(cell).toMatchObject({
      verdict: 'built',
      package: join(out, `${name}-${cell?.version}-1.x86_64.rpm`),
    });
    await expectGuest(cell!.log, 'xfs');
    // What the guest's rpm and dnf said of it.
    expect(ended.stderr).toMatch(/digests OK/);
    expect(ended.stderr).toContain(`kernel-uname-r = ${release}`);
    expect(ended.stderr).toMatch(/Installed:[\s\S]*kmod-/);
    // The image has no compiler; dkms came from EPEL with what that needs; of the debug symbols nothing is installed.
    expect(ended.stderr).toMatch(/Installed:[\s\S]*rig-epel-release-1-1/);
    expect(ended.stderr).toMatch(/Installed:[\s\S]*dkms-1-1[\s\S]*gcc-1-1[\s\S]*rig-crb-1-1/);
    expect(ended.stderr).not.toMatch(/Installing +: \S*-debuginfo/);
    const { package: about, modules, files, provenance } = await inspectFile(cell!.package!);
    expect(about?.depends).toContain(`${cell?.module}-kmod-common`);
    expect(modules.map((each) => each.kernel)).toEqual([release]);
    expect(files[0]?.path).toMatch(new RegExp(`^/lib/modules/.*/extra/${cell?.module}/.*\\.ko`));
    expect(provenance?.matches).toBe(true);
    // The out-dir is a repository whose metadata the host's dnf resolves.
    const query = ['--repofrompath', `rig,${out}`, '--repo', 'rig', '--setopt', `cachedir=${folder}/dnf`];
    const { stdout } = await execa('dnf', [
      '-q',
      ...query,
      'repoquery',
      '--whatprovides',
      `${cell?.module}-kmod`,
    ]);
    expect(stdout).toContain(name);

    // Debian's kernels have debug information, and the symbols are those of the module.
    const symbols = await readRpmFile(join(out, `${name}-debuginfo-${cell?.version}-1.x86_64.rpm`));
    const id = symbols.header.relations.provides.find((each) => each.name === 'debuginfo(build-id)')?.evr;
    const link = symbols.files.find((each) => each.type === 'symlink');
    expect(link?.path.replace(/^.*\.build-id\/|\/|\.debug$/g, '')).toBe(id?.version);
    const target = normalize(join(link!.path, '..', link!.target!));
    expect(target).toBe(`/usr/lib/debug/lib/modules/${release}/extra/${cell?.module}/dk2b_tiny.ko.debug`);
    const debug = join(folder, 'dk2b_tiny.ko.debug');
    await writeFile(debug, symbols.files.find((each) => each.path === target)!.bytes());
    expect((await execa('readelf', ['--debug-dump=info', debug])).stdout).toContain('dk2b_tiny.c');
  },
);

test.skipIf(missing.length > 0)(
  `Stream's form: dnf takes it from the signed repository on a machine without toolchain, and it loads${skipped}`,
  async () => {
    const out = join(folder, 'out');
    const of = ['--kernel', release, '--distro', 'stream-rig', '--image', 'official'];
    const args = ['prove', out, ...of, '--json', '--verbose'];
    const ended = await tool(args, { env });
    expect(ended.code, ended.stderr).toBe(0);
    const proof = ProofDocument.parse(JSON.parse(ended.stdout)) as Proof;
    expect(proof).toMatchObject({ distro: 'stream-rig', signedBy: fingerprint, pristine: true });
    // dnf's own words: it took the metadata's key. The package came with what all kernels share, and nothing else did.
    expect(ended.stderr).toMatch(/Importing GPG key/);
    const [name, common] = proof.installed
      .map((each) => each.package)
      .sort()
      .reverse();
    expect(proof.installed).toHaveLength(2);
    expect([name, common]).toEqual([expect.stringMatching(/^kmod-/), expect.stringMatching(/-kmod-common$/)]);
    expect(proof.modules).toMatchObject([{ package: name, verdict: 'loaded', reason: null }]);
    const { instead, takes, ...saved } = proof.saved!;
    expect(instead.of).toEqual(['dkms', `kernel-devel-${release}`]);
    expect(saved.installedBytes).toBe(instead.installedBytes - takes.installedBytes);
    // kernel-devel has some 60 MB, the compiler more than that; with dkms, make, patch and one of crb they are six.
    expect(instead.installedBytes).toBeGreaterThan(100e6);
    expect(instead.packages).toBe(6);

    // The metapackage, which a machine follows from then on, brings the same.
    const meta = name!.replace(`-${release}`, '');
    const followed = await tool([...args, '--module', meta], { env });
    expect(followed.code, followed.stderr).toBe(0);
    const followedProof = ProofDocument.parse(JSON.parse(followed.stdout)) as Proof;
    expect(followedProof.installed.map((each) => each.package).sort()).toEqual([meta, name, common].sort());
    expect(followedProof.modules).toMatchObject([{ package: name, verdict: 'loaded', reason: null }]);

    // What was changed after signing does not install.
    const file = (await readdir(out)).find(
      (each) => each.startsWith(`${name}-`) && each.endsWith('.rpm') && !each.includes('debuginfo'),
    )!;
    const bytes = await readFile(join(out, file));
    bytes[bytes.length - 1]! ^= 1;
    await writeFile(join(out, file), bytes);
    const changed = await tool(args, { env });
    expect(changed.code, changed.stderr).toBe(1);
    expect(changed.stderr).toMatch(/checksum/i);
  },
);

test.skipIf(missing.length > 0)(
  `Stream's form: what a package needs of the distro comes from the image's own sources, by a second VM${skipped}`,
  async () => {
    const out = join(folder, 'needing');
    const of = ['--kernel', release, '--distro', 'stream-rig', '--image', 'official'];
    const dkms = await sourceRpm('rig-firmware');
    const built = await tool(['--dkms', dkms, ...of, '--out-dir', out, '--repo', '--json'], { env });
    expect(built.code, built.stderr).toBe(0);
    const ended = await tool(['prove', out, ...of, '--json', '--verbose'], { env });
    expect(ended.code, ended.stderr).toBe(0);
    expect(ended.stderr).toMatch(/which the repository lacks \(.*rig-firmware/);
    const proof = ProofDocument.parse(JSON.parse(ended.stdout)) as Proof;
    expect(proof).toMatchObject({ pristine: true, fromDistro: ['rig-firmware'] });
    const [common, module, needed, ...rest] = proof.installed.map((each) => each.package).sort();
    expect(common).toMatch(/-kmod-common$/);
    expect(module).toMatch(/^kmod-/);
    expect([needed, ...rest]).toEqual(['rig-firmware']);
    expect(proof.modules).toMatchObject([{ verdict: 'loaded', reason: null }]);
  },
);

test.skipIf(missing.length > 0)(
  `Fedora's form, UEFI and a btrfs subvolume: a folder becomes a kmod that dnf installs and the kernel loads${skipped}`,
  async () => {
    const out = join(folder, 'fedora');
    const of = ['--distro', 'fedora-rig', '--kernel', release, '--image', 'official'];
    const source = await lookingTiny(FIXTURES, join(folder, 'source'));
    const ended = await tool(['--dkms', source, ...of, '--out-dir', out, '--json', '--verbose'], { env });
    expect(ended.code, ended.stderr).toBe(0);
    const [cell] = (JSON.parse(ended.stdout) as Document).cells;
    expect(cell).toMatchObject({ verdict: 'built', reason: null });
    await expectGuest(cell!.log, 'btrfs');
    expect(await readFile(cell!.log!, 'utf8')).toMatch(/arguments: .* rootflags=subvol=root /);
    expect(ended.stderr).toMatch(/Installed:[\s\S]*kmod-/);
  },
);
