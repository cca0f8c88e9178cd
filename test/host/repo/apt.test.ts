import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { serveRepository, type Served } from '../../../src/repo/index.js';
import { Apt, between, command } from '../fixtures/apt.js';
import { addDeb, makeKey, publishQuietly, tempFolder } from '../../unit/fixtures/repository.js';
import { hasTool } from '../fixtures/has-tool.js';

const APT = hasTool('apt-get') && hasTool('gpgv');

let tmp: ReturnType<typeof tempFolder>;
let dir: string;
let apt: Apt;
let served: Served | undefined;
beforeEach((ctx) => {
  if (!APT) ctx.skip('apt-get or gpgv is not installed');
  tmp = tempFolder();
  dir = join(tmp.path, 'out');
  mkdirSync(dir);
  apt = new Apt(join(tmp.path, 'apt'));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await served?.close();
  served = undefined;
  tmp?.remove();
});

const signedBy = (): string => join(dir, 'dkms2bin-archive-keyring.asc');
const line = (url: string): string => `deb [signed-by=${signedBy()}] ${url} ./\n`;

test('apt takes a signed repository, installs from it, and both forms of the sources mean it', async () => {
  const { key } = await makeKey(tmp.path);
  const file = addDeb(dir, 'foo-modules-6.1.0-1-amd64', '1.2+dfsg~rc1');
  addDeb(dir, 'foo-modules-common', '1.2+dfsg~rc1', 'all');
  addDeb(dir, 'foo-modules-6.1.0-1-arm64', '1.2', 'arm64');
  mkdirSync(join(dir, 'pool'));
  addDeb(join(dir, 'pool'), 'bar', '1:2.0');
  await publishQuietly(dir, { key });
  served = await serveRepository(dir);
  const { sources } = served;
  expect(sources.apt?.line).toBe(`deb [signed-by=${sources.keyring}] ${served.url} ./\n`);
  const forms = { list: sources.apt?.line ?? '', sources: sources.apt?.deb822 ?? '' };
  for (const [suffix, text] of Object.entries(forms)) {
    const root = new Apt(join(tmp.path, suffix));
    const name = join(root.root, 'etc', `sources.${suffix}`);
    writeFileSync(name, text.replace(sources.keyring, signedBy()));
    const update = await root.get('-o', `Dir::Etc::sourcelist=${name}`, 'update');
    expect(update, suffix).toMatchObject({ code: 0, text: expect.not.stringMatching(/^[WE]:/m) as string });
  }

  apt.sources(line(served.url));
  expect((await apt.get('update')).text).not.toMatch(/^[WE]:/m);
  const uris = await apt.get(
    'install',
    '--print-uris',
    '-y',
    'foo-modules-6.1.0-1-amd64',
    'bar',
    'foo-modules-common',
  );
  expect(uris.code, uris.text).toBe(0);
  expect(uris.text).toContain('/foo-modules-6.1.0-1-amd64_1.2');
  expect(uris.text).toContain('/pool/bar_');
  const fetched = await apt.get(
    'install',
    '--download-only',
    '-y',
    'foo-modules-6.1.0-1-amd64',
    'bar',
    'foo-modules-common',
  );
  expect(fetched.code, fetched.text).toBe(0);
  const got = spawnSync('find', [join(apt.root, 'cache/archives'), '-name', 'foo-modules-6*.deb'], {
    encoding: 'utf8',
  });
  expect(readFileSync(got.stdout.trim())).toEqual(readFileSync(join(dir, file)));
  // Another architecture's package is in the same index and not offered.
  expect((await apt.cache('policy', 'foo-modules-6.1.0-1-arm64')).text).not.toContain('1.2');
});

