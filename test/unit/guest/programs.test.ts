import { describe, expect, it } from 'vitest';
import { runBuild, type ModuleReport } from '../../../src/guest/programs/build.js';
import { collect } from '../../../src/guest/programs/collect.js';
import { fetchSource } from '../../../src/guest/programs/fetch-source.js';
import { installKernel, readInstalledKernel } from '../../../src/guest/programs/install-kernel.js';
import { rpmbuild } from '../../../src/guest/programs/pack-rpm.js';
import { proveRepository, type ProveOrder } from '../../../src/guest/programs/prove.js';
import type { PushedSource } from '../../../src/guest/programs/pushed-source.js';
import { verifyPackages } from '../../../src/guest/programs/verify.js';
import { frames, rows, standInGuest, type Answer } from '../fixtures/guest.js';

const RUN = { timeoutMs: 1000 };
const RELEASE = '6.1.0-56-amd64';

const SOURCE: PushedSource = {
  kind: 'folder',
  name: '',
  version: '',
  path: '/var/lib/dkms2bin/source.tar',
  extra: [{ kind: 'deb', path: '/var/lib/dkms2bin/extra-0.deb' }],
  brings: ['lib'],
};

describe('build', () => {
  const order = { source: SOURCE, release: RELEASE, jobs: 2, epoch: 7, keep: false, debugSymbols: true };
  const build = (answer: Answer): Promise<ModuleReport[]> =>
    runBuild(standInGuest({ 'build.sh': answer }).guest, order, 'foo × k', RUN);

  it('tells the program of source, kernel and options', async () => {
    const { guest, calls } = standInGuest({ 'build.sh': { stdout: rows('module foo 1 built foo.ko') } });
    await runBuild(guest, order, 'foo × k', RUN);
    const head = calls[0]!.text.slice(0, calls[0]!.text.indexOf('# How a program'));
    expect(head.split('\n').sort()).toEqual([
      '',
      "BROUGHT='lib'",
      "DEBUG_SYMBOLS='1'",
      "EPOCH='7'",
      "EXTRA='deb:/var/lib/dkms2bin/extra-0.deb'",
      "JOBS='2'",
      "KEEP=''",
      "KIND='folder'",
      "NAME=''",
      `RELEASE='${RELEASE}'`,
      "SRC='/var/lib/dkms2bin/source.tar'",
      "VERSION=''",
    ]);
  });

  it('reads one row a module, with what else is said of it', async () => {
    const stdout = rows(
      'build-seconds foo/1.0 12.345',
      'dependency lib 2 built lib.ko',
      'first-error foo/1.0 foo.c:3: error: no',
      'build-seconds lib/2 soon',
      'module foo 1.0 failed foo.c:3: error: no',
    );
    expect(await build({ code: 1, stdout })).toEqual([
      { name: 'lib', version: '2', verdict: 'built', reason: 'lib.ko', dependency: true },
      {
        ...{
          name: 'foo',
          version: '1.0',
          verdict: 'failed',
          reason: 'foo.c:3: error: no',
          dependency: false,
        },
        ...{ firstError: 'foo.c:3: error: no', seconds: 12.345 },
      },
    ]);
  });

  it.each([
    ['an unknown verdict', ['module foo 1 splendid']],
    ['no verdict', ['module foo 1 built foo.ko', 'module']],
    ['two verdicts for one module', ['module foo 1 failed x', 'module foo 1 built foo.ko']],
    ['a module that is its own dependency', ['dependency foo 1 built foo.ko', 'module foo 1 built foo.ko']],
    ['two first errors', ['first-error foo/1 a', 'first-error foo/1 b', 'module foo 1 failed a']],
    ['an unknown key', ['load foo loaded', 'module foo 1 built foo.ko']],
  ])('refuses rows with %s', async (_, said) => {
    await expect(build({ stdout: rows(...said) })).rejects.toMatchObject({
      fault: 'transient',
      message: expect.stringMatching(/^The guest reports what makes no sense: /) as string,
    });
  });

  it.each(['../etc 1 built', 'foo ../1 built', '-rf 1 built'])(
    'refuses the name or version in %j',
    async (row) => {
      await expect(build({ stdout: rows(`module ${row}`) })).rejects.toMatchObject({ fault: 'module' });
    },
  );

  it.each([
    [2, 'usage'],
    [4, 'module'],
    [7, 'module'],
    [8, 'transient'],
    [1, 'transient'],
    [0, 'transient'],
  ])('without a row, exit code %d is %s', async (code, fault) => {
    await expect(build({ code, stdout: rows('error why') })).rejects.toMatchObject({
      fault,
      message: 'foo × k: why',
    });
  });
});

