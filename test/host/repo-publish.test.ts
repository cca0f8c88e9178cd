import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import type { Event } from '../../src/model/events.js';
import { indexStanza } from '../../src/formats/deb.js';
import {
  addDeb,
  command,
  deb,
  makeKey,
  publishQuietly,
  tempFolder,
  translate,
} from '../unit/repo-fixture.js';

let tmp: ReturnType<typeof tempFolder>;
let dir: string;
beforeEach(() => {
  tmp = tempFolder();
  dir = join(tmp.path, 'out');
  mkdirSync(dir);
});
afterEach(() => {
  vi.unstubAllEnvs();
  tmp.remove();
});

const read = (name: string): string => readFileSync(join(dir, name), 'utf8');
const paths = (result: { packages: { path: string }[] }): string[] =>
  result.packages.map((each) => each.path);

/** Everything in the folder with its content, but for the lock. */
function tree(folder = dir): Record<string, string> {
  const all: Record<string, string> = {};
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile() && !entry.name.endsWith('.lock')) all[path] = readFileSync(path, 'latin1');
  }
  return all;
}

/** That what Release names is there, by name and by hash, and is what it says. */
function expectWhole(): void {
  for (const line of /SHA256:\n((?: .*\n)+)/.exec(read('Release'))?.[1]?.trimEnd().split('\n') ?? []) {
    const [hash = '', size = '', name = ''] = line.trim().split(' ');
    for (const path of [name, `by-hash/SHA256/${hash}`]) {
      const bytes = readFileSync(join(dir, path));
      expect([path, bytes.length, createHash('sha256').update(bytes).digest('hex')]).toEqual([
        path,
        Number(size),
        hash,
      ]);
    }
  }
  for (const [, path = ''] of read('Packages').matchAll(/^Filename: (.*)$/gm)) {
    expect(existsSync(join(dir, path)), path).toBe(true);
  }
}

test('the same packages give the same bytes, and nothing is written when nothing changed', async () => {
  addDeb(dir, 'foo', '1');
  addDeb(dir, 'foo', '10');
  addDeb(dir, 'foo', '9');
  expect(await publishQuietly(dir)).toMatchObject({ changed: true, kinds: ['apt'], signedBy: null });
  expect([...read('Packages').matchAll(/^Version: (.*)$/gm)].map(([, v]) => v)).toEqual(['1', '9', '10']);
  expectWhole();
  const before = tree();
  const time = statSync(join(dir, 'Release')).mtimeMs;
  await sleep(1100);
  expect(await publishQuietly(dir)).toMatchObject({ changed: false });
  expect(tree()).toEqual(before);
  expect(statSync(join(dir, 'Release')).mtimeMs).toBe(time);

  // Elsewhere, in another order of making.
  vi.stubEnv('SOURCE_DATE_EPOCH', '1700000000');
  const other = join(tmp.path, 'other');
  mkdirSync(other);
  for (const version of ['9', '10', '1']) addDeb(other, 'foo', version);
  await publishQuietly(other);
  await publishQuietly(dir);
  for (const name of ['Packages', 'Packages.gz', 'Packages.xz', 'Release']) {
    expect(readFileSync(join(other, name)), name).toEqual(readFileSync(join(dir, name)));
  }
  expect(read('Release')).toContain('Date: Tue, 14 Nov 2023 22:13:20 UTC\n');
});

test('two publications in one second get different dates; an older date is told', async () => {
  addDeb(dir, 'foo', '1');
  await publishQuietly(dir);
  const first = /^Date: .*/m.exec(read('Release'))?.[0];
  addDeb(dir, 'foo', '2');
  await publishQuietly(dir);
  expect(/^Date: .*/m.exec(read('Release'))?.[0]).not.toBe(first);
  vi.stubEnv('SOURCE_DATE_EPOCH', '1700000000');
  const events: Event[] = [];
  await publishQuietly(dir, { events });
  expect(events).toMatchObject([{ level: 'warn', message: expect.stringContaining('later date') as string }]);
});

