import { expect, test } from 'vitest';
import { parseAddress, shownAddress } from '../../../src/source/address.js';
import { changelogVersion, tagVersion } from '../../../src/source/version.js';
import { credentialsFor, withoutCredentials } from '../../../src/lib/credentials.js';
import { chooseRef } from '../../../src/source/git.js';

const H = 'https://forge.example/o/r';
test.each([
  [`${H}.git`, { url: `${H}.git` }],
  [H, { url: H }],
  [`${H}.git#v1.0`, { url: `${H}.git`, ref: 'v1.0' }],
  [`${H}.git#feature/x:sub/dir/`, { url: `${H}.git`, ref: 'feature/x', folder: 'sub/dir' }],
  [`${H}#:sub`, { url: H, folder: 'sub' }],
  [`git+${H}.git@v1#subdirectory=a/b`, { url: `${H}.git`, ref: 'v1', folder: 'a/b' }],
  [`git+${H}.tar.gz`, { url: `${H}.tar.gz` }],
  [`${H}/tree/main/hid`, { url: H, page: 'main/hid' }],
  [`${H}/-/tree/v1`, { url: H, page: 'v1' }],
  [`${H}/commit/0123abc`, { url: H, page: '0123abc' }],
  ['ssh://git@forge.example/o/r.git#main', { url: 'ssh://git@forge.example/o/r.git', ref: 'main' }],
  ['git@forge.example:o/r.git#main:x', { url: 'git@forge.example:o/r.git', ref: 'main', folder: 'x' }],
  ['https://me:s3cret@forge.example/o/r.git', { url: 'https://forge.example/o/r.git' }],
])('a git repository: %s', (text, expected) => {
  expect(parseAddress(text)).toEqual({ kind: 'git', ...expected });
});

const sha = 'a'.repeat(64);
test.each([
  ['https://h.example/p/x_1.0_all.deb', { url: 'https://h.example/p/x_1.0_all.deb', name: 'x_1.0_all.deb' }],
  [
    `https://h.example/x-1.tar.gz#sha256=${sha}`,
    { url: 'https://h.example/x-1.tar.gz', name: 'x-1.tar.gz', digest: { algorithm: 'sha256', hex: sha } },
  ],
  [
    'http://h.example/o/r/archive/refs/tags/v1.zip?a=b',
    { url: 'http://h.example/o/r/archive/refs/tags/v1.zip?a=b', name: 'v1.zip' },
  ],
])('a file: %s', (text, expected) => {
  expect(parseAddress(text)).toEqual({ kind: 'file', ...expected });
});

test.each([
  ['acpi_call/1.2.2', 'acpi_call', '1.2.2'],
  ['acpi_call/1.2.2, 6.1.0-56-amd64, x86_64: installed', 'acpi_call', '1.2.2'],
  ['acpi_call, 1.2.2, 6.1.0-56-amd64, x86_64: installed', 'acpi_call', '1.2.2'],
  ['v4l2loopback/0.12.7: added', 'v4l2loopback', '0.12.7'],
])('dkms status: %s', (text, name, version) => {
  expect(parseAddress(text)).toEqual({ kind: 'module', name, version });
});

test.each([
  'acpi-call-dkms',
  'name=1.0',
  './a/b',
  '/usr/src/x-1',
  'a/b/1.0',
  'sub/folder',
  'two words',
  '~/x',
  'x.tar.gz',
])('nothing of these: %s', (text) => expect(parseAddress(text)).toBeNull());

// What git would take for a command, another protocol or an option.
test.each([
  'file:///etc',
  'git+file:///srv/r.git',
  'ext::sh -c touch% /tmp/pwned',
  'git+ext::sh',
  'fd::17/foo',
  'ftp://h.example/x.deb',
  'git://h.example/r.git',
  'ssh://-oProxyCommand=touch%20x/r.git',
  'https://-x.example/r.git',
  `${H}.git#--upload-pack=touch`,
  `${H}.git#-x`,
  `${H}.git#a..b`,
  `${H}.git#main:../../etc`,
  `${H}.git#main:/etc`,
  `git+${H}.git#subdirectory=../x`,
  'https://h.example/x.deb#sha256=12',
  'https://h.example/x.deb#v1',
  'https://h.example/list.txt',
  'https://h.example/a b.git',
  "https://h.example/a'b.git",
])('refused: %s', (text) => {
  expect(() => parseAddress(text)).toThrow(expect.objectContaining({ fault: 'usage' }) as Error);
});