test('apt takes a repository with packages for all architectures only, and an empty one', async () => {
  const { key } = await makeKey(tmp.path);
  addDeb(dir, 'only-all', '1', 'all');
  await publishQuietly(dir, { key });
  served = await serveRepository(dir);
  apt.sources(line(served.url));
  const update = await apt.get('update');
  expect(update).toMatchObject({ code: 0, text: expect.not.stringMatching(/^[WE]:/m) as string });
  expect((await apt.cache('policy', 'only-all')).text).toContain('Candidate: 1\n');
  spawnSync('rm', [join(dir, 'only-all_1_all.deb')]);
  await publishQuietly(dir, { key });
  const again = await apt.get('update');
  expect(again).toMatchObject({ code: 0, text: expect.not.stringMatching(/^[WE]:/m) as string });
  expect((await apt.cache('policy', 'only-all')).text).not.toContain('Candidate: 1');
});

test('apt refuses an unsigned repository unless it is told to trust it', async () => {
  addDeb(dir, 'foo', '1');
  await publishQuietly(dir);
  served = await serveRepository(dir);
  apt.sources(`deb ${served.url} ./\n`);
  expect(await apt.get('update')).toMatchObject({
    code: 100,
    text: expect.stringContaining('not signed') as string,
  });
  apt.sources(served.sources.apt?.line ?? '');
  expect(await apt.get('update')).toMatchObject({ code: 0 });
  expect(served.sources.apt?.line).toContain('[trusted=yes]');
  expect((await apt.get('install', '--print-uris', '-y', 'foo')).code).toBe(0);
});

test('apt refuses what was tampered with: the index, the signed text, the package; and another key', async () => {
  const { key } = await makeKey(tmp.path);
  const file = addDeb(dir, 'foo', '1');
  await publishQuietly(dir, { key });
  served = await serveRepository(dir);
  apt.sources(line(served.url));
  expect((await apt.get('update')).code).toBe(0);

  const good = readFileSync(join(dir, file));
  const bad = Buffer.from(good);
  bad[bad.length - 3]! ^= 1;
  writeFileSync(join(dir, file), bad);
  expect(await apt.get('install', '--download-only', '-y', 'foo')).toMatchObject({
    code: 100,
    text: expect.stringContaining('Hash Sum mismatch') as string,
  });
  writeFileSync(join(dir, file), good);

  const fresh = async (name: string, text = line(served?.url ?? '')): Promise<string> => {
    const other = new Apt(join(tmp.path, name));
    other.sources(text);
    const { code, text: said } = await other.get('update');
    return `${code} ${said}`;
  };
  const inRelease = readFileSync(join(dir, 'InRelease'), 'utf8');
  writeFileSync(join(dir, 'InRelease'), inRelease.replace('Origin: dkms2bin', 'Origin: someone'));
  expect(await fresh('text')).toMatch(/^100 [^]*(BADSIG|invalid)/);
  writeFileSync(join(dir, 'InRelease'), inRelease);
  const other = await makeKey(tmp.path);
  writeFileSync(join(tmp.path, 'other.asc'), other.key?.publicKey ?? '');
  expect(await fresh('key', `deb [signed-by=${join(tmp.path, 'other.asc')}] ${served.url} ./\n`)).toMatch(
    /^100 [^]*NO_PUBKEY/,
  );
  const packages = readFileSync(join(dir, 'Packages'), 'utf8').replace('foo for a test', 'bar for a test');
  for (const each of /SHA256:\n((?: .*\n)+)/.exec(inRelease)?.[1]?.trim().split('\n') ?? []) {
    const [hash = '', , name = ''] = each.trim().split(' ');
    writeFileSync(join(dir, 'by-hash/SHA256', hash), packages);
    writeFileSync(join(dir, name), packages);
  }
  expect(await fresh('index')).toMatch(/^100 [^]*(unexpected size|Hash Sum mismatch)/);

  // The next publication puts all of it right.
  expect(await publishQuietly(dir, { key })).toMatchObject({ changed: true });
  expect(await fresh('right')).toMatch(/^0 /);
});