test('what is no whole package is named and left out, and stays where it is', async () => {
  const file = addDeb(dir, 'foo', '1');
  const whole = deb('bar', '2');
  writeFileSync(join(dir, 'text.deb'), 'hello');
  writeFileSync(join(dir, 'empty.deb'), '');
  writeFileSync(join(dir, 'a b.deb'), whole);
  mkdirSync(join(dir, 'folder.deb'));
  symlinkSync(file, join(dir, 'link.deb'));
  writeFileSync(join(dir, '.hidden.deb'), whole);
  const events: Event[] = [];
  const result = await publishQuietly(dir, { events });
  expect(paths(result)).toEqual([file]);
  expect(result.leftOut).toEqual([
    { path: 'a b.deb', reason: 'characters in its name that a URL cannot carry' },
    { path: 'empty.deb', reason: 'an empty file' },
    { path: 'text.deb', reason: 'not a Debian package' },
  ]);
  expect(events.map((each) => (each.type === 'note' ? each.message : ''))).toEqual([
    'link.deb is a symbolic link, which is not followed; it is left out',
    'a b.deb is left out of the repository: characters in its name that a URL cannot carry',
    'empty.deb is left out of the repository: an empty file',
    'text.deb is left out of the repository: not a Debian package',
  ]);
  expect(existsSync(join(dir, 'text.deb'))).toBe(true);

  // Cut off at any length, or with any byte damaged in what is read: never an exception.
  for (const name of ['text.deb', 'empty.deb', 'a b.deb']) rmSync(join(dir, name));
  writeFileSync(join(dir, 'cut.deb'), whole);
  for (let length = whole.length - 1; length > 0; length = Math.floor(length * 0.8)) {
    truncateSync(join(dir, 'cut.deb'), length);
    expect((await publishQuietly(dir)).leftOut, String(length)).toMatchObject([{ path: 'cut.deb' }]);
  }
  for (const at of [3, 70, 120, 130, 132, 140, 200, 260]) {
    const damaged = Buffer.from(whole);
    damaged[at]! ^= 0xff;
    writeFileSync(join(dir, 'cut.deb'), damaged);
    expect(paths(await publishQuietly(dir))).toContain(file);
  }
}, 60_000);

test('a control file cannot end its stanza early or bring fields of its own', () => {
  const good = 'Package: x1\nVersion: 1\nArchitecture: all\n';
  expect(indexStanza(`\n${good}Description: a\n b\n\n`).fields.at(-1)).toEqual({
    key: 'description',
    text: 'Description: a\n b',
  });
  for (const bad of [
    `${good}\nPackage: other\n`,
    `${good}Description: a\n  \n\tb\n \nPackage: other`,
    `${good}Package: x2\n`,
    `${good}no field\n`,
    ` ${good}`,
    `${good}Description: a\rFilename: b\n`,
    good.replace('x1', 'x 1'),
    good.replace('Version: 1', 'Version:'),
    good.replace('Architecture: all\n', ''),
    '',
  ]) {
    expect(() => indexStanza(bad), JSON.stringify(bad)).toThrow(/its control file is not usable/);
  }
});

test('the same package twice with different bytes is an error that names both, and nothing is changed', async () => {
  const file = addDeb(dir, 'foo', '1');
  const { packages } = await publishQuietly(dir);
  const before = tree();
  writeFileSync(join(dir, 'again.deb'), deb('foo', '1', 'amd64', 'other bytes'));
  addDeb(dir, 'foo', '2');
  const clash = publishQuietly(dir, { keep: 1 });
  await expect(clash).rejects.toMatchObject({
    fault: 'usage',
    message: `The same package twice, with different content:\nfoo 1 (amd64): again.deb and ${file}`,
  });
  for (const [path, content] of Object.entries(before)) expect(readFileSync(path, 'latin1')).toBe(content);
  // The same bytes under another name are one package.
  writeFileSync(join(dir, 'again.deb'), readFileSync(join(dir, file)));
  rmSync(join(dir, 'foo_2_amd64.deb'));
  expect((await publishQuietly(dir)).packages).toEqual([{ ...packages[0], path: 'again.deb' }]);
});

