import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseModuleSource } from '../../../src/engine/plan/source.js';
import { initFolder } from '../../../src/source/init.js';
import type { Event } from '../../../src/model/events.js';
import { TREE_LIMITS } from '../../../src/source/tree.js';
import { FileServer } from '../../unit/fixtures/file-server.js';
import { TREES } from '../../unit/fixtures/source-trees.js';
import { notesOf, parseLocal, type Local } from '../fixtures/parsed-source.js';
import { git, Repository } from '../fixtures/git-server.js';

let dir: string;
let events: Event[];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sources-'));
  vi.stubEnv('DKMS2BIN_CACHE', join(dir, 'cache'));
  vi.stubEnv('DKMS2BIN_STATE', join(dir, 'state'));
  events = [];
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true, force: true });
});

const parsed = (text: string, means: { offline?: boolean; moduleVersion?: string } = {}): Promise<Local> =>
  parseLocal(text, { cwd: dir, events, ...means });
const notes = (): string => notesOf(events);
const confIn = ({ path }: Local): string =>
  execFileSync('tar', ['-xOf', path, './dkms.conf'], { encoding: 'utf8' });
function write(folder: string, files: Readonly<Record<string, string>>): string {
  for (const [path, text] of Object.entries(files)) {
    const to = join(dir, folder, path);
    mkdirSync(dirname(to), { recursive: true });
    writeFileSync(to, text);
  }
  return join(dir, folder);
}
const refused = (text: string, message: RegExp): Promise<void> =>
  expect(parsed(text)).rejects.toMatchObject({
    fault: 'usage',
    message: expect.stringMatching(message) as string,
  });
const MODULE = {
  'dkms.conf': 'PACKAGE_NAME="demo"\nPACKAGE_VERSION="1.0"\n',
  Makefile: 'obj-m := demo.o\n',
  'demo.c': 'int x;\n',
};

describe('a folder', () => {
  test('with dkms.conf deeper is that folder; with one to be filled a copy, and the folder stays', async () => {
    const evdi = write('evdi', TREES.evdi);
    expect(await parsed('./evdi')).toEqual({ kind: 'folder', text: './evdi', path: join(evdi, 'module') });
    write('pad', TREES.xpadneo);
    const filled = await parsed('./pad');
    expect(filled.kind).toBe('tarball');
    expect(confIn(filled)).toContain('PACKAGE_VERSION="0.9.7"');
    expect(notes()).toContain('./pad: dkms.conf from hid-pad/dkms.conf.in; version 0.9.7 from VERSION');
    // The same content is the same file.
    expect((await parsed('./pad')).path).toBe(filled.path);
  });

  test('that is a clone has its version from the tag, packed or not, without running git in there', async () => {
    const repo = new Repository(join(dir, 'clone'));
    repo.commit({ ...TREES.xone });
    git(repo.dir, 'tag', '-a', 'v0.5', '-m', 'x');
    writeFileSync(join(repo.dir, '.git/config'), `[core]\n fsmonitor = touch ${join(dir, 'pwned')}\n`);
    expect(confIn(await parsed('./clone'))).toContain('PACKAGE_VERSION="0.5"');
    git(repo.dir, '-c', 'core.fsmonitor=false', 'pack-refs', '--all');
    await rm(join(dir, 'pwned'), { force: true });
    expect(confIn(await parsed('./clone'))).toContain('PACKAGE_VERSION="0.5"');
    expect(() => readFileSync(join(dir, 'pwned'))).toThrow('ENOENT');
    git(repo.dir, '-c', 'core.fsmonitor=false', 'commit', '--allow-empty', '--quiet', '-m', 'y');
    await refused('./clone', /leaves PACKAGE_VERSION open/);
  });

  test('without any dkms.conf: one is made and shown; init writes it down once', async () => {
    const { 'dkms.conf': _, ...bare } = MODULE;
    const folder = write('hello', bare);
    write('pad', TREES.xpadneo);
    const made = await parsed('./hello');
    expect(confIn(made)).toContain('BUILT_MODULE_NAME[0]="demo"');
    expect(notes()).toContain('    BUILT_MODULE_NAME[0]="demo"');
    const means = { cwd: dir, moduleVersion: '2', signal: new AbortController().signal };
    const { conf } = await initFolder('hello', means);
    expect(readFileSync(join(folder, 'dkms.conf'), 'utf8')).toBe(conf);
    expect(conf).toContain('PACKAGE_VERSION="2"');
    await expect(initFolder('hello', means)).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringContaining('there already') as string,
    });
    expect(await parsed('./hello')).toMatchObject({ kind: 'folder' });
    await expect(
      parseModuleSource('./pad', { cwd: dir, moduleVersion: '1/2', signal: means.signal }),
    ).rejects.toMatchObject({ fault: 'usage' });
    mkdirSync(join(dir, 'empty'));
    await refused('./empty', /holds no dkms\.conf, and no Makefile/);
  });
});