test('a client that has read the old InRelease finds the old indexes after a new publication', async () => {
  const { key } = await makeKey(tmp.path);
  addDeb(dir, 'foo', '1');
  await publishQuietly(dir, { key });
  served = await serveRepository(dir);
  let published = false;
  const middle = await between(served.url, async (path) => {
    if (path.includes('InRelease') || published) return;
    published = true;
    addDeb(dir, 'foo', '2');
    await publishQuietly(dir, { key });
  });
  try {
    apt.sources(line(middle.url));
    const update = await apt.get('update');
    expect(update).toMatchObject({ code: 0, text: expect.not.stringMatching(/^[WE]:/m) as string });
    expect(published).toBe(true);
    expect((await apt.cache('policy', 'foo')).text).toContain('Candidate: 1\n');
    expect((await apt.get('update')).code).toBe(0);
    expect((await apt.cache('policy', 'foo')).text).toContain('Candidate: 2\n');
  } finally {
    middle.server.close();
  }
});

test('a client that updates again and again while packages are published sees no mismatch', async () => {
  const { key } = await makeKey(tmp.path);
  addDeb(dir, 'foo', '0');
  await publishQuietly(dir, { key });
  served = await serveRepository(dir);
  apt.sources(line(served.url));
  let done = false;
  const start = Math.floor(Date.now() / 1000) - 1000;
  const publisher = (async () => {
    for (let version = 1; version <= 8; version++) {
      // Dates of its own for each, so that none waits for the next second.
      vi.stubEnv('SOURCE_DATE_EPOCH', String(start + version));
      addDeb(dir, 'foo', String(version));
      await publishQuietly(dir, { key });
    }
    done = true;
  })();
  // The last update begins after the last publication.
  for (let last = false; !last;) {
    last = done;
    spawnSync('rm', ['-rf', join(apt.root, 'state/lists')]);
    mkdirSync(join(apt.root, 'state/lists/partial'), { recursive: true });
    const update = await apt.get('update');
    expect(update).toMatchObject({ code: 0, text: expect.not.stringMatching(/^[WE]:/m) as string });
  }
  await publisher;
  expect((await apt.cache('policy', 'foo')).text).toContain('Candidate: 8\n');
}, 60_000);

test('the index says of each package what dpkg-scanpackages says', async (ctx) => {
  if (!hasTool('dpkg-scanpackages') || !hasTool('dpkg-deb')) ctx.skip('dpkg-dev is not installed');
  addDeb(dir, 'foo', '1.0~rc1');
  addDeb(dir, 'foo', '1.0');
  const tree = join(tmp.path, 'tree');
  mkdirSync(join(tree, 'DEBIAN'), { recursive: true });
  writeFileSync(
    join(tree, 'DEBIAN/control'),
    'Package: bar\nVersion: 2:3-4\nArchitecture: all\nMaintainer: Jörg <j@example.org>\nDepends: a,\n b\nFilename: lie\nDescription: x\n y\n .\n z\n',
  );
  for (const kind of ['gzip', 'xz', 'zstd', 'none']) {
    spawnSync('sed', ['-i', `s/^Package: .*/Package: bar-${kind}/`, join(tree, 'DEBIAN/control')]);
    const built = await command('dpkg-deb', [
      '--root-owner-group',
      `-Z${kind}`,
      '--uniform-compression',
      '-b',
      tree,
      join(dir, `bar-${kind}.deb`),
    ]);
    expect(built.code, built.text).toBe(0);
  }
  expect(await publishQuietly(dir)).toMatchObject({ leftOut: [], packages: { length: 6 } });
  const { stdout } = spawnSync('dpkg-scanpackages', ['-m', '.'], { cwd: dir, encoding: 'utf8' });
  const stanzas = (text: string): string[] =>
    text
      .trim()
      .split('\n\n')
      .map((stanza) =>
        stanza
          .split(/\n(?! )/)
          .filter((field) => !/^(MD5sum|SHA1):/.test(field))
          .sort()
          .join('\n'),
      )
      .sort();
  expect(stanzas(readFileSync(join(dir, 'Packages'), 'utf8'))).toEqual(stanzas(stdout));
});