test('--keep leaves the newest versions of each name and architecture, by Debian order', async () => {
  for (const version of ['1.0~rc1', '1.0', '1.0-2', '1.0-10']) addDeb(dir, 'foo', version);
  addDeb(dir, 'foo', '0.9', 'arm64');
  addDeb(dir, 'bar', '1');
  writeFileSync(join(dir, 'copy.deb'), readFileSync(join(dir, 'foo_1.0_amd64.deb')));
  writeFileSync(join(dir, 'broken.deb'), 'x');
  const result = await publishQuietly(dir, { keep: 2 });
  expect(result.removed.sort()).toEqual(['copy.deb', 'foo_1.0_amd64.deb', 'foo_1.0~rc1_amd64.deb']);
  expect(
    readdirSync(dir)
      .filter((name) => name.endsWith('.deb'))
      .sort(),
  ).toEqual([
    'bar_1_amd64.deb',
    'broken.deb',
    'foo_0.9_arm64.deb',
    'foo_1.0-10_amd64.deb',
    'foo_1.0-2_amd64.deb',
  ]);
  expectWhole();
  expect(read('Packages')).not.toContain('~rc1');
  await expect(publishQuietly(dir, { keep: 0 })).rejects.toMatchObject({ fault: 'usage' });
});

test('superseded indexes stay for a day, and the last few however old', async () => {
  const start = 1_700_000_000;
  const long = new Date(Date.now() - 3 * 86_400_000);
  const names = (): string[] => readdirSync(join(dir, 'by-hash/SHA256'));
  for (let i = 0; i < 6; i++) {
    vi.stubEnv('SOURCE_DATE_EPOCH', String(start + i));
    addDeb(dir, 'foo', String(i));
    await publishQuietly(dir);
  }
  expect(names()).toHaveLength(18);
  for (const name of names()) utimesSync(join(dir, 'by-hash/SHA256', name), long, long);
  const last = [...read('Release').matchAll(/^ ([0-9a-f]{64})/gm)].map(([, hash]) => hash ?? '');
  addDeb(dir, 'foo', '7');
  await publishQuietly(dir);
  // Three current ones and nine superseded ones; those of the last Release were superseded just now.
  expect(names()).toHaveLength(12);
  expect(names()).toEqual(expect.arrayContaining(last));
  expectWhole();
});

test('a signed repository stays signed, and another key takes over', async () => {
  const { key } = await makeKey(tmp.path);
  addDeb(dir, 'foo', '1');
  expect(await publishQuietly(dir, { key })).toMatchObject({ signedBy: key?.fingerprint });
  const before = tree();
  addDeb(dir, 'foo', '2');
  await expect(publishQuietly(dir)).rejects.toMatchObject({
    fault: 'usage',
    message: `The repository ${dir} is signed, and no key was given`,
    hint: expect.stringContaining('remove InRelease, Release.gpg') as string,
  });
  rmSync(join(dir, 'foo_2_amd64.deb'));
  expect(tree()).toEqual(before);
  expect(await publishQuietly(dir, { key })).toMatchObject({ changed: false });
  const other = (await makeKey(tmp.path)).key;
  expect(await publishQuietly(dir, { key: other })).toMatchObject({ changed: true });
  expect(await other?.isClearSigned(read('InRelease'), read('Release'))).toBe(true);
  expect(await other?.isDetachSigned(read('Release.gpg'), read('Release'))).toBe(true);
  expect(read('dkms2bin-archive-keyring.asc')).toBe(other?.publicKey);
});

test('a secret key in the repository is refused', async () => {
  const { key } = await makeKey(dir);
  addDeb(dir, 'foo', '1');
  await expect(publishQuietly(dir, { key })).rejects.toMatchObject({
    message: expect.stringContaining('secret key') as string,
  });
  expect(existsSync(join(dir, 'Release'))).toBe(false);
});

test('folders that are none, empty or not writable are told', async () => {
  const none = publishQuietly(join(dir, 'none'));
  await expect(none).rejects.toMatchObject({
    fault: 'usage',
    message: expect.stringContaining('no such folder') as string,
  });
  expect(await publishQuietly(dir)).toMatchObject({ packages: [], kinds: [], changed: false });
  expect(Object.keys(tree())).toEqual([]);
  await expect(publishQuietly(dir, { origin: 'a\nb' })).rejects.toMatchObject({ fault: 'usage' });
  const stopped = new AbortController();
  stopped.abort();
  addDeb(dir, 'foo', '1');
  await expect(publishQuietly(dir, { signal: stopped.signal })).rejects.toMatchObject({
    fault: 'interrupted',
  });
});

// In processes of their own.
let compiled: ReturnType<typeof tempFolder>;
let main: string;
beforeAll(async () => {
  compiled = tempFolder();
  main = await translate(compiled.path);
}, 60_000);
afterAll(() => compiled.remove());

