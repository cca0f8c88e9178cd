import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Guest } from '../../../src/guest/guest.js';
import { fileOwners } from '../../../src/guest/programs/file-owners.js';
import type { Transport } from '../../../src/guest/transport.js';
import { putFile } from '../fixtures/put.js';

// The guest’s own grep and awk ask the lists, here in a folder that stands for the guest's root.
let root: string;
beforeEach(() => void (root = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(root, { recursive: true }));

const put = (path: string, text: string, mode?: number): void => putFile(root, path, text, mode);

function guest(): Guest {
  const transport: Transport = {
    exec: async (command, { input, stdout, stderr }) => {
      const sh = 'sh' in command ? command.sh.replaceAll('/var/lib', `${root}/var/lib`) : '';
      const done = spawnSync('sh', ['-c', sh], {
        ...{ input: Buffer.isBuffer(input) ? input : '', env: { PATH: `${root}/bin:/usr/bin:/bin` } },
      });
      await new Promise<void>((resolve) => stdout.end(done.stdout, resolve));
      await new Promise<void>((resolve) => stderr.end(done.stderr, resolve));
      return { code: done.status, timedOut: false };
    },
    close: () => Promise.resolve(),
  };
  return new Guest({ transport, alive: (work) => work });
}

const PATHS = ['/etc/modprobe.d/foo.conf', '/usr/bin/ls', '/lib/firmware/a b [1].bin', '/usr/share/new'];

test('dpkg’s lists name the package of a file, in either spelling', async () => {
  put('var/lib/dpkg/info/kmod.list', '/.\n/etc\n/etc/modprobe.d/foo.conf\n/etc/modprobe.d/foo.conf.bak\n');
  put('var/lib/dpkg/info/coreutils.list', '/bin\n/bin/ls\n');
  put('var/lib/dpkg/info/firmware:amd64.list', '/usr/lib/firmware/a b [1].bin\n');
  expect(await fileOwners(guest(), PATHS, 'deb')).toEqual([
    { path: '/usr/bin/ls', package: 'coreutils' },
    { path: '/lib/firmware/a b [1].bin', package: 'firmware' },
    { path: '/etc/modprobe.d/foo.conf', package: 'kmod' },
  ]);
});

test('so does rpm', async () => {
  put(
    'bin/rpm',
    `#!/bin/sh\n[ "$*" = '-qa --qf [%{=NAME}\\t%{FILENAMES}\\n]' ] && printf 'coreutils\\t%s\\n' /usr/bin/ls /usr/bin/lsx`,
    0o755,
  );
  expect(await fileOwners(guest(), PATHS, 'kmod')).toEqual([{ path: '/usr/bin/ls', package: 'coreutils' }]);
});

test('nobody is asked for a package without such files', async () => {
  const silent = new Guest({ transport: {} as Transport, alive: (work) => work });
  expect(await fileOwners(silent, [], 'deb')).toEqual([]);
});
