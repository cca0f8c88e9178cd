import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { programText } from '../../../src/guest/program.js';
import { PROGRAM_ENDS } from '../../../src/guest/protocol.js';
import { KERNEL_LOG } from '../fixtures/kernel-log.js';
import { putFile } from '../fixtures/put.js';

// What verify.py makes of a kernel that dies or complains when nobody asks a module for it: run here with stand-ins for dpkg, modprobe
// and the kernel's log. What a real kernel does, test/hostile-vm shows.
const KERNEL = release();
const KO = `/lib/modules/${KERNEL}/updates/dkms/foo.ko`;

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  put('dev/kmsg', '');
  put('proc/sys/kernel/tainted', '0\n');
  put('proc/net/dev', '');
  put('proc/stat', 'cpu 0 0 0 0\n');
  put('proc/modules', '');
  put(`lib/modules/${KERNEL}/modules.dep`, '');
  put('sys/module/none', '');
  put('var/tmp/none', '');
  put(
    'bin/modinfo',
    script(`printf '%s\\n' 'filename: ${KO}' 'name: foo' 'vermagic: ${KERNEL} SMP' 'license: GPL'`),
    0o755,
  );
});
afterEach(() => rmSync(root, { recursive: true }));

const put = (path: string, text: string, mode?: number): void => putFile(root, path, text, mode);
const script = (...lines: string[]): string => `#!/bin/bash\n${lines.join('\n')}\n`;

/** What a stand-in does: the kernel says something, and is tainted. */
const says = (taint: number, ...lines: string[]): string =>
  [
    `echo $(( $(<'${root}/proc/sys/kernel/tainted') | ${taint} )) >'${root}/proc/sys/kernel/tainted'`,
    ...lines.map((line) => `echo '4,1,1,-;${line}' >>'${root}/dev/kmsg'`),
  ].join('; ');
const DIES = (): string =>
  says(1 << 7, 'BUG: kernel NULL pointer dereference, address: 8', 'Oops: 0002 [#1]');

interface Happens {
  /** Shell commands: while the package is installed, while the module is loaded and unloaded, and while the package is removed. */
  install?: string;
  load?: string;
  unload?: string;
  remove?: string;
  /** Of its disks nothing is left. */
  full?: boolean;
}

/** What verify.py reports of a package with the module foo, and how it ends. */
async function verify({ install = '', load = '', unload = '', remove = '', full = false }: Happens) {
  const inside = `'${root}/sys/module/foo'`;
  put(
    'bin/dpkg',
    script(
      `list='${root}/var/lib/dpkg/info/foo-modules.list'`,
      `case " $* " in *' -i '*) mkdir -p "\${list%/*}"; echo '${KO}' >"$list"; ${install || ':'} ;; *) ${remove || ':'} ;; esac`,
    ),
    0o755,
  );
  put(
    'bin/modprobe',
    script(
      `case $1 in -r) ${unload || ':'}; rmdir ${inside} ;; *) ${load || ':'}; mkdir -p ${inside} ;; esac`,
    ),
    0o755,
  );
  for (const name of ['mount', 'depmod']) put(`bin/${name}`, script('exit 1'), 0o755);
  const program = (
    await programText('verify.py', {
      ...{ PACKAGES: [['foo.deb', 3, 'foo-modules']], MODULES: ['foo'], NEEDS: [], MANAGER: 'apt' },
      ...{ RELEASE: KERNEL, HANG: 30 },
    })
  )
    .replace('time.sleep(self.settle)', 'time.sleep(0.1)')
    .replace('"PATH": "', `"PATH": "${root}/bin:`)
    .replaceAll(
      /(?<=["'(])\/(?:dev\/kmsg|lib\/modules|proc|sys|var)\b(?!\/tmp\/output)/g,
      (path) => root + path,
    );
  const disk = full
    ? 'os.statvfs = lambda path: os.statvfs_result((4096, 4096, 9, 9, 0, 9, 9, 9, 0, 255))\n'
    : '';
  const { status, stdout, stderr } = spawnSync('python3', ['-I', '-c', KERNEL_LOG + disk + program], {
    ...{ encoding: 'utf8', input: 'deb' },
  });
  const rows = stdout
    .split('\n')
    .flatMap((line) => (line.startsWith('@@dkms2bin ') ? [line.slice(11)] : []))
    .filter((row) => row.trim() !== 'progress');
  const end = PROGRAM_ENDS[(status ?? -1) as keyof typeof PROGRAM_ENDS]?.name;
  return { end, rows, said: stdout + stderr };
}

const DONE = ['doing load foo', 'doing unload foo', 'load foo loaded'];

test('a module that comes and goes', async () => {
  const { end, rows, said } = await verify({});
  expect([end, ...rows], said).toEqual(['DONE', ...DONE]);
  expect(existsSync(join(root, 'sys/module/foo'))).toBe(false);
});

test.each([
  ['while it is being loaded', 'load'],
  ['while it is being unloaded', 'unload'],
] as const)('a kernel that dies %s is its fault', async (_, when) => {
  const { end, rows, said } = await verify({ [when]: DIES() });
  expect([end, rows.at(-1)], said).toEqual([
    'BAD',
    'load foo broke the kernel died: BUG: kernel NULL pointer dereference, address: 8',
  ]);
});

test('one that dies while the packages are being installed, by what udev loads, is theirs', async () => {
  const { end, rows, said } = await verify({ install: DIES() });
  expect([end, ...rows], said).toEqual([
    'NOT_INSTALLED',
    'error the kernel died while the packages were being installed: BUG: kernel NULL pointer dereference, address: 8',
  ]);
});

test('one that dies later than anybody waits for it, too', async () => {
  const { end, rows, said } = await verify({ remove: DIES() });
  expect([end, ...rows], said).toEqual([
    'LEFT_BEHIND',
    ...DONE,
    'error the kernel died after the modules were unloaded: BUG: kernel NULL pointer dereference, address: 8',
  ]);
});

test('what the kernel complains of when udev loads the module is told with it', async () => {
  const box = ['------------[ cut here ]------------', 'WARNING: CPU: 0 PID: 1 at foo.c:7 foo_probe'];
  const { end, rows, said } = await verify({
    install: `mkdir '${root}/sys/module/foo'; ${says(1 << 9, ...box)}`,
  });
  expect([end, ...rows], said).toEqual([
    ...['DONE', 'doing load foo', `warn foo ${box[1]}`],
    ...['doing unload foo', 'load foo loaded'],
  ]);
});

test('a full disk is told by the disk, not by words', async () => {
  const words = "echo 'dpkg: error: /usr/share/No space left on device is also in package other'; exit 1";
  const forged = await verify({ install: words });
  expect([forged.end, ...forged.rows], forged.said).toEqual([
    'NOT_INSTALLED',
    expect.stringContaining('the package did not install: dpkg: error: '),
  ]);
  const { end, rows, said } = await verify({ install: words, full: true });
  expect([end, ...rows], said).toEqual(['DISK_FULL', "error the guest's disk is full"]);
});