describe('an archive', () => {
  const tar = (name: string, folder: string): Buffer =>
    execFileSync('tar', ['-caf', join(dir, name), '-C', dir, folder]);

  test('has its version from its folder, as a release of a forge; a complete one stays as it is', async () => {
    write('chip-1.4', TREES.it87);
    for (const end of ['tar.gz', 'tar.xz', 'tar.bz2', 'tar']) {
      tar(`chip.${end}`, 'chip-1.4');
      expect(confIn(await parsed(`chip.${end}`)), end).toContain('PACKAGE_VERSION="1.4"');
    }
    write('deep/a/b/c', MODULE);
    tar('deep.tar.gz', 'deep');
    expect(await parsed('deep.tar.gz')).toEqual({
      kind: 'tarball',
      text: 'deep.tar.gz',
      path: join(dir, 'deep.tar.gz'),
    });
  });

  test('a zip, with permissions; a damaged one, and one that leaves its folder, are refused', async () => {
    const folder = write('demo-1.0', MODULE);
    execFileSync('chmod', ['755', join(folder, 'demo.c')]);
    execFileSync('zip', ['-qry', join(dir, 'demo.zip'), 'demo-1.0'], { cwd: dir });
    const source = await parsed('demo.zip');
    expect(source).toMatchObject({ kind: 'tarball', text: 'demo.zip' });
    expect(confIn(source)).toBe(MODULE['dkms.conf']);
    expect(execFileSync('tar', ['-tvf', source.path], { encoding: 'utf8' })).toMatch(
      /^-rwxr-xr-x .*\.\/demo\.c$/m,
    );
    const bytes = readFileSync(join(dir, 'demo.zip'));
    writeFileSync(join(dir, 'cut.zip'), bytes.subarray(0, bytes.length - 30));
    await refused('cut.zip', /not a readable archive/);
    writeFileSync(
      join(dir, 'up.zip'),
      Buffer.from(bytes.toString('latin1').replaceAll('demo-1.0/', '../../xx/'), 'latin1'),
    );
    await refused('up.zip', /a path that no source may have/);
  });

  test('with links, and what leads out of it', async () => {
    write('x-1', TREES.it87);
    execFileSync('ln', ['-s', '/etc/passwd', join(dir, 'x-1/VERSION')]);
    tar('link.tar', 'x-1');
    expect(confIn(await parsed('link.tar'))).toContain('PACKAGE_VERSION="1"');
    execFileSync('tar', [
      '-cf',
      join(dir, 'up.tar'),
      '--transform',
      's,^x-1,../../x,',
      '-P',
      '-C',
      dir,
      'x-1',
    ]);
    await refused('up.tar', /a path with \.\. in it/);
  });
});

test('a .dsc is unpacked with its patches; one whose files are not beside it says so', async () => {
  const folder = write('demo-2.1', {
    ...MODULE,
    'dkms.conf': 'PACKAGE_NAME="demo"\nPACKAGE_VERSION="#MODULE_VERSION#"\n',
  });
  execFileSync('tar', ['-czf', join(dir, 'demo_2.1.orig.tar.gz'), '-C', dir, 'demo-2.1']);
  write('demo-2.1/debian', {
    'source/format': '3.0 (quilt)\n',
    control:
      'Source: demo\nMaintainer: A <a@b.c>\nStandards-Version: 4.6.0\n\nPackage: demo-dkms\nArchitecture: all\nDescription: x\n y\n',
    changelog:
      'demo (2.1-3) unstable; urgency=low\n\n  * x\n\n -- A <a@b.c>  Thu, 01 Jan 2026 00:00:00 +0000\n',
    rules: '#!/usr/bin/make -f\n%:\n\ttouch /tmp/never\n',
    'patches/series': 'one.patch\n',
    'patches/one.patch': '--- a/demo.c\n+++ b/demo.c\n@@ -1 +1 @@\n-int x;\n+int patched;\n',
  });
  execFileSync('dpkg-source', ['-b', folder], { cwd: dir, stdio: 'ignore' });
  const source = await parsed('demo_2.1-3.dsc');
  expect(confIn(source)).toContain('PACKAGE_VERSION="2.1"');
  expect(execFileSync('tar', ['-xOf', source.path, './demo.c'], { encoding: 'utf8' })).toBe('int patched;\n');
  const server = await new FileServer().open();
  for (const name of ['demo_2.1-3.dsc', 'demo_2.1.orig.tar.gz', 'demo_2.1-3.debian.tar.xz'])
    server.put(`/p/${name}`, readFileSync(join(dir, name)));
  const url = `${server.origin}/p/demo_2.1-3.dsc`;
  const fetched = await parsed(url);
  expect(fetched).toMatchObject({ origin: { url }, path: source.path });
  server.put('/p/demo_2.1.orig.tar.gz', 'changed');
  await rm(join(dir, 'cache'), { recursive: true });
  await expect(parsed(url)).rejects.toMatchObject({
    fault: 'transient',
    message: expect.stringContaining('not the file that was promised') as string,
  });
  server.close();
  const dsc = readFileSync(join(dir, 'demo_2.1-3.dsc'), 'utf8');
  const large = dsc.replaceAll(/^( [0-9a-f]{64}) \d+ /gm, '$1 400000000 ');
  writeFileSync(join(dir, 'large.dsc'), large);
  await refused('large.dsc', /names files of 800000000 bytes together/);
  // Together, and before anything is on the disk.
  writeFileSync(join(dir, 'zeros'), Buffer.alloc(3 * 2 ** 20));
  const { unpacked } = TREE_LIMITS;
  TREE_LIMITS.unpacked = 4 * 2 ** 20;
  for (const name of ['demo_2.1.orig.tar.gz', 'demo_2.1-3.debian.tar.xz'])
    writeFileSync(join(dir, name), execFileSync('gzip', ['-1c', join(dir, 'zeros')], { maxBuffer: 2 ** 24 }));
  await refused('demo_2.1-3.dsc', /demo_2\.1-3\.dsc: .* is not taken: more than 4194304 bytes/);
  TREE_LIMITS.unpacked = unpacked;
  await rm(join(dir, 'demo_2.1.orig.tar.gz'));
  await refused('demo_2.1-3.dsc', /not beside it: demo_2\.1\.orig\.tar\.gz/);
});