test('a publisher that is killed leaves what the next one puts right', async () => {
  const { key, file } = await makeKey(tmp.path);
  for (let i = 0; i < 20; i++) addDeb(dir, `foo${i}`, '1');
  await publishQuietly(dir, { key });
  const start = Math.floor(Date.now() / 1000) - 1000;
  for (let round = 1; round <= 6; round++) {
    addDeb(dir, 'foo', String(round));
    const seen = read('InRelease');
    const child = spawn(process.execPath, [main, 'repo', dir, '--repo-key', file], {
      stdio: 'ignore',
      env: { ...process.env, SOURCE_DATE_EPOCH: String(start + round) },
    });
    const ended = once(child, 'exit');
    // Killed when the first of these files is new, then when the second is, …
    const marks = ['by-hash/SHA256', 'Packages', 'Packages.xz', 'Release.gpg', 'Release', 'InRelease'];
    const mark = join(dir, marks[round - 1] ?? '');
    const old = statSync(mark, { bigint: true }).mtimeNs;
    while (child.exitCode === null && statSync(mark, { bigint: true }).mtimeNs === old) await sleep(1);
    child.kill('SIGKILL');
    await ended;
    // What a client reads now is a matching set: the old or the new one.
    for (const [, hash = ''] of read('InRelease').matchAll(/^ ([0-9a-f]{64})/gm)) {
      expect(existsSync(join(dir, 'by-hash/SHA256', hash)), seen).toBe(true);
    }
    await publishQuietly(dir, { key });
    expectWhole();
    expect(await key?.isClearSigned(read('InRelease'), read('Release'))).toBe(true);
    expect(read('Packages')).toContain(`Version: ${round}\n`);
    expect(readdirSync(dir).filter((name) => name.endsWith('.part'))).toEqual([]);
  }
}, 120_000);

test('publishers wait for each other', async () => {
  const { file, key } = await makeKey(tmp.path, { passphrase: 'two words' });
  const runs = [1, 2, 3, 4].map((i) => {
    addDeb(dir, `foo${i}`, '1');
    return command(process.execPath, [main, 'repo', dir, '--repo-key', file], {
      DKMS2BIN_REPO_PASSPHRASE: 'two words',
    });
  });
  for (const each of await Promise.all(runs)) {
    expect(each.code, each.text).toBe(0);
    expect(each.text).not.toContain('two words');
  }
  expectWhole();
  expect([...read('Packages').matchAll(/^Package: /gm)]).toHaveLength(4);
  expect(await key?.isClearSigned(read('InRelease'), read('Release'))).toBe(true);
}, 60_000);

test('a full disk is told, and what was published before stays whole', async (ctx) => {
  const mounted = (script: string) =>
    command('unshare', [
      '--user',
      '--map-root-user',
      '--mount',
      'sh',
      '-ec',
      script,
      'sh',
      process.execPath,
      main,
      dir,
      tmp.path,
    ]);
  if ((await mounted('mount -t tmpfs -o size=64k tmpfs "$3"')).code !== 0)
    ctx.skip('no user namespaces here');
  for (let i = 0; i < 60; i++) addDeb(tmp.path, `foo${i}`, '1');
  const ended = await mounted(
    'mount -t tmpfs -o size=400k tmpfs "$3"; cd "$3"; cp "$4"/foo1_*.deb "$4"/foo2_*.deb .; "$1" "$2" repo .; sha256sum Release Packages by-hash/*/* > ../sums;' +
      'cp "$4"/foo*.deb .; dd if=/dev/zero of=fill bs=4k 2>/dev/null || true; code=0; "$1" "$2" repo . || code=$?; echo "code $code"; sha256sum -c --quiet ../sums; echo same; ls -A;' +
      'rm fill; "$1" "$2" repo .; grep -c ^Package: Packages',
  );
  expect(ended.code, ended.text).toBe(0);
  expect(ended.text).toMatch(/No space left for .*by-hash\/SHA256\/[0-9a-f]{64}/);
  expect(ended.text).toContain('code 4\n');
  expect(ended.text).toContain('same\n');
  expect(ended.text).not.toContain('.part');
  expect(ended.text).toMatch(/\n60\n$/);
}, 60_000);