describe('collect', () => {
  const LIMITS = { single: 1000, total: 5000 };
  const meta = (module: object): string =>
    JSON.stringify({ modules: [{ name: 'foo', version: '1', ko: [], ...module }] });
  const take = (blobs: Parameters<typeof frames>[0]) =>
    collect(standInGuest({ 'collect.py': { stdout: frames(blobs) } }).guest, 1000, LIMITS);

  it('puts files to the modules that name them', async () => {
    const said = meta({ ko: [{ dest: 'foo.ko', blob: 0 }], log: 1, buildDepends: ['lib'] });
    const found = await take([
      ['ko', 'KO'],
      ['log', 'LOG'],
      ['meta', said],
    ]);
    expect(found).toEqual({
      modules: [
        {
          ...{ name: 'foo', version: '1', debug: [], debugTooLarge: false, buildDepends: ['lib'] },
          ko: [{ name: 'foo.ko', bytes: Buffer.from('KO') }],
          log: Buffer.from('LOG'),
        },
      ],
    });
  });

  it.each<[string, Parameters<typeof frames>[0], string]>([
    ['no description', [['ko', 'x']], 'transient'],
    ['a description of another shape', [['meta', '{"modules": 1}']], 'transient'],
    [
      'a file that it would add to the packages',
      [
        ['extra', 'blacklist e1000'],
        ['meta', meta({})],
      ],
      'transient',
    ],
    ['a file that was not sent', [['meta', meta({ ko: [{ dest: 'x.ko', blob: 5 }] })]], 'module'],
    [
      'a file of another kind',
      [
        ['log', 'x'],
        ['meta', meta({ ko: [{ dest: 'x.ko', blob: 0 }] })],
      ],
      'module',
    ],
    ['a name that leads elsewhere', [['meta', meta({ name: '../x' })]], 'module'],
    [
      'more than the limit',
      [
        ['ko', 'x'.repeat(1001)],
        ['meta', meta({})],
      ],
      'module',
    ],
  ])('refuses %s', async (_, blobs, fault) => {
    await expect(take(blobs)).rejects.toMatchObject({ fault });
  });
});

describe('fetch-source', () => {
  const repo: PushedSource = { ...SOURCE, kind: 'repo', name: 'foo-dkms', path: '' };
  const fetched = (...lines: string[]) =>
    fetchSource(
      standInGuest({ 'fetch-source.sh': { stdout: rows(...lines) } }).guest,
      repo,
      { called: 'foo-dkms' },
      RUN,
    );

  it("says where a repository's package lies, and nothing of what was pushed", async () => {
    const file = '/var/cache/apt/archives/foo-dkms_1%3a1.0-1_all.deb';
    expect(await fetched(`file ${file}`)).toBe(file);
    const { guest } = standInGuest({ 'fetch-source.sh': {} });
    expect(await fetchSource(guest, SOURCE, { called: 'foo' }, RUN)).toBeNull();
    for (const lines of [
      [],
      [`file ${file}`, `file ${file}`],
      ['file /etc/shadow'],
      ['file /var/cache/apt/archives/../x.deb'],
    ])
      await expect(fetched(...lines)).rejects.toMatchObject({ fault: 'transient' });
  });

  it('says what is near, and whose fault it is', async () => {
    const stdout = rows('near foo-dkms=1', 'near foo-dkms=2', 'error no version 3');
    const { guest } = standInGuest({ 'fetch-source.sh': { code: 3, stdout } });
    await expect(fetchSource(guest, SOURCE, { called: 'foo-dkms=3' }, RUN)).rejects.toMatchObject({
      fault: 'not-found',
      message: 'foo-dkms=3: no version 3',
      hint: 'Similar names: foo-dkms=1, foo-dkms=2',
    });
  });
});