describe('a file of a web server', () => {
  let server: FileServer;
  beforeEach(async () => {
    server = await new FileServer().open();
    write('demo-1.0', MODULE);
    execFileSync('tar', ['-czf', join(dir, 'demo.tar.gz'), '-C', dir, 'demo-1.0']);
    server.put('/demo.tar.gz', readFileSync(join(dir, 'demo.tar.gz')));
  });
  afterEach(() => server.close());

  test('with its digest: fetched once, known offline, and no other is taken', async () => {
    const sha256 = createHash('sha256')
      .update(readFileSync(join(dir, 'demo.tar.gz')))
      .digest('hex');
    const text = `${server.origin}/demo.tar.gz#sha256=${sha256}`;
    const source = await parsed(text);
    expect(source).toMatchObject({ kind: 'tarball', text, origin: { url: `${server.origin}/demo.tar.gz` } });
    await parsed(text);
    expect(server.requests).toHaveLength(1);
    expect(await parsed(text, { offline: true })).toEqual(source);
    const wrong = `${server.origin}/demo.tar.gz#sha256=${'0'.repeat(64)}`;
    await expect(parsed(wrong)).rejects.toMatchObject({
      message: expect.stringContaining('not the file that was promised') as string,
    });
    await expect(parsed(`${server.origin}/other.deb`, { offline: true })).rejects.toMatchObject({
      fault: 'not-found',
    });
  });

  test('without one: fetched each time, and its digest is told', async () => {
    const text = `${server.origin}/demo.tar.gz`;
    const before = await parsed(text);
    expect(notes()).toMatch(/plain http.*with #sha256=[0-9a-f]{64} at its end/);
    writeFileSync(join(dir, 'demo-1.0/new.h'), '');
    execFileSync('tar', ['-czf', join(dir, 'demo.tar.gz'), '-C', dir, 'demo-1.0']);
    server.put('/demo.tar.gz', readFileSync(join(dir, 'demo.tar.gz')));
    const after = await parsed(text);
    expect(after.path).not.toBe(before.path);
    expect((await parsed(text, { offline: true })).path).toBe(after.path);
  });

  test('that is a web page, or not there', async () => {
    server.put('/page.deb', '<!doctype html><p>Log in');
    await refused(`${server.origin}/page.deb`, /not a Debian package/);
    await expect(parsed(`${server.origin}/none.rpm`)).rejects.toMatchObject({ fault: 'not-found' });
  });
});

test.each([
  ['Makefile', 'obj-m := x.o\n', /a makefile, which is one file/],
  ['x.c', '#include <linux/module.h>\n', /one file of a module's source code/],
  ['plain', '#include <linux/module.h>\n', /one file of a module's source code/],
  ['build', '#!/bin/sh\nmake\n', /a script/],
  ['saved', '<!DOCTYPE html><html>\n', /a web page/],
  ['fix.patch', 'x\n', /a patch/],
  ['x.ko', '\x7fELF', /already built/],
  ['conf', 'PACKAGE_NAME=x\nPACKAGE_VERSION=1\n', /a dkms\.conf/],
  ['dkms.conf.in', 'x\n', /one file of a module's source/],
  ['x.dsc', 'hello\n', /not a Debian source package/],
  ['driver.run', 'x\n', /does not unpack/],
])('%s is no list file', async (name, text, message) => {
  writeFileSync(join(dir, name), text);
  await refused(`./${name}`, message);
});

test('a list file may name all of these', async () => {
  write('demo', MODULE);
  writeFileSync(
    join(dir, 'list'),
    '# what `dkms status` prints\nacpi_call/1.2.2, 6.1.0-56-amd64, x86_64: installed\n./demo\nv4l2loopback\nzfs_none\n',
  );
  const sources = await parseModuleSource('list', { cwd: dir });
  expect(sources).toMatchObject([
    { kind: 'repo', text: 'acpi_call/1.2.2', name: 'acpi-call-dkms', version: '1.2.2', module: 'acpi_call' },
    { kind: 'folder' },
    { kind: 'repo', name: 'v4l2loopback' },
    { kind: 'repo', name: 'zfs-none-dkms', module: 'zfs_none' },
  ]);
});
