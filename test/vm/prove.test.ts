import { execa } from 'execa';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Proof } from '../../src/model/proof.js';
import { hostMirrors } from '../../src/distro/mirrors.js';
import { findRow, loadCatalogue } from '../../src/distro/catalogue.js';
import { makeDeb } from '../../src/pack/deb.js';
import { ProofDocument } from '../../src/model/result-schema.js';
import { Apt } from '../host/fixtures/apt.js';
import { makeKey } from '../unit/fixtures/repository.js';
import { DISTRO, FIXTURES, kernels, ROAD, temporary, tool, type Document, type Ended } from './tool.js';

let kernel = '';
let work = '';
let out = '';
let fingerprint = '';
let built = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  kernel = (await kernels()).newest;
  work = await temporary('prove');
  out = join(work, 'out');
  env = { DKMS2BIN_STATE: join(work, 'state') };
  const { file, key } = await makeKey(work);
  fingerprint = key!.fingerprint;
  expect((await tool(['keygen', '--out-dir', 'keys'], { cwd: work })).code).toBe(0);
  const ended = await tool(
    [
      ...['--sign-key', 'keys/mok.key', '--sign-cert', 'keys/mok.pem'],
      ...['--dkms', join(FIXTURES, 'tiny'), '--kernel', kernel, ...ROAD, '--no-verify'],
      ...['--out-dir', out, '--repo-key', file, '--json'],
    ],
    { env, cwd: work },
  );
  expect(ended.code, ended.stderr).toBe(0);
  built = (JSON.parse(ended.stdout) as Document).cells[0]!.package!;
  // A package that would bring a compiler, and one that needs a program of the distro's.
  const needy = makeDeb({
    control: {
      package: `needy-modules-${kernel}`,
      version: '1',
      architecture: 'amd64',
      maintainer: 'A Person <person@example.org>',
      section: 'kernel',
      priority: 'optional',
      depends: ['gcc'],
      description: { synopsis: 'for a test', lines: [] },
    },
    files: [{ path: '/usr/share/needy/text', mode: 0o644, bytes: Buffer.from('x') }],
    scripts: {},
    mtime: 1_600_000_000,
  });
  await writeFile(join(out, 'needy.deb'), needy);
  await execa('dpkg-deb', ['-R', built, join(work, 'hungry')]);
  const fields = join(work, 'hungry', 'DEBIAN', 'control');
  const text = (await readFile(fields, 'utf8'))
    .replace(/^Package: .*/m, `Package: hungry-modules-${kernel}`)
    .replace(/^Depends: /m, 'Depends: hello, ');
  await writeFile(fields, text);
  await execa('dpkg-deb', ['--root-owner-group', '-b', join(work, 'hungry'), join(out, 'hungry.deb')]);
  const published = await tool(['repo', out, '--repo-key', file]);
  expect(published.code, published.stderr).toBe(0);
});

afterAll(async () => {
  await rm(work, { recursive: true, force: true });
});

const prove = (release: string, ...more: string[]): Promise<Ended> =>
  tool(['prove', out, '--kernel', release, ...ROAD, '--json', ...more], { env });

/** Installed-Size in bytes of packages of the distro's own archive, by name. */
async function sizesOf(names: string[]): Promise<number> {
  const { mirrors } = findRow(await loadCatalogue(), DISTRO);
  const { main = mirrors.main, security = mirrors.security! } = await hostMirrors();
  const apt = new Apt(join(work, 'apt'));
  const by = '[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]';
  apt.sources(`deb ${by} ${main} bookworm main\ndeb ${by} ${security} bookworm-security main\n`);
  const updated = await apt.get('update');
  expect(updated.code, updated.text).toBe(0);
  let sum = 0;
  for (const name of names) {
    const { text } = await apt.cache('show', '--no-all-versions', name);
    sum += Number(/^Installed-Size: (\d+)$/m.exec(text)?.[1]) * 1024;
  }
  expect(sum).toBeGreaterThan(0);
  return sum;
}

