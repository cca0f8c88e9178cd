import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { corpus } from '../../hostile/corpus.js';
import { programText, type ProgramName, type Variables } from '../../../src/guest/program.js';
import { putFile } from '../fixtures/put.js';

// The guest's programs, put together as the host sends them and run here on a root folder of their own, with stand-ins for the
// guest's dkms and apt. What the real ones make of them, the VM tests show.
const KERNEL = '6.1.0-56-amd64';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  put('proc/sys/kernel/osrelease', `${KERNEL}\n`);
  put('proc/vmstat', 'nr_free_pages 1\noom_kill 3\n');
  put('proc/uptime', '12345.67 1.00\n');
  put('proc/net/route', 'Iface\tDestination\neth0\t00000000\n');
  put(`lib/modules/${KERNEL}/build/Makefile`, '');
  for (const folder of ['usr/src', 'usr/local/bin', 'etc/profile.d'])
    mkdirSync(join(root, folder), { recursive: true });
});
afterEach(() => rmSync(root, { recursive: true }));

const put = (path: string, text: string, mode?: number): void => putFile(root, path, text, mode);
/** Values that a program must refuse, whoever gives them. */
const variablesOf = (program: ProgramName): [name: string, value: string][] =>
  corpus<{ program: string; name: string; input: string }>('variables')
    .filter((row) => row.program === program)
    .map(({ name, input }) => [name, input]);

const read = (path: string): string => readFileSync(join(root, path), 'utf8');

