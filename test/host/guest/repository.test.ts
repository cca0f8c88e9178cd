import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { programText, type ProgramName, type Variables } from '../../../src/guest/program.js';
import { makeDeb } from '../../../src/pack/deb.js';
import { makeMetapackage, type Following } from '../../../src/pack/metapackage.js';
import { serveRepository, type Served } from '../../../src/repo/index.js';
import { control } from '../../unit/fixtures/pack-input.js';
import { addDeb, makeKey, publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';
import { Apt } from '../fixtures/apt.js';
import { hasTool } from '../fixtures/has-tool.js';
import { KERNEL_LOG } from '../fixtures/kernel-log.js';
import { putFile } from '../fixtures/put.js';

// prove.py, upgrade.py and the real apt, with a root of its own: what it asks where, up to the installation, which the VM tests show.
let tmp: ReturnType<typeof tempFolder>;
let keyring: string;
beforeEach(async (ctx) => {
  if (!hasTool('apt-get')) ctx.skip('apt is not installed');
  tmp = tempFolder();
  const root = new Apt(tmp.path);
  // The image's own sources.
  const distro = join(tmp.path, 'distro');
  mkdirSync(distro);
  for (const name of ['hello', 'gcc-99']) addDeb(distro, name, '1');
  await publishQuietly(distro);
  root.sources(`deb [trusted=yes] file:${distro} ./\n`);
  mkdirSync(join(tmp.path, 'etc/apt/sources.list.d'), { recursive: true });
  const apt = `PATH=/usr/bin:/bin APT_CONFIG=${tmp.path}/apt.conf apt-get -o Dir::Etc::SourceParts=${tmp.path}/etc/apt/sources.list.d`;
  putFile(tmp.path, 'bin/apt-get', `#!/bin/sh\n${apt} "$@"\n`, 0o755);
  putFile(tmp.path, 'bin/dpkg-query', '#!/bin/sh\n', 0o755);
});
afterEach(() => tmp?.remove());

/** A repository with packages that depend on others, and its key where the machine has it. */
async function publish(depends: Record<string, string[]>): Promise<string> {
  const dir = join(tmp.path, 'ours');
  mkdirSync(dir);
  for (const [name, each] of Object.entries(depends)) {
    const fields = control({ package: name, version: '1', depends: each });
    writeFileSync(join(dir, `${name}.deb`), makeDeb({ control: fields, files: [], scripts: {}, mtime: 0 }));
  }
  const { file, key } = await makeKey(tmp.path);
  expect(file).not.toBe('');
  await publishQuietly(dir, { key: key! });
  keyring = join(
    dir,
    readdirSync(dir).find((name) => name.includes('keyring'))!,
  );
  return dir;
}

interface Ran {
  code: number | null;
  rows: string[];
  said: string;
}

/** A program of the guest, as the host sends it, here. The repository is what `served` serves. */
async function run(name: ProgramName, variables: Variables, served: Served): Promise<Ran> {
  const { host, port } = new URL(served.url);
  const common = { HANG: 1, HOST: host, KEY_URL: '', KEYRING: '', PROXY: '', AUTHORITIES: 0 };
  const text = (await programText(name, { ...common, ...variables }))
    .replace('"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"', `"${tmp.path}/bin"`)
    .replace('(HOST, 80)', `("127.0.0.1", ${port})`)
    // An ordinary user may not read the kernel's log.
    .replace('"/dev/kmsg"', `"${tmp.path}/kmsg"`)
    .replaceAll(
      /"(\/(?:etc|usr\/src|lib\/modules|var\/tmp|var\/lib))\//g,
      (_, path: string) => `"${tmp.path}${path}/`,
    );
  mkdirSync(join(tmp.path, 'var/tmp'), { recursive: true });
  writeFileSync(join(tmp.path, 'kmsg'), '');
  const child = spawn('python3', ['-I', '-c', KERNEL_LOG + text]);
  let said = '';
  for (const from of [child.stdout, child.stderr])
    from.on('data', (bytes: Buffer) => (said += String(bytes)));
  const code = await new Promise<number | null>((done) => child.once('close', done));
  const rows = said.split('\n').flatMap((line) => (line.startsWith('@@dkms2bin ') ? [line.slice(11)] : []));
  return { code, rows: rows.filter((row) => row !== 'progress'), said };
}

const sourcesOf = ({ url }: Served): string => `deb [signed-by=${keyring}] http://${new URL(url).host}/ ./\n`;

/** A step of prove.py, and what was downloaded. */
async function step(
  name: 'alone' | 'fetch',
  dir: string,
  ...packages: string[]
): Promise<Ran & { archives: string[] }> {
  await using served = await serveRepository(dir);
  const variables = { RELEASE: release(), STEP: name, MANAGER: 'apt', SOURCES: sourcesOf(served) };
  const ran = await run('prove.py', { ...variables, PACKAGES: packages }, served);
  const archives = readdirSync(join(tmp.path, 'cache/archives')).filter((each) => each.endsWith('.deb'));
  return { ...ran, archives: archives.sort() };
}

test('what the repository lacks comes from the sources of the image', async () => {
  const dir = await publish({ 'foo-modules': ['foo-common'], 'foo-common': ['hello'] });
  const alone = await step('alone', dir, 'foo-modules');
  expect(alone.code, alone.said).toBe(14);
  expect(alone.rows[0]).toMatch(/^error apt-get install foo-modules: .*foo-(?:modules|common) : Depends: /);
  expect(alone.archives).toEqual([]);
  const fetched = await step('fetch', dir, 'foo-modules');
  expect(fetched.code, fetched.said).toBe(0);
  // What is a file here already apt takes from where it is.
  const names = fetched.archives.map((name) => name.replace(/_.*/, ''));
  expect([...names, /^Inst hello /m.test(fetched.said)]).toEqual(['foo-common', 'foo-modules', true]);
});

test('what neither has is refused, and a toolchain before it is downloaded', async () => {
  const dir = await publish({ 'foo-modules': ['nowhere'], 'bar-modules': ['gcc-99'] });
  const nowhere = await step('fetch', dir, 'foo-modules');
  expect(nowhere.rows, nowhere.said).toEqual([
    expect.stringMatching(
      /^error apt-get -s install foo-modules: .*Depends: nowhere but it is not installable/,
    ),
  ]);
  expect(nowhere.code).toBe(7);
  const toolchain = await step('fetch', dir, 'bar-modules');
  expect([toolchain.code, toolchain.rows], toolchain.said).toEqual([13, ['error gcc-99']]);
  expect(toolchain.archives).toEqual([]);
});

test('a repository whose index is not taken is refused beside the sources of the image as well', async () => {
  const dir = await publish({ 'foo-modules': ['hello'] });
  writeFileSync(join(dir, 'InRelease'), 'spoilt');
  for (const name of ['alone', 'fetch'] as const) {
    const spoilt = await step(name, dir, 'foo-modules');
    expect(spoilt.code, spoilt.said).toBe(7);
    expect(spoilt.rows[0]).toMatch(/^error apt-get update: [EW]: /);
  }
});

test('upgrade.py offers the next kernel, and tells whether upgrades keep the old one', async () => {
  const [FROM, TO] = ['6.1.0-56-amd64', '6.1.0-57-amd64'];
  const pool = join(tmp.path, 'var/lib/dkms2bin-pool');
  mkdirSync(pool, { recursive: true });
  const put = (dir: string, name: string, version: string, ...depends: string[]): string => {
    const fields = control({ package: name, version, depends });
    const file = join(dir, `${name}_${version}.deb`);
    writeFileSync(file, makeDeb({ control: fields, files: [], scripts: {}, mtime: 0 }));
    return file;
  };
  const old = [
    put(pool, `linux-image-${FROM}`, '1'),
    put(pool, 'linux-image-amd64', '1', `linux-image-${FROM}`),
  ];
  put(pool, `linux-image-${TO}`, '2');
  put(pool, 'linux-image-amd64', '2', `linux-image-${TO}`);
  const dir = join(tmp.path, 'ours');
  mkdirSync(dir);
  const following: Following = {
    ...{ distro: 'debian-12', arch: 'x86_64', module: 'foo', meta: 'linux-image-amd64', backports: false },
    ...{ release: FROM, moduleVersion: '1', upTo: '1' },
  };
  const meta = makeMetapackage(following, { hold: true, mtime: 0 });
  writeFileSync(join(dir, meta.file), meta.bytes);
  const there = [...old, put(dir, `foo-modules-${FROM}`, '1', `linux-image-${FROM}`), join(dir, meta.file)];
  const status = there.map((file) => {
    const fields = execFileSync('dpkg-deb', ['-f', file], { encoding: 'utf8' });
    return fields.replace('\n', '\nStatus: install ok installed\n');
  });
  writeFileSync(join(tmp.path, 'status'), status.join('\n'));
  await publishQuietly(dir);
  putFile(
    tmp.path,
    'bin/dpkg-query',
    `#!/bin/sh\nexec /usr/bin/dpkg-query --admindir=${tmp.path} "$@"\n`,
    0o755,
  );
  putFile(tmp.path, 'bin/dpkg-deb', '#!/bin/sh\nPATH=/usr/bin:/bin exec dpkg-deb "$@"\n', 0o755);
  await using served = await serveRepository(dir);
  // What the step before has written.
  const sources = [`file:${tmp.path}/var/lib/dkms2bin-archive`, `http://${new URL(served.url).host}/`];
  const list = sources.map((each) => `deb [trusted=yes] ${each} ./\n`).join('');
  putFile(tmp.path, 'etc/apt/sources.list.d/dkms2bin.list', list);
  const variables = {
    ...{
      RELEASE: release(),
      STEP: 'hold',
      FROM,
      TO,
      META: 'linux-image-amd64',
      FROM_META: '1',
      TO_META: '2',
    },
    ...{ SOURCES: '', PACKAGES: ['foo-modules-amd64'], MODULES: [] },
  };
  const { code, rows, said } = await run('upgrade.py', variables, served);
  expect([code, rows], said).toEqual([
    0,
    ['upgrade', 'upgrade+--with-new-pkgs', 'dist-upgrade'].map(
      (how) => `held ${how} kept kept back: linux-image-amd64`,
    ),
  ]);
});