test('a signed repository on a machine without toolchain: installs, loads, and the saving adds up', async () => {
  const ended = await prove(kernel, '--module', 'dk2b_tiny', '--verbose');
  expect(ended.code, ended.stderr).toBe(0);
  const proof = ProofDocument.parse(JSON.parse(ended.stdout)) as Proof;
  const name = `dk2b-tiny-modules-${kernel}`;
  expect(proof).toMatchObject({ kernel, distro: DISTRO, signedBy: fingerprint, pristine: true });
  // apt's own words: it checked the signature, and nothing but the package came.
  expect(ended.stderr).toMatch(/Get:1 \S+ \.\/ InRelease/);
  expect(proof.installed.map((each) => each.package)).toEqual([name]);
  expect(proof.modules).toMatchObject([{ package: name, verdict: 'loaded', reason: null }]);

  const { instead, takes, ...saved } = proof.saved!;
  const field = async (key: string) => Number((await execa('dpkg-deb', ['-f', built, key])).stdout);
  expect(takes.installedBytes).toBe((await field('Installed-Size')) * 1024);
  expect(takes.downloadBytes).toBe((await readFile(built)).length);
  expect(saved.installedBytes).toBe(instead.installedBytes - takes.installedBytes);
  expect(saved.downloadBytes).toBe(instead.downloadBytes - takes.downloadBytes);
  const [version] = /^\d+\.\d+/.exec(kernel)!;
  const least = [`linux-headers-${kernel}`, `linux-kbuild-${version}`, 'gcc-12', 'cpp-12', 'dkms', 'make'];
  expect(instead.installedBytes).toBeGreaterThan(await sizesOf(least));
  expect(instead.packages).toBeGreaterThan(least.length);
});

test('a kernel that takes signed modules only, and trusts the certificate, takes the module', async () => {
  const certificate = join(work, 'keys', 'mok.pem');
  const ended = await prove(kernel, '--module', 'dk2b_tiny', '--sign-cert', certificate);
  expect(ended.code, ended.stderr).toBe(0);
  const ko = await execa('dpkg-deb', ['--fsys-tarfile', built], { encoding: 'buffer' });
  await writeFile(join(work, 'fs.tar'), ko.stdout);
  await execa('tar', ['-xf', 'fs.tar', '--wildcards', '--strip-components=6', '*.ko'], { cwd: work });
  const { stdout: key } = await execa('/sbin/modinfo', ['-F', 'sig_key', join(work, 'dk2b_tiny.ko')]);
  expect(JSON.parse(ended.stdout)).toMatchObject({ enforced: key, modules: [{ verdict: 'loaded' }] });
});

test('what a package needs of the distro comes from the sources of the image', async () => {
  const offline = await prove(kernel, '--module', 'hungry', '--offline');
  expect(offline.code, offline.stderr).toBe(3);
  expect(offline.stderr).toMatch(/hungry-modules-\S+ : Depends: hello but it is not/);
  const ended = await prove(kernel, '--module', 'hungry');
  expect(ended.code, ended.stderr).toBe(0);
  const proof = ProofDocument.parse(JSON.parse(ended.stdout)) as Proof;
  expect(proof.fromDistro).toContain('hello');
  expect(proof.fromDistro).not.toContain(`hungry-modules-${kernel}`);
  expect(proof.modules).toMatchObject([{ package: `hungry-modules-${kernel}`, verdict: 'loaded' }]);
});

test('a package that would bring a compiler is refused before that is downloaded', async () => {
  const ended = await prove(kernel, '--module', 'needy');
  expect(ended.code).toBe(1);
  expect(ended.stderr).toMatch(/A toolchain comes along with the packages: .*gcc/);
});

test('a package that was changed after signing does not install: apt says so, and the exit code', async () => {
  const bytes = await readFile(built);
  bytes[bytes.length - 1]! ^= 1;
  await writeFile(built, bytes);
  const ended = await prove(kernel, '--module', 'dk2b_tiny');
  expect(ended.code).toBe(1);
  expect(ended.stderr).toMatch(/Hash Sum mismatch/);
  expect(ended.stderr).toContain(basename(built));
  expect(JSON.parse(ended.stdout)).toMatchObject({ schemaVersion: 1, error: { fault: 'module' } });
});

test('a kernel that the repository has nothing for is not found, and no VM starts', async () => {
  const ended = await prove('6.1.0-1-amd64');
  expect(ended.code).toBe(3);
  expect(ended.stderr).toContain(`It has some for: ${kernel}`);
  expect(ended.stderr).not.toMatch(/boot/);
});