async function run(
  name: ProgramName,
  variables: Variables,
): Promise<{ code: number | null; rows: string[]; said: string }> {
  const text = (await programText(name, variables))
    .replace(/ PATH=\S+$/m, ` PATH='${root}/bin':/usr/bin:/bin`)
    .replaceAll(
      /(?<![\w.$}/*-])\/(?:etc|boot|lib\/modules|proc|var\/lib|var\/cache|usr\/src|usr\/local)\b/g,
      (path) => root + path,
    );
  const [command, ...args] = name.endsWith('.py') ? ['python3', '-I', '-c'] : ['bash', '-c'];
  const { status, stdout, stderr } = spawnSync(command, [...args, text], { encoding: 'utf8' });
  const lines = stdout.split('\n');
  const rows = lines.flatMap((line) => (line.startsWith('@@dkms2bin ') ? [line.slice(11)] : []));
  return { code: status, rows, said: stdout + stderr };
}

/** What a source's dkms.conf says, in a tar as a folder is sent. */
function source(name: string, conf: string): string {
  put(`${name}/dkms.conf`, `PACKAGE_NAME=${name}\nPACKAGE_VERSION=1.0\n${conf}`);
  const tar = join(root, `${name}.tar`);
  spawnSync('tar', ['-cf', tar, '-C', join(root, name), '.']);
  return tar;
}

/** A dkms whose build of a module writes to make.log and makes its .ko, or ends as `end` says; `install` is what its install does. */
function dkms(end = '', install = ''): void {
  put(
    'bin/dkms',
    `#!/bin/bash
tree='${root}/var/lib/dkms' module=$3 version=$5 kernel=$7
case $1 in
  build)
    mkdir -p "$tree/$module/$version/build"
    echo "CC $module.o" >"$tree/$module/$version/build/make.log"
    ${end}
    mkdir -p "$tree/$module/$version/$kernel/x86_64/module"
    echo KO >"$tree/$module/$version/$kernel/x86_64/module/$module.ko" ;;
  install)
    echo install >>'${root}/installs'
    ${install} ;;
esac`,
    0o755,
  );
}

describe('build.sh', () => {
  const build = (more: Variables) =>
    run('build.sh', {
      KIND: 'folder',
      NAME: '',
      VERSION: '',
      EXTRA: '',
      RELEASE: KERNEL,
      JOBS: 1,
      EPOCH: 0,
      KEEP: '',
      ...more,
    });

  test('builds a folder with the module that another source brings for it, and leaves both for collect.py', async () => {
    dkms();
    const SRC = source('foo', 'BUILD_DEPENDS=(lib)\n');
    const { code, rows, said } = await build({ SRC, EXTRA: `folder:${source('lib', '')}`, KEEP: 1 });
    expect(
      rows.filter((row) => !row.startsWith('build-seconds ')),
      said,
    ).toEqual([
      'source-package foo 1.0',
      'announce foo 1.0',
      'announce lib 1.0',
      'dependency lib 1.0 built lib.ko',
      'module foo 1.0 built foo.ko',
    ]);
    expect(rows.filter((row) => /^build-seconds (lib|foo)\/1\.0 \d+\.\d{2}$/.test(row))).toHaveLength(2);
    expect(code).toBe(0);
    const result = 'var/lib/dkms2bin/result';
    expect(read(`${result}/targets`)).toBe('foo/1.0\n');
    expect(read(`${result}/modules/foo--1.0/verdict`)).toBe('built\nfoo.ko\n');
    expect(read(`${result}/modules/foo--1.0/depends`)).toBe('lib\n');
    expect(read(`${result}/modules/lib--1.0/ko-files`)).toMatch(/lib\.ko\n$/);
    expect(read('var/lib/dkms2bin/rebuild')).toContain("dkms build -m 'foo' -v '1.0'");
    expect(read('etc/profile.d/dkms2bin.sh')).toContain('foo/1.0 for ');
  });

  test.each([
    [
      'a compiler error',
      'echo "foo.c:1: error: no" >>"$tree/$module/$version/build/make.log"; exit 10',
      1,
      'failed foo.c:1: error: no',
    ],
    ['a directive that excludes the kernel', 'exit 77', 0, 'skipped a BUILD_EXCLUSIVE directive'],
    [
      'a full disk',
      'echo "cc1: fatal error: error writing to /tmp/x.s: No space left on device" >>"$tree/$module/$version/build/make.log"; touch "$tree/../full"; exit 10',
      6,
      "error the guest's disk is full",
    ],
    ['a killed dkms', 'exit 137', 6, 'error the guest ran out of memory'],
    [
      'a compiler that the kernel killed',
      'echo "gcc: fatal error: Killed signal terminated program cc1" >>"$tree/$module/$version/build/make.log"; echo "oom_kill 4" >"$tree/../../../proc/vmstat"; exit 10',
      6,
      'error the guest ran out of memory',
    ],
    [
      'a compiler error beside a process that the kernel killed',
      'echo "foo.c:1: error: no" >>"$tree/$module/$version/build/make.log"; echo "oom_kill 4" >"$tree/../../../proc/vmstat"; exit 10',
      1,
      'failed foo.c:1: error: no',
    ],
    ['a dkms that somebody ended', 'exit 143', 6, 'error dkms was ended by signal 15'],
    ...['137', '143', '12', '21', '127'].map((code): [string, string, number, string] => [
      `a compiler error of a dkms that ends with ${code}`,
      `echo "foo.c:1: error: no" >>"$tree/$module/$version/build/make.log"; exit ${code}`,
      1,
      'failed foo.c:1: error: no',
    ]),
    [
      'a compiler error in a build that removes the headers',
      `echo "foo.c:1: error: no" >>"$tree/$module/$version/build/make.log"; rm "$tree/../../../lib/modules/$kernel/build/Makefile"; exit 10`,
      1,
      'failed foo.c:1: error: no',
    ],
    [
      'a module that its build spoilt',
      'mkdir -p "$tree/$module/$version/$kernel/x86_64/module"; echo no >"$tree/$module/$version/$kernel/x86_64/module/x.ko.xz"; exit 0',
      1,
      'failed x\\.ko\\.xz, which its build made, is damaged',
    ],
    [
      'a module that does not fit on the disk',
      'mkdir -p "$tree/$module/$version/$kernel/x86_64/module"; echo no >"$tree/$module/$version/$kernel/x86_64/module/x.ko.xz"; touch "$tree/../full"; exit 0',
      6,
      "error the guest's disk is full: no room to unpack",
    ],
  ])('tells %s from the others', async (_, end, expected, row) => {
    dkms(end);
    put(
      'bin/stat',
      `#!/bin/sh\nif [ -e '${root}/var/lib/full' ]; then echo 10 4096 5000 9000; else echo 99999999 4096 5000 9000; fi`,
      0o755,
    );
    const { code, rows, said } = await build({ SRC: source('foo', '') });
    expect(
      rows.find((each) => each.startsWith('module ')),
      said,
    ).toMatch(new RegExp(`^module foo 1\\.0 ${row}`));
    expect(code).toBe(expected);
  });

  const PATCH = 'PATCH[0]="fix.patch"\n';
  test.each([
    [
      'a patch that is missing',
      PATCH,
      "printf '%s\\n' 'Error!  Patch fix.patch as specified in dkms.conf cannot be' 'found in /x/build/patches/.'; exit 5",
      'failed Patch fix.patch as specified in dkms.conf cannot be found in /x/build/patches/.',
    ],
    [
      'a patch that does not fit',
      PATCH,
      "printf '%s\\n' 'Error! Application of patch fix.patch failed.' 'Check /x for more information.' '1 out of 1 hunk FAILED'; exit 6",
      'failed Application of patch fix.patch failed. 1 out of 1 hunk FAILED',
    ],
    [
      'a script that fails, whatever dkms ends with',
      '',
      "printf '%s\\n' 'Running the pre_build script... (bad exit status: 12)' 'Failed command:' '/x/pre.sh'; exit 12",
      'failed the pre_build script of dkms.conf failed with exit status 12: /x/pre.sh',
    ],
    [
      'a directive that cannot be',
      'DEST_MODULE_LOCATION[0]="/nowhere"\n',
      `printf '%s\\n' "Sign command: /x" "dkms.conf: Error! Directive 'DEST_MODULE_LOCATION' does not begin with" "'/kernel', '/updates', or '/extra' in record #0." "Error! Bad conf file."; exit 8`,
      "failed dkms.conf: Directive 'DEST_MODULE_LOCATION' does not begin with '/kernel', '/updates', or '/extra' in record #0.",
    ],
    ['Windows line ends', 'X=1\r\n', 'exit 8', 'failed its dkms.conf has Windows line ends (CRLF)'],
    ['a kernel that has it by now', 'OBSOLETE_BY="5.0"\n', 'exit 10', 'skipped OBSOLETE_BY="5.0"'],
    [
      'a source that nobody brings',
      'BUILD_DEPENDS=(nobody)\n',
      '',
      'lacks BUILD_DEPENDS of its dkms.conf names nobody',
    ],
    [
      'sources that need each other',
      'BUILD_DEPENDS=(foo)\n',
      '',
      'failed BUILD_DEPENDS of the dkms.conf files form a circle: foo -> foo',
    ],
  ])('says what dkms says: %s', async (_, conf, end, row) => {
    dkms(end);
    const { rows, said } = await build({ SRC: source('foo', conf) });
    expect(
      rows.find((each) => each.startsWith('module ')),
      said,
    ).toContain(`module foo 1.0 ${row}`);
  });

  test("a module that dkms would not put in place of the kernel's own is none; of two the other is", async () => {
    const own = (...names: string[]): void =>
      put(`lib/modules/${KERNEL}/modules.dep`, names.map((name) => `kernel/drivers/${name}.ko:\n`).join(''));
    const refusal =
      "printf '%s\\n' 'Module version 1.0 for foo.ko' 'exactly matches what is already found in kernel 6.1.0.'";
    own('bar');
    dkms('', refusal);
    expect((await build({ SRC: source('foo', '') })).rows.at(-1)).toBe('module foo 1.0 built foo.ko');
    expect(existsSync(join(root, 'installs'))).toBe(false);
    own('foo', 'bar');
    expect((await build({ SRC: source('foo', '') })).rows.at(-1)).toBe(
      "module foo 1.0 skipped dkms would not replace the kernel's own foo.ko: Module version 1.0 for foo.ko exactly matches what is already found in kernel 6.1.0. (a newer MODULE_VERSION would)",
    );
    dkms(
      'mkdir -p "$tree/$module/$version/$kernel/x86_64/module"; echo KO >"$tree/$module/$version/$kernel/x86_64/module/two.ko"',
      refusal,
    );
    const { code, rows } = await build({ SRC: source('foo', '') });
    expect(rows).toContainEqual(
      expect.stringMatching(/^left-out foo\/1\.0 dkms would not replace the kernel's own foo\.ko: /),
    );
    expect([code, rows.at(-1)]).toEqual([0, 'module foo 1.0 built two.ko']);
    expect(read('var/lib/dkms2bin/result/modules/foo--1.0/ko-files')).toMatch(/^\S+two\.ko\n$/);
  });

  test.each(
    corpus<{ what: string; input: string[] }>('make-logs').map((row) => [row.what, row.input] as const),
  )('is not deceived by %s: %j', async (_, lines) => {
    const words = lines.map((line) => `'${line.replaceAll("'", `'\\''`)}'`).join(' ');
    dkms(`printf '%s\\n' ${words} | tee -a "$tree/$module/$version/build/make.log"; exit 10`);
    const { code, rows, said } = await build({ SRC: source('foo', '') });
    expect(rows.filter((row) => row.startsWith('module ')).length, said).toBe(1);
    expect(rows.at(-1), said).toMatch(/^module foo 1\.0 failed /);
    expect(code).toBe(1);
  });

  test.each(variablesOf('build.sh'))('refuses %s %j', async (name, value) => {
    dkms();
    const { code, rows } = await build({ SRC: source('foo', ''), [name]: value });
    expect(rows).toEqual([expect.stringMatching(/^error /)]);
    expect(code).toBe(2);
    expect(existsSync(join(root, 'var/lib/dkms2bin/result'))).toBe(false);
  });

  test.each<[string, Variables, number]>([
    ['another kernel', { RELEASE: '6.2.0' }, 20],
    ['a release that is none', { RELEASE: '$(reboot)' }, 2],
    ['an unreadable source', { SRC: '/nowhere' }, 2],
    ['an unknown kind', { KIND: 'zip' }, 2],
  ])('ends at once for %s', async (_, more, expected) => {
    const { code, rows } = await build({ SRC: source('foo', ''), ...more });
    expect(rows).toEqual([expect.stringMatching(/^error /)]);
    expect(code).toBe(expected);
  });

  test('a source without a module is no success', async () => {
    const empty = join(root, 'empty.tar');
    spawnSync('tar', ['-cf', empty, '-T', '/dev/null']);
    expect(await build({ SRC: empty })).toMatchObject({
      code: 4,
      rows: [expect.stringContaining('no DKMS module')],
    });
    put('binaries/dkms_binaries_only/dkms.conf', '');
    const tar = join(root, 'binaries.tar');
    spawnSync('tar', ['-cf', tar, '-C', join(root, 'binaries'), '.']);
    expect(await build({ SRC: tar })).toMatchObject({
      code: 4,
      rows: [expect.stringContaining('binaries only')],
    });
  });
});

describe('fetch-source.sh', () => {
  /** An apt that has foo-dkms; `install` and `update` are what it does, and it writes down what it was asked for. */
  function apt(install: string, update = ''): void {
    put(
      'bin/apt-cache',
      `#!/bin/sh\ncase $1 in madison) [ "$2" != foo-dkms ] || echo ' foo-dkms | 1.0-1 | x' ;; esac`,
      0o755,
    );
    const body = `case " $* " in *" update "*) echo update >>'${root}/calls'; ${update} ;; *) echo install >>'${root}/calls'; ${install} ;; esac`;
    put('bin/apt-get', `#!/bin/bash\n${body}`, 0o755);
  }
  const fetch = () =>
    run('fetch-source.sh', { KIND: 'repo', NAME: 'foo-dkms', VERSION: '', SRC: '', EXTRA: '', BROUGHT: '' });
  const calls = (): string[] => read('calls').trim().split('\n');

  test.each(variablesOf('fetch-source.sh'))('refuses %s %j', async (name, value) => {
    apt('');
    const usual = { KIND: 'repo', NAME: 'foo-dkms', VERSION: '', SRC: '', EXTRA: '', BROUGHT: '' };
    const { code, rows } = await run('fetch-source.sh', { ...usual, [name]: value });
    expect(rows).toEqual([expect.stringMatching(/^error /)]);
    expect(code).toBe(2);
    expect(existsSync(join(root, 'calls'))).toBe(false);
  });

  test('names the package that it brought', async () => {
    apt('');
    const { code, rows } = await fetch();
    expect(rows).toEqual(['package foo-dkms', 'package-version 1.0-1', 'source-package foo-dkms']);
    expect([code, calls()]).toEqual([0, ['install']]);
    expect(existsSync(join(root, 'var/lib/dkms2bin/fetched-depends'))).toBe(true);
  });

  test('what an old list names is tried once more with a new one', async () => {
    apt(
      `if [ ! -e '${root}/updated' ]; then echo 'E: 404  Not Found'; exit 100; fi`,
      `touch '${root}/updated'`,
    );
    expect(await fetch()).toMatchObject({ code: 0 });
    expect(calls()).toEqual(['install', 'update', 'install']);
  });

  test.each([
    [
      "echo 'E: Failed to fetch http://x  Connection timed out'; exit 100",
      5,
      'error the mirror did not deliver: E: Failed',
    ],
    [
      "echo 'E: You do not have enough free space in /var/cache'; exit 100",
      8,
      "error the guest's disk is full: E: You",
    ],
    [
      "echo ' foo : Depends: bar'; echo 'E: Unable to correct problems'; exit 100",
      3,
      'error not installable: E: Unable to correct problems  foo : Depends: bar',
    ],
    ["echo 'dpkg was interrupted'; exit 100", 9, 'error apt failed: dpkg was interrupted'],
  ])('%j ends with %d', async (install, expected, row) => {
    apt(install);
    const { code, rows, said } = await fetch();
    expect(rows.at(-1), said).toContain(row);
    expect(code).toBe(expected);
  });

  test('a list that does not come is the mirror’s fault', async () => {
    apt("echo 'E: 404  Not Found'; exit 100", "echo 'E: Could not resolve x'; exit 100");
    expect(await fetch()).toMatchObject({ code: 5 });
    expect(calls()).toEqual(['install', 'update']);
  });
});

describe('install-kernel-apt.sh', () => {
  /** An apt whose `install` does what the text says; its calls are written down. */
  function apt(install: string): void {
    for (const name of ['debconf-set-selections', 'dpkg-query', 'dpkg', 'systemctl', 'sync', 'gcc'])
      put(`bin/${name}`, '#!/bin/sh\n', 0o755);
    put('bin/apt-cache', `#!/bin/sh\necho "Package: $2"\n`, 0o755);
    const body = `case " $* " in *" update "*) echo update ;; *" -t "*) echo suite ;; *) echo install ;; esac >>'${root}/calls'`;
    put('bin/apt-get', `#!/bin/bash\n${body}\ncase " $* " in *" update "*) ;; *) ${install} ;; esac`, 0o755);
    for (const path of [
      `boot/vmlinuz-${KERNEL}`,
      `boot/initrd.img-${KERNEL}`,
      `lib/modules/${KERNEL}/modules.dep`,
    ])
      put(path, 'x');
    for (const folder of ['etc/apt/sources.list.d', 'etc/dpkg'])
      mkdirSync(join(root, folder), { recursive: true });
    put('etc/fstab', 'UUID=0dbb09f2-7f28-4c6b-8d7f-5f0a0a2f5c1e / ext4 defaults 0 1\n');
  }
  const install = (more: Variables = {}) => run('install-kernel-apt.sh', { RELEASE: KERNEL, ...more });
  const calls = (): string[] => read('calls').trim().split('\n');

  test('reports what it installed', async () => {
    apt('');
    const { code, rows, said } = await install();
    expect(code, said).toBe(0);
    expect(rows).toContain(`image-package linux-image-${KERNEL}`);
    expect(rows).toContain('root-uuid 0dbb09f2-7f28-4c6b-8d7f-5f0a0a2f5c1e');
    expect(calls()).toEqual(['install']);
    expect(read('etc/dkms/framework.conf.d/dkms2bin.conf')).toContain('sign_file');
  });

  test('looks with new lists, then in the suite, before it says that something is missing', async () => {
    apt("echo 'E: Unable to locate package dkms'; exit 100");
    expect(await install({ SUITE: 'bookworm-backports' })).toMatchObject({
      code: 3,
      rows: [expect.stringMatching(/^error not installable: E: Unable to locate package dkms/)],
    });
    expect(calls()).toEqual(['install', 'update', 'install', 'suite']);
  });

  test.each([
    ["echo 'E: Failed to fetch x'; exit 100", 5],
    ["echo 'E: No space left on device'; exit 100", 8],
    ["echo 'E: Sub-process dpkg returned an error code'; exit 100", 9],
  ])('%j ends with %d', async (does, expected) => {
    apt(does);
    expect(await install()).toMatchObject({ code: expected });
    expect(calls()).toEqual(['install']);
  });

  test.each(variablesOf('install-kernel-apt.sh'))('refuses %s %j', async (name, value) => {
    apt('');
    const { code, rows } = await install({ [name]: value });
    expect(rows).toEqual([expect.stringMatching(/^error /)]);
    expect(code).toBe(2);
    expect(existsSync(join(root, 'calls'))).toBe(false);
  });

  test('installs the toolchain of the row, and nothing that apt would bring along unasked', async () => {
    apt(`echo "$*" >'${root}/asked'`);
    expect(await install({ TOOLCHAIN: 'dkms gcc make libc6-dev' })).toMatchObject({ code: 0 });
    expect(read('asked')).toMatch(/ install linux-image-\S+ linux-headers-\S+ dkms gcc make libc6-dev\n$/);
    expect(read('asked')).toContain('APT::Get::Upgrade-By-Source-Package=false');
    expect(read('asked')).toContain('deb-src::Sources::DefaultEnabled=false');
  });

  test("holds the image's own kernel, and leaves its initramfs as it is for this time only", async () => {
    apt(`cp '${root}/etc/initramfs-tools/update-initramfs.conf' '${root}/meanwhile'`);
    put('etc/initramfs-tools/update-initramfs.conf', 'update_initramfs=yes\nbackup_initramfs=no\n');
    put(
      'bin/dpkg-query',
      `#!/bin/sh\ncase "$*" in *'linux-image-*') printf 'ii  linux-image-%s\\n' cloud-amd64 ${KERNEL} ;; esac`,
      0o755,
    );
    put('bin/dpkg', `#!/bin/sh\n[ "$1" != --set-selections ] || cat >>'${root}/selections'`, 0o755);
    expect(await install()).toMatchObject({ code: 0 });
    expect(read('selections')).toBe('linux-image-cloud-amd64 hold\n');
    expect(read('meanwhile')).toContain('update_initramfs=no');
    expect(read('etc/initramfs-tools/update-initramfs.conf')).toBe(
      'update_initramfs=yes\nbackup_initramfs=no\n',
    );
  });

  test("sources that are given stand in place of the distro's own; others stay", async () => {
    apt('');
    put('etc/apt/sources.list.d/debian.sources', 'Types: deb deb-src\n');
    put('etc/apt/sources.list.d/own.list', 'deb http://own.invalid ./\n');
    put('keyring.gpg', '');
    const SOURCES =
      'deb http://m.invalid/debian bookworm main\ndeb http://m.invalid/s bookworm-security main';
    await install({ SOURCES, ARCHIVE_KEYRING: join(root, 'keyring.gpg') });
    expect(existsSync(join(root, 'etc/apt/sources.list.d/debian.sources'))).toBe(false);
    expect(read('etc/apt/sources.list.d/own.list')).toBe('deb http://own.invalid ./\n');
    expect(read('etc/apt/sources.list.d/dkms2bin-distro.list')).toBe(
      `deb [signed-by=${root}/keyring.gpg] http://m.invalid/debian bookworm main\n` +
        `deb [signed-by=${root}/keyring.gpg] http://m.invalid/s bookworm-security main\n`,
    );
  });

  test('says why apt could not fetch, which stands on the line after', async () => {
    const lines = [
      'Err:2 https://m.invalid/debian bookworm InRelease',
      '  Certificate verification failed: The certificate is NOT trusted.',
      'Err:3 https://m.invalid/debian bookworm-updates InRelease',
      '  Certificate verification failed: The certificate is NOT trusted.',
      'Reading package lists...',
      'E: Failed to fetch https://m.invalid/debian/dists/bookworm/InRelease',
    ];
    apt(`printf '%s\\n' ${lines.map((line) => `'${line}'`).join(' ')}; exit 100`);
    expect(await install()).toMatchObject({
      code: 5,
      rows: [
        'error the mirror did not deliver: Err:2 https://m.invalid/debian bookworm InRelease: Certificate verification ' +
          'failed: The certificate is NOT trusted. E: Failed to fetch https://m.invalid/debian/dists/bookworm/InRelease ',
      ],
    });
  });

  test('where dracut makes the initramfs, it gets a short list of drivers and initramfs-tools nothing', async () => {
    apt('');
    put('bin/dracut', `#!/bin/sh\necho made >"$2"`, 0o755);
    rmSync(join(root, `boot/initrd.img-${KERNEL}`));
    const { code, said } = await install();
    expect(code, said).toBe(0);
    expect(read(`boot/initrd.img-${KERNEL}`)).toBe('made\n');
    expect(read('etc/dracut.conf.d/dkms2bin.conf')).toMatch(/^drivers=" virtio_pci .* ext4 "$/m);
    expect(existsSync(join(root, 'etc/initramfs-tools'))).toBe(false);
  });

  test('without an initramfs of the distro it asks for the program that makes one', async () => {
    apt(
      `case " $* " in *" initramfs-tools "*) echo 'E: Unable to locate package initramfs-tools'; exit 100 ;; esac`,
    );
    rmSync(join(root, `boot/initrd.img-${KERNEL}`));
    const { code, rows } = await install();
    expect(rows).toEqual(['error no initramfs-tools in the package sources']);
    expect(code).toBe(10);
  });
});

describe('verify.py and prove.py', () => {
  const more: [ProgramName, Variables][] = [
    ['verify.py', { PACKAGES: [], MODULES: ['foo'], NEEDS: [], MANAGER: 'apt' }],
    [
      'prove.py',
      {
        ...{ STEP: 'alone', MANAGER: 'apt', HOST: '10.0.2.9', SOURCES: '', KEY_URL: '', KEYRING: '' },
        ...{ PACKAGES: [], PROXY: '', AUTHORITIES: 0 },
      },
    ],
  ];
  test.each(more)('%s ends at once when another kernel runs', async (name, variables) => {
    const { code, rows, said } = await run(name, { RELEASE: 'x', ...variables });
    expect([code, rows], said).toEqual([20, [`error the guest runs ${release()}, not x`]]);
  });
});