describe('install-kernel', () => {
  const TARGET = { release: RELEASE, distro: 'debian-12' };
  const UUID = '0dbb09f2-7f28-4c6b-8d7f-5f0a0a2f5c1e';
  const install = async (answer: Answer) => {
    const { guest } = standInGuest({ 'install-kernel-apt.sh': answer });
    const vars = {
      RELEASE,
      VARIANT: 'build',
      SUITE: '',
      ARCHIVE_URI: '',
      ARCHIVE_SUITE: '',
      AUTHORITIES: '',
      KERNEL_PACKAGE_DIR: '',
    } as const;
    return readInstalledKernel(await installKernel(guest, 'install-kernel-apt.sh', vars, RUN), TARGET);
  };

  it('reads versions, root file system and the cost of a toolchain', async () => {
    const stdout = rows(
      `image-package linux-image-${RELEASE}`,
      'gcc-version /usr/bin/x 12.2',
      `root-uuid ${UUID}`,
      'toolchain 30 2048 5000',
    );
    expect(await install({ stdout })).toEqual({
      versions: {
        ...{ 'image-package': `linux-image-${RELEASE}`, 'image-version': '', 'headers-version': '' },
        ...{ 'gcc-version': '/usr/bin/x 12.2', 'dkms-version': '' },
      },
      rootUuid: UUID,
      bootArguments: '',
      toolchain: { packages: 30, installedBytes: 2048 * 1024, downloadBytes: 5000 },
    });
  });

  it('keeps what the root and the security module of the image need', async () => {
    const cmdline =
      'root=UUID=x rootflags=subvol=root ro quiet security=selinux init=/bin/sh selinux=1;reboot';
    const stdout = rows(`root-uuid ${UUID}`, `cmdline ${cmdline}`);
    expect(await install({ stdout })).toMatchObject({
      bootArguments: ' rootflags=subvol=root security=selinux',
    });
  });

  it.each(['', '0 0 0', '3 4', 'a b c', '1 -2 3'])('knows no cost by %j', async (cost) => {
    const stdout = rows(`root-uuid ${UUID}`, `toolchain ${cost}`);
    expect(await install({ stdout })).toMatchObject({ toolchain: null });
  });

  it('refuses a root file system that is no UUID', async () => {
    await expect(install({ stdout: rows('root-uuid $(reboot)') })).rejects.toMatchObject({
      fault: 'transient',
    });
  });

  it('names the releases that exist', async () => {
    const stdout = rows(...[1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => `near 6.1.0-${n}-amd64`), 'error none');
    await expect(install({ code: 3, stdout })).rejects.toMatchObject({
      fault: 'not-found',
      message: `Kernel ${RELEASE} could not be installed in the debian-12 image: none`,
      hint: expect.stringMatching(/^Releases that exist there: 6\.1\.0-2-amd64, .*-9-amd64$/) as string,
    });
    await expect(install({ code: 8, stdout })).rejects.toMatchObject({ fault: 'transient' });
  });
});

