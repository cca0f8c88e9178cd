import { execa } from 'execa';
import { chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server as PlainServer } from 'node:http';
import type { Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as openpgp from 'openpgp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TarFile } from '../../src/formats/tar.js';
import { makeDeb } from '../../src/pack/deb.js';
import { inspectFile } from '../../src/attest/inspect.js';
import { hostAddress, makeAuthority, serveHttps } from '../rig/https.js';
import { IMAGE_TOOLS, lacking, lookingTiny, makeImage } from '../rig/images.js';
import { answerFrom, debianPackages, writeSuite } from '../rig/ubuntu-archive.js';
import { Apt } from '../host/fixtures/apt.js';
import { makeKey } from '../unit/fixtures/repository.js';
import { FIXTURES, temporary, tool, type Document } from './tool.js';

// An archive and a cloud image of Ubuntu's form with Debian's packages, whose kernel is Debian's under a release and in packages as
// Ubuntu has them: see test/rig.
const RIG = fileURLToPath(new URL('../rig', import.meta.url));
const missing = process.env.DKMS2BIN_TEST_RIG ? [] : ['DKMS2BIN_TEST_RIG, as npm run test:rig sets it'];
missing.push(...(await lacking([...IMAGE_TOOLS, 'dpkg-scanpackages', 'dpkg-deb', 'apt-get', 'zstd'])));
const address = hostAddress();
if (address === undefined) missing.push('an address that guests reach');

let folder = '';
let older = '';
let newer = '';
let url = '';
let keyring = '';
/** The archive for this host's own apt, which does not know the authority. */
let plainUrl = '';
const servers: (Server | PlainServer)[] = [];
let env: Record<string, string> = {};

/** A .deb of files by path. */
const deb = (name: string, architecture: string, depends: string[], files: TarFile[]): Buffer =>
  makeDeb({
    control: {
      package: name,
      version: '1.0',
      architecture,
      maintainer: 'Rig <rig@rig.invalid>',
      section: 'kernel',
      priority: 'optional',
      depends,
      description: { synopsis: 'for a test', lines: [] },
    },
    files,
    scripts: {},
    mtime: 1_600_000_000,
  });

beforeAll(async () => {
  if (missing.length > 0) return;
  folder = await temporary('ubuntu-rig');
  // Of the namespace in which mmdebstrap reads the keyring, root is another user.
  await chmod(folder, 0o755);
  const archive = join(folder, 'ubuntu');
  const kernel = (await execa(join(RIG, 'kernel-debs.sh'), [folder, 'bookworm-backports'])).stdout.trim();
  const make = async (suite: string, number: number): Promise<string> =>
    (
      await execa(join(RIG, 'make-ubuntu.sh'), [
        ...[kernel, join(folder, 'debs')],
        ...[join(archive, 'pool/main/l', suite), String(number)],
      ])
    ).stdout.trim();
  older = await make('linux', 56);
  newer = await make('linux-updates', 57);

  const { key, publicKey } = await makeKey(folder);
  const binary = (await openpgp.readKey({ armoredKey: publicKey })).write();
  keyring = join(folder, 'keyring.gpg');
  await writeFile(keyring, binary);
  const trusted = {
    path: '/etc/apt/trusted.gpg.d/ubuntu-keyring.gpg',
    mode: 0o644,
    bytes: Buffer.from(binary),
  };
  const tiny = await lookingTiny(FIXTURES, folder);
  const source = await Promise.all(
    ['Makefile', 'dkms.conf', 'dk2b_tiny.c', 'look.sh'].map(async (name) => ({
      path: `/usr/src/dk2b-tiny-1.0/${name}`,
      mode: 0o644,
      bytes: await readFile(join(tiny, name)),
    })),
  );
  await mkdir(join(archive, 'pool/main/u'), { recursive: true });
  await mkdir(join(archive, 'pool/universe/d'), { recursive: true });
  await writeFile(
    join(archive, 'pool/main/u/ubuntu-keyring.deb'),
    deb('ubuntu-keyring', 'all', [], [trusted]),
  );
  await writeFile(join(archive, 'pool/universe/d/dk2b.deb'), deb('dk2b-tiny-dkms', 'all', ['dkms'], source));

  const { stanzas, mirror } = await debianPackages(join(folder, 'apt'), 'bookworm');
  const empty = { folders: [] };
  const updates = { main: { folders: ['pool/main/l/linux-updates'] }, universe: empty };
  const suites = {
    noble: {
      main: { stanzas, folders: ['pool/main/l/linux', 'pool/main/u'] },
      universe: { folders: ['pool/universe/d'] },
    },
    // Both have the same kernel, as is usual.
    'noble-updates': updates,
    'noble-security': updates,
  };
  for (const [name, components] of Object.entries(suites))
    await writeSuite(archive, { name, components }, key!);
  // One that nobody but NODE_EXTRA_CA_CERTS knows.
  const authority = await makeAuthority(folder, address!);
  const answer = answerFrom(folder, mirror);
  const secure = await serveHttps(authority, address!, answer);
  const plain = createServer(answer);
  await new Promise<void>((listening) => plain.listen(0, '127.0.0.1', listening));
  servers.push(secure.server, plain);
  url = secure.url;
  plainUrl = `http://127.0.0.1:${(plain.address() as AddressInfo).port}`;
  // Of the release pocket alone, as of the day of the release: there is a newer kernel than its own.
  const sources = `deb [signed-by=${keyring}] ${plainUrl}/ubuntu noble main\n`;
  await makeImage('ubuntu', { sources, url }, join(folder, 'image'));

  const catalogue = join(folder, 'catalogue');
  await mkdir(catalogue);
  const row = await readFile(join(RIG, 'ubuntu.yaml'), 'utf8');
  await writeFile(
    join(catalogue, 'ubuntu.yaml'),
    row.replaceAll(`'{domain}'`, `'${new URL(url).host}'`).replaceAll('{keyring}', keyring),
  );
  // A cache of its own: the archive is another one each time, and so is the image.
  env = {
    DKMS2BIN_STATE: join(folder, 'state'),
    DKMS2BIN_CATALOGUE: catalogue,
    DKMS2BIN_CACHE: join(folder, 'cache'),
    NODE_EXTRA_CA_CERTS: authority.file,
  };
});

afterAll(async () => {
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
  if (folder) await rm(folder, { recursive: true, force: true });
});

const skipped = missing.length > 0 ? ` (skipped: no ${missing.join(', ')})` : '';

test.skipIf(missing.length > 0)(
  `the archive's kernels, each once, are of Ubuntu's grammar${skipped}`,
  async () => {
    const ended = await tool(['kernels', '--distro', 'ubuntu-rig', '--json'], { env });
    expect(ended.code, ended.stderr).toBe(0);
    const { kernels } = JSON.parse(ended.stdout) as { kernels: { release: string; suite: string }[] };
    expect(kernels).toMatchObject([
      { release: newer, suite: 'noble-updates' },
      { release: older, suite: 'noble' },
    ]);
    // The metapackage of updates points to the newer one.
    const args = ['--dkms', 'dk2b-tiny-dkms', '--distro', 'ubuntu-rig', '--kernel', 'latest', '--dry-run'];
    const plan = await tool([...args, '--out-dir', join(folder, 'none')], { env });
    expect(plan.stdout).toContain(newer);
    expect(plan.stdout).not.toContain(older);
    expect(newer).toMatch(/^\d+\.\d+\.0-\d+-generic$/);
  },
);

test.skipIf(missing.length > 0)(
  `a DKMS package of universe becomes a package that installs beside Ubuntu's kernel and loads${skipped}`,
  async () => {
    const out = join(folder, 'out');
    const args = ['--dkms', 'dk2b-tiny-dkms', '--distro', 'ubuntu-rig', '--kernel', newer];
    const more = ['--image', 'official', '--out-dir', out, '--json', '--verbose'];
    const ended = await tool([...args, ...more], { env });
    expect(ended.code, ended.stderr).toBe(0);
    const [cell] = (JSON.parse(ended.stdout) as Document).cells;
    expect(cell).toMatchObject({ verdict: 'built', kernel: newer, reason: null });
    // Made on the host, of the image's own sources. It has the older kernel; apt installed the exact one with its modules and both header
    // packages, and the compiler, which the image lacks.
    expect(ended.stderr).toContain('image root done');
    expect(ended.stderr).not.toMatch(/made in a VM|Booting cold|cc-probes/);
    expect(ended.stderr).toContain('Setting up libc6-dev');
    const log = await readFile(cell!.log!, 'utf8');
    expect(Number(/root: +(\d+) KiB of ext4/.exec(log)?.[1])).toBeGreaterThan(13 * 1024 * 1024);
    const headers = newer.replace('-generic', '');
    for (const name of [
      `linux-image-${newer}`,
      `linux-modules-${newer}`,
      `linux-modules-extra-${newer}`,
      `linux-headers-${newer}`,
      `linux-headers-${headers}`,
    ]) {
      expect(ended.stderr).toMatch(new RegExp(`Setting up ${name.replaceAll('.', '\\.')} `));
    }
    expect(ended.stderr).not.toContain('Setting up linux-image-unsigned-');

    const { package: about, modules } = await inspectFile(cell!.package!);
    expect(about?.depends).toContain(`linux-image-${newer} | linux-image-unsigned-${newer}`);
    expect(modules.map((each) => each.kernel)).toEqual([newer]);
    // apt takes it on a machine with the unsigned image, and brings an image where there is none.
    const apt = new Apt(join(folder, 'client'));
    apt.sources(
      ['noble', 'noble-updates']
        .map((suite) => `deb [signed-by=${keyring}] ${plainUrl}/ubuntu ${suite} main\n`)
        .join(''),
    );
    expect(await apt.get('update')).toMatchObject({ code: 0 });
    const common = join(
      out,
      (await readdir(out)).find((name) => /-modules-common_.*\.deb$/.test(name))!,
    );
    const plan = async (...names: string[]): Promise<string> =>
      (await apt.get('-s', 'install', ...names, common, cell!.package!)).text;
    expect(await plan()).toContain(`Inst linux-image-${newer} `);
    const unsigned = await plan(`linux-image-unsigned-${newer}`);
    expect(unsigned).toContain(`Inst linux-image-unsigned-${newer} `);
    expect(unsigned).toContain(`Inst dk2b-tiny-modules-${newer} `);
    expect(unsigned).not.toContain(`Inst linux-image-${newer} `);
  },
);
