import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readConfNames } from '../../../src/source/conf-text.js';
import { parseModuleSource } from '../../../src/engine/plan/source.js';

let cwd: string;
beforeEach(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'source-'));
});
afterEach(() => rm(cwd, { recursive: true, force: true }));

const parse = (text: string): ReturnType<typeof parseModuleSource> => parseModuleSource(text, { cwd });
const refused = (text: string, message: RegExp): Promise<void> =>
  expect(parse(text)).rejects.toMatchObject({
    fault: 'usage',
    message: expect.stringMatching(message) as string,
  });
async function source(folder: string, conf = 'PACKAGE_NAME="demo"\nPACKAGE_VERSION="1.0"\n'): Promise<void> {
  await mkdir(join(cwd, folder), { recursive: true });
  await writeFile(join(cwd, folder, 'dkms.conf'), conf);
}
const deb = Buffer.from('!<arch>\ndebian-binary   1700000000  0     0     100644  4         `\n2.0\n');

test.each([
  ['i40e-dkms', 'i40e-dkms', undefined],
  ['i40e-dkms-1.3.47', 'i40e-dkms', '1.3.47'],
  ['i40e-dkms-1.3.47~', 'i40e-dkms', '1.3.47~'],
  ['v4l2loopback-dkms=0.12.7-2', 'v4l2loopback-dkms', '0.12.7-2'],
  ['xtables-addons-dkms-3.23-1', 'xtables-addons-dkms', '3.23-1'],
  ['adv-17v35x-dkms', 'adv-17v35x-dkms', undefined],
  ['nvidia-kernel-dkms=1:535.1~deb12', 'nvidia-kernel-dkms', '1:535.1~deb12'],
])('the package name %s', async (text, name, version) => {
  expect(await parse(text)).toEqual([{ kind: 'repo', text, name, ...(version && { version }) }]);
});

test('files and folders, by what they are', async () => {
  await writeFile(join(cwd, 'a.deb'), deb);
  await writeFile(join(cwd, 'plain-name'), deb);
  await writeFile(join(cwd, 'a.rpm'), Buffer.from([0xed, 0xab, 0xee, 0xdb, 3, 0]));
  await source('demo-1.0');
  expect(await parse('a.deb')).toEqual([{ kind: 'deb', text: 'a.deb', path: join(cwd, 'a.deb') }]);
  expect(await parse('./plain-name')).toMatchObject([{ kind: 'deb' }]);
  expect(await parse('a.rpm')).toMatchObject([{ kind: 'rpm' }]);
  expect(await parse('demo-1.0')).toEqual([
    { kind: 'folder', text: 'demo-1.0', path: join(cwd, 'demo-1.0') },
  ]);
  expect(await parse(join(cwd, 'demo-1.0'))).toMatchObject([{ kind: 'folder' }]);
});

test('clear errors for what is not what it claims', async () => {
  await writeFile(join(cwd, 'text.deb'), 'hello\n');
  await writeFile(join(cwd, 'text.rpm'), deb);
  await source('noname', '# PACKAGE_NAME=commented\nPACKAGE_VERSION=1\nMY_PACKAGE_NAME=x\n');
  await source('blank', 'PACKAGE_NAME=""\n');
  await refused('text.deb', /text\.deb is not a Debian package \(it is a text file\)/);
  await refused('text.rpm', /not an RPM package \(it is a Debian package\)/);
  await refused('./noname', /dkms\.conf without PACKAGE_NAME/);
  await refused('./blank', /dkms\.conf without PACKAGE_NAME/);
  await refused('./missing', /No such file or folder/);
  await refused('missing.deb', /No such file or folder/);
  await refused('bad name', /Not a package name/);
  await refused('', /empty/);
});

test('dkms.conf is never run', async () => {
  await source(
    'evil',
    `touch ${join(cwd, 'pwned')}\n  export PACKAGE_NAME=evil$(touch ${join(cwd, 'pwned')})\n`,
  );
  expect(await parse('./evil')).toMatchObject([{ kind: 'folder' }]);
  await expect(rm(join(cwd, 'pwned'))).rejects.toThrow('ENOENT');
});

test('list files', async () => {
  await source('demo');
  await writeFile(join(cwd, 'list.txt'), '# modules\nacpi-call-dkms  # a comment\n\r\n./demo\r\n');
  expect(await parse('list.txt')).toMatchObject([
    { kind: 'repo', name: 'acpi-call-dkms' },
    { kind: 'folder' },
  ]);
  await writeFile(join(cwd, 'nested.txt'), 'acpi-call-dkms\nlist.txt\n');
  await refused('nested.txt', /nested\.txt, line 2: A list file inside a list file/);
  await writeFile(join(cwd, 'none.txt'), '# nothing\n');
  await refused('none.txt', /names no module/);
  await writeFile(join(cwd, 'binary'), Buffer.from([0, 1, 2, 3]));
  await refused('binary', /not a kind of source that dkms2bin knows/);
});

test.each([
  ['PACKAGE_NAME=a\nPACKAGE_VERSION="1.0" # one\nMAKE="x $PACKAGE_NAME"\n', { name: 'a', version: '1.0' }],
  ["export PACKAGE_NAME='a';PACKAGE_VERSION=1\n", { name: 'a' }],
  ['PACKAGE_NAME="a"\r\nPACKAGE_VERSION="1"\r\n', { name: 'a', version: '1' }],
  ['PACKAGE_NAME="a-$x"\nPACKAGE_VERSION=`cat VERSION`\n', {}],
  ['PACKAGE_NAME=a\n[ x ] && PACKAGE_NAME=b\nPACKAGE_VERSION=1\n', { version: '1' }],
  ['. ./version.sh\n', {}],
  ['source "$(dirname "$BASH_SOURCE")/names"\nBUILT_MODULE_NAME="$(basename *.c .c)"\n', {}],
  ['eval "$(cat names)"\n', {}],
  ['', {}],
])('of %j the host knows what the text alone tells; the guest decides', (conf, names) => {
  expect(readConfNames(conf, 'x/dkms.conf')).toEqual(names);
});

test.each([
  ['PACKAGE_NAME=@NAME@\n', /PACKAGE_NAME in x\/dkms\.conf is a placeholder, "@NAME@"/],
  [
    'PACKAGE_NAME=a\nPACKAGE_VERSION="#MODULE_VERSION#"\n',
    /PACKAGE_VERSION in x\/dkms\.conf is a placeholder/,
  ],
  ['PACKAGE_NAME=a\nPACKAGE_VERSION=@PKGVER@\r\n', /is a placeholder, "@PKGVER@"/],
  ['PACKAGE_NAME="a..b"\n', /PACKAGE_NAME cannot be used: "a\.\.b"/],
  ['PACKAGE_NAME=.a\n', /PACKAGE_NAME cannot be used/],
  ['PACKAGE_NAME="a\rb"\n', /PACKAGE_NAME cannot be used/],
  ['PACKAGE_NAME="a b"\n', /PACKAGE_NAME cannot be used/],
  ['PACKAGE_NAME=a\nPACKAGE_VERSION="1..2"\n', /PACKAGE_VERSION cannot be used/],
])('%j is refused before a VM starts', (conf, message) => {
  expect(() => readConfNames(conf, 'x/dkms.conf')).toThrowError(
    expect.objectContaining({ fault: 'usage', message: expect.stringMatching(message) as string }) as Error,
  );
});