describe('verify', () => {
  const order = {
    packages: [{ file: 'foo.deb', package: 'foo', bytes: Buffer.from('DEB') }],
    modules: ['foo', 'bar'],
    needs: ['usbcore'],
    release: RELEASE,
    packageManager: 'apt',
  };
  const verify = (answer: Answer) => {
    const { guest } = standInGuest({ 'verify.py': answer });
    return verifyPackages(guest, order, RUN);
  };

  it('sends the packages, and tells how each module loads', async () => {
    const stdout = rows('load foo loaded', 'load bar refused No such device');
    const { guest, calls } = standInGuest({ 'verify.py': { stdout } });
    const { loads, failure, error } = await verifyPackages(guest, order, RUN);
    expect([...loads.values()]).toEqual([
      { name: 'foo', how: 'loaded', why: '' },
      { name: 'bar', how: 'refused', why: 'No such device' },
    ]);
    expect([failure, error]).toEqual([null, null]);
    expect(calls[0]!.text).toContain(
      'PACKAGES=[["foo.deb",3,"foo"]]\nMODULES=["foo","bar"]\nNEEDS=["usbcore"]\n',
    );
    expect(calls[0]!.input.toString()).toBe('DEB');
  });

  it('takes junk for no report', async () => {
    const stdout = rows('load foo wonderful', 'load foobar loaded', 'load bar bad taints');
    const { loads, failure } = await verify({ code: 1, stdout });
    expect([...loads.values()].map(({ how }) => how)).toEqual(['missing', 'bad']);
    expect(failure).not.toBeNull();
  });

  it.each([7, 11])('exit code %d is a verdict', async (code) => {
    expect(await verify({ code, stdout: rows('error does not install') })).toMatchObject({
      failure: 'does not install',
      error: 'does not install',
    });
  });

  it.each([1, 5, 8, 20, 137])('exit code %d without a report is no verdict on a module', async (code) => {
    await expect(verify({ code, stdout: 'Traceback\n' })).rejects.toMatchObject({ fault: 'transient' });
  });
});

describe('prove', () => {
  const order = {
    ...{
      release: RELEASE,
      packageManager: 'apt',
      url: 'http://10.0.2.9/',
      sources: 'deb',
      keyUrl: '',
      keyring: '',
    },
    packages: ['foo-modules'],
  } satisfies ProveOrder;
  const prove = (answer: Answer) => proveRepository(standInGuest({ 'prove.py': answer }).guest, order, RUN);

  it('reads what was installed and how its modules load', async () => {
    const stdout = rows(
      'installed foo-modules 1:2-3 foo,bar',
      'installed foo-common 1',
      'load foo loaded',
      'load bar bad no',
    );
    expect(await prove({ code: 1, stdout })).toEqual([
      {
        ...{ name: 'foo-modules', version: '1:2-3' },
        loads: [
          { name: 'foo', how: 'loaded', why: '' },
          { name: 'bar', how: 'bad', why: 'no' },
        ],
      },
      { name: 'foo-common', version: '1', loads: [] },
    ]);
  });

  it.each(['installed ../x 1 foo', 'installed foo', 'installed foo 1 $(reboot)'])(
    'leaves out the row %j',
    async (row) => {
      await expect(prove({ stdout: rows(row, 'load foo loaded') })).rejects.toMatchObject({
        fault: 'module',
        message: 'The packages install, but there is no kernel module in them',
      });
    },
  );

  it.each([
    [1, 'transient'],
    [5, 'transient'],
    [7, 'module'],
    [8, 'transient'],
    [12, 'usage'],
    [13, 'module'],
  ])('exit code %d alone is %s', async (code, fault) => {
    await expect(prove({ code, stdout: rows('error gcc') })).rejects.toMatchObject({ fault });
  });
});

describe('rpmbuild', () => {
  const order = {
    spec: Buffer.from('SPEC'),
    sources: [Buffer.from('ab')],
    packages: ['x.rpm'],
    arch: 'x86_64',
    epoch: 7,
  };

  it('sends the spec file and its sources, and takes log and packages', async () => {
    const stdout = frames([
      ['log', 'built'],
      ['rpm', 'RPM'],
    ]);
    const { guest, calls } = standInGuest({ 'pack-rpm.py': { stdout } });
    expect(await rpmbuild(guest, order, 1000)).toEqual({ log: 'built', rpms: [Buffer.from('RPM')] });
    expect(calls[0]!.text).toContain('SIZES=[4,2]\nPACKAGES=["x.rpm"]\nARCH="x86_64"\nEPOCH=7\n');
    expect(calls[0]!.input.toString()).toBe('SPECab');
  });

  it('refuses more packages than were ordered', async () => {
    const stdout = frames([
      ['log', ''],
      ['rpm', 'one'],
      ['rpm', 'two'],
    ]);
    const { guest } = standInGuest({ 'pack-rpm.py': { stdout } });
    await expect(rpmbuild(guest, order, 1000)).rejects.toMatchObject({ fault: 'module' });
  });
});
