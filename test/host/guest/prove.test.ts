import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { programText } from '../../../src/guest/program.js';
import { makeDeb } from '../../../src/pack/deb.js';
import { serveRepository } from '../../../src/repo/index.js';
import { control } from '../../unit/fixtures/pack-input.js';
import { addDeb, makeKey, publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';
import { Apt } from '../fixtures/apt.js';
import { hasTool } from '../fixtures/has-tool.js';
import { putFile } from '../fixtures/put.js';

// prove.py and the real apt, with a root of its own: what it asks where, up to the installation, which the VM tests show.
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

async function step(
  name: 'alone' | 'fetch',
  dir: string,
  ...packages: string[]
): Promise<{ code: number | null; rows: string[]; said: string; archives: string[] }> {
  await using served = await serveRepository(dir);
  const { host, port } = new URL(served.url);
  const variables = {
    ...{ RELEASE: release(), HANG: 1, STEP: name, MANAGER: 'apt', HOST: host, KEY_URL: '', KEYRING: '' },
    ...{ SOURCES: `deb [signed-by=${keyring}] http://${host}/ ./\n`, PACKAGES: packages },
    ...{ PROXY: '', AUTHORITIES: 0 },
  };
  const text = (await programText('prove.py', variables))
    .replace('"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"', `"${tmp.path}/bin"`)
    .replace('(HOST, 80)', `("127.0.0.1", ${port})`)
    .replaceAll(
      /"(\/(?:etc|usr\/src|lib\/modules|var\/tmp))\//g,
      (_, path: string) => `"${tmp.path}${path}/`,
    );
  mkdirSync(join(tmp.path, 'var/tmp'), { recursive: true });
  const child = spawn('python3', ['-I', '-c', text]);
  let said = '';
  for (const from of [child.stdout, child.stderr])
    from.on('data', (bytes: Buffer) => (said += String(bytes)));
  const code = await new Promise<number | null>((done) => child.once('close', done));
  const rows = said.split('\n').flatMap((line) => (line.startsWith('@@dkms2bin ') ? [line.slice(11)] : []));
  const archives = readdirSync(join(tmp.path, 'cache/archives')).filter((each) => each.endsWith('.deb'));
  return { code, rows: rows.filter((row) => row !== 'progress'), said, archives: archives.sort() };
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
