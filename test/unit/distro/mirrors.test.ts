import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { hostMirrors } from '../../../src/distro/mirrors.js';

let etc: string;
beforeEach(async () => {
  etc = await mkdtemp(join(tmpdir(), 'apt-'));
  await mkdir(join(etc, 'sources.list.d'));
});
afterEach(() => rm(etc, { recursive: true, force: true }));
const put = (name: string, text: string): Promise<void> => writeFile(join(etc, name), text);

test('deb822, with comments, folded fields and a disabled stanza', async () => {
  await put(
    'sources.list.d/debian.sources',
    `Types: deb deb-src
Enabled: no
URIs: http://disabled.test/debian
Suites: trixie
Components: main

# a comment
Types: deb
URIs: http://mirror.test/debian/
Suites: trixie
 trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: trixie-security
Components: main
`,
  );
  expect(await hostMirrors(etc)).toEqual({
    main: 'http://mirror.test/debian',
    security: 'http://mirror.test/debian-security',
  });
});

test("one-line sources; other vendors' repositories for Debian are passed over", async () => {
  await put(
    'sources.list',
    `# deb http://commented.test/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/keyrings/vendor.asc] https://vendor.test/linux/debian bookworm main
deb https://other.test/linux/debian bookworm stable
deb cdrom:[Debian]/ bookworm main
deb [arch=amd64] http://near.test/debian bookworm main contrib # near
deb http://near.test/security bookworm-security main
`,
  );
  expect(await hostMirrors(etc)).toEqual({
    main: 'http://near.test/debian',
    security: 'http://near.test/security',
  });
});

test('a cloud image names its mirrors through a list file', async () => {
  await put('mirrors.txt', 'http://cloud.test/debian\n');
  await put(
    'sources.list.d/debian.sources',
    `Types: deb\nURIs: mirror+file:${join(etc, 'mirrors.txt')}\nSuites: bookworm\nComponents: main\n`,
  );
  expect(await hostMirrors(etc)).toEqual({ main: 'http://cloud.test/debian' });
});

test('an Ubuntu host, or one without apt, has none', async () => {
  await put('sources.list', 'deb http://archive.test/ubuntu noble main\n');
  expect(await hostMirrors(etc)).toEqual({});
  expect(await hostMirrors('/nonexistent')).toEqual({});
});