test('user and password are kept for requests to the repository, also those that a request has lost already', () => {
  parseAddress('git+https://me:s3cret@one.example/o/r.git#v1');
  expect(credentialsFor('https://one.example/o/r.git')).toEqual({ username: 'me', password: 's3cret' });
  parseAddress(withoutCredentials('https://me:s3cret@two.example/o/r#v1:sub'));
  expect(credentialsFor('https://two.example/o/r')).toEqual({ username: 'me', password: 's3cret' });
  parseAddress('https://me:s3cret@three.example/x.deb');
  expect(credentialsFor('https://three.example/x.deb')).toEqual({ username: 'me', password: 's3cret' });
});

test('a host that is an option is none', () => {
  expect(parseAddress('-oProxyCommand=x@h:y')).toBeNull();
  expect(parseAddress('git@-oProxyCommand=x:y')).toBeNull();
});

test('passwords are not shown', () => {
  expect(shownAddress('https://me:pw@h.example/r.git#v1')).toBe('https://h.example/r.git#v1');
  expect(shownAddress('git+https://token@h.example/r.git')).toBe('git+https://h.example/r.git');
  expect(shownAddress('ssh://git@h.example/r.git')).toBe('ssh://git@h.example/r.git');
  expect(() => parseAddress('https://me:pw@h.example/r.git#--x')).toThrow(/^(?!.*pw).*$/s);
});

test.each([
  ['v1.2', '1.2'],
  ['1.2.3-rc1', '1.2.3-rc1'],
  ['release-1.2', '1.2'],
  ['evdi-1.14.2', '1.14.2'],
  ['it87-1.2', '1.2'],
  ['upstream/0.9', '0.9'],
  ['rtl88x2bu-5.13', '5.13'],
  ['repo-v1.0', '1.0'],
  ['latest', null],
  ['main', null],
])('the version of the tag %s is %s', (tag, version) => expect(tagVersion(tag)).toBe(version));

test.each([
  ['x (1:1.2-3) sid; urgency=low\n', '1.2'],
  ['x (1.2) sid; urgency=low\n', '1.2'],
  ['x (1.2-rc1-1ubuntu2) jammy; urgency=low\n\ny (9-1) sid; urgency=low\n', '1.2-rc1'],
  ['nothing\n', null],
  ['x (1.2$(id)-1) sid; urgency=low\n', null],
])('the version of the changelog %j is %s', (text, version) => expect(changelogVersion(text)).toBe(version));

test('which commit an address means', () => {
  const id = (digit: string): string => digit.repeat(40);
  const refs = new Map([
    ['HEAD', id('1')],
    ['refs/heads/main', id('1')],
    ['refs/heads/a/b', id('2')],
    ['refs/tags/v1', id('3')],
    ['refs/tags/v1^{}', id('4')],
    ['refs/heads/v1', id('5')],
  ]);
  const choose = (more: object) => chooseRef({ kind: 'git', url: H, ...more }, { refs });
  expect(choose({})).toMatchObject({ fetch: 'HEAD', commit: id('1') });
  expect(choose({ ref: 'a/b' })).toMatchObject({ fetch: 'refs/heads/a/b', commit: id('2') });
  // Of an annotated tag what it names, and a tag before a branch, as git itself reads it.
  expect(choose({ ref: 'v1' })).toMatchObject({ commit: id('4') });
  expect(choose({ page: 'a/b/src/x' })).toMatchObject({ commit: id('2'), folder: 'src/x' });
  expect(choose({ ref: id('9') })).toMatchObject({ fetch: id('9'), commit: id('9') });
  expect(choose({ ref: '4444444' })).toMatchObject({ commit: id('4') });
  expect(() => choose({ ref: 'nope' })).toThrow(/has no branch, tag or commit nope/);
});
