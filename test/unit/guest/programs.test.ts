import { describe, expect, it } from 'vitest';
import { runBuild, type ModuleReport } from '../../../src/guest/programs/build.js';
import { collect } from '../../../src/guest/programs/collect.js';
import { fetchSource } from '../../../src/guest/programs/fetch-source.js';
import { installKernel, readInstalledKernel } from '../../../src/guest/programs/install-kernel.js';
import { rpmbuild } from '../../../src/guest/programs/pack-rpm.js';
import {
  fetchPackages,
  proveRepository,
  type InstalledPackage,
  type ProveOrder,
} from '../../../src/guest/programs/prove.js';
import { GuestDeath } from '../../../src/model/errors.js';
import type { PushedSource } from '../../../src/guest/programs/pushed-source.js';
import { verifyPackages } from '../../../src/guest/programs/verify.js';
import { frames, rows, standInGuest, type Answer } from '../fixtures/guest.js';

const RUN = { timeoutMs: 1000 };
const LOADS = { ...RUN, accel: 'kvm' as const, lastWords: () => 'on the console' };
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
  const order = {
    source: SOURCE,
    release: RELEASE,
    jobs: 2,
    epoch: 7,
    keep: false,
    debugSymbols: true,
    compileOnHost: false,
  };
  const build = (answer: Answer): Promise<ModuleReport[]> =>
    runBuild(standInGuest({ 'build.sh': answer }).guest, order, 'foo × k', RUN);

  it('tells the program of source, kernel and options', async () => {
    const { guest, calls } = standInGuest({
      'build.sh': { stdout: rows('announce foo 1', 'module foo 1 built foo.ko') },
    });
    await runBuild(guest, order, 'foo × k', RUN);
    const head = calls[0]!.text.slice(0, calls[0]!.text.indexOf('# How a program'));
    expect(head.split('\n').sort()).toEqual([
      '',
      "BROUGHT='lib'",
      "COMPILE_ON_HOST=''",
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
      'announce foo 1.0',
      'build-seconds foo/1.0 12.345',
      'announce lib 2',
      'dependency lib 2 built lib.ko',
      'first-error foo/1.0 foo.c:3: error: no',
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
    ['two times', ['build-seconds foo/1 1', 'build-seconds foo/1 2', 'module foo 1 failed a']],
    ['a time that is none', ['build-seconds foo/1 soon', 'module foo 1 failed a']],
    ['an unknown key', ['load foo loaded', 'module foo 1 built foo.ko']],
    ['a module that was not announced', ['module bar 1 built bar.ko', 'module foo 1 built foo.ko']],
    ['a module that is announced twice', ['announce foo 1', 'module foo 1 built foo.ko']],
    ['something of a module after its result', ['module foo 1 failed a', 'first-error foo/1 a']],
  ])('refuses rows with %s', async (_, said) => {
    await expect(build({ stdout: rows('announce foo 1', ...said) })).rejects.toMatchObject({
      fault: 'transient',
      message: expect.stringMatching(/^The guest reports what makes no sense: /) as string,
    });
  });

  it.each(['../etc 1', 'foo ../1', '-rf 1'])('refuses the name or version in %j', async (row) => {
    await expect(build({ stdout: rows(`announce ${row}`) })).rejects.toMatchObject({ fault: 'module' });
  });

  it('misses the result of a module that was announced', async () => {
    const stdout = rows('announce foo 1', 'announce bar 1', 'module foo 1 built foo.ko');
    await expect(build({ code: 137, stdout })).rejects.toMatchObject({
      fault: 'transient',
      message: 'The guest ended the build (exit code 137) without a result for bar/1',
    });
  });

  it('knows what no retry mends: a source that is not there', async () => {
    const stdout = rows('announce foo 1', 'module foo 1 lacks give lib');
    expect(await build({ code: 6, stdout })).toEqual([
      { name: 'foo', version: '1', verdict: 'error', lacks: true, reason: 'give lib', dependency: false },
    ]);
  });

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
    collect(standInGuest({ 'collect.py': { stdout: frames(blobs) } }).guest, LIMITS);

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

  it('says how a package comes in that nobody has', async () => {
    const why =
      'E: Unable to correct problems  vendor-dkms : Depends: vendor-common (>= 2) but it is not installable';
    const { guest } = standInGuest({
      'fetch-source.sh': { code: 3, stdout: rows(`error not installable: ${why}`) },
    });
    await expect(fetchSource(guest, SOURCE, { called: './vendor.deb' }, RUN)).rejects.toMatchObject({
      fault: 'not-found',
      hint: 'Give the .deb file of vendor-common as well: --build-package ./vendor-common.deb',
    });
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
      BUILD_PACKAGES: '',
      BUILD_PACKAGE_DIR: '',
    } as const;
    return readInstalledKernel(await installKernel(guest, 'install-kernel-apt.sh', vars, RUN), TARGET);
  };

  it('reads versions, root file system and the cost of a toolchain', async () => {
    const stdout = rows(
      `image-package linux-image-${RELEASE}`,
      'gcc-version /usr/bin/x 12.2',
      `root-uuid ${UUID}`,
      'kernel-compiler clang version 19.1.0',
      'note It was built with clang',
      'toolchain 30 2048 5000',
    );
    expect(await install({ stdout })).toEqual({
      versions: {
        ...{ 'image-package': `linux-image-${RELEASE}`, 'image-version': '', 'headers-version': '' },
        ...{ 'gcc-version': '/usr/bin/x 12.2', 'dkms-version': '' },
        'kernel-compiler': 'clang version 19.1.0',
      },
      rootUuid: UUID,
      bootArguments: '',
      toolchain: { packages: 30, installedBytes: 2048 * 1024, downloadBytes: 5000 },
      notes: ['It was built with clang'],
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

  it.each([
    ['a value that comes twice', [`root-uuid ${UUID}`, 'initrd /boot/a', 'initrd /boot/b']],
    ['a key that it does not have', [`root-uuid ${UUID}`, 'module foo 1 built foo.ko']],
  ])('refuses rows with %s', async (_, said) => {
    await expect(install({ stdout: rows(...said) })).rejects.toMatchObject({
      fault: 'transient',
      message: expect.stringMatching(/^The guest reports what makes no sense: (?:initrd|module) /) as string,
    });
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
    return verifyPackages(guest, order, LOADS);
  };
  const PANIC = new GuestDeath('died', 'The guest kernel panicked', 'Kernel panic - not syncing: x');
  const HANG = new GuestDeath('silent', 'verify.py has done nothing', '');

  it('sends the packages, and tells how each module loads', async () => {
    const stdout = rows(
      ...[
        'doing load foo',
        'warn foo WARNING: at x',
        'doing unload foo',
        'stays foo no exit',
        'load foo loaded',
      ],
      ...['doing load bar', 'load bar refused ENODEV No such device'],
    );
    const { guest, calls } = standInGuest({ 'verify.py': { stdout } });
    const { loads, broke, failure } = await verifyPackages(guest, order, LOADS);
    expect([...loads.values()]).toEqual([
      { name: 'foo', how: 'loaded', why: '', warnings: ['WARNING: at x'] },
      { name: 'bar', how: 'refused', why: 'ENODEV No such device', warnings: [] },
    ]);
    expect([broke, failure]).toEqual([null, null]);
    expect(calls[0]!.text).toContain(
      'PACKAGES=[["foo.deb",3,"foo"]]\nMODULES=["foo","bar"]\nNEEDS=["usbcore"]\n',
    );
    expect(calls[0]!.text).toMatch(/^HANG=30$/m);
    expect(calls[0]!.input.toString()).toBe('DEB');
  });

  it.each([
    ['an unknown result', ['doing load foo', 'load foo wonderful']],
    ['a module that is not one of the order', ['doing load foobar', 'load foobar loaded']],
    ['two results', ['doing load foo', 'load foo loaded', 'load foo bad no']],
    ['a result of what was not tried', ['load foo loaded']],
    ['an unload before the load', ['doing unload foo']],
    ['a warning of another module', ['doing load foo', 'warn bar x']],
    ['a warning after the result', ['doing load foo', 'load foo loaded', 'warn foo x']],
    ['a second try', ['doing load foo', 'load foo loaded', 'doing load foo']],
    ['a result after the kernel broke', ['doing load foo', 'load foo broke oops', 'load bar bad x']],
    ['a key of no program', ['doing load foo', 'load foo loaded', 'grants root']],
    ['a key of another program', ['module foo 1 built foo.ko', 'doing load foo', 'load foo loaded']],
    ['a key that every object has', ['constructor x', 'doing load foo', 'load foo loaded']],
  ])('refuses rows with %s', async (_, said) => {
    await expect(verify({ code: 1, stdout: rows(...said) })).rejects.toMatchObject({
      fault: 'transient',
      message: expect.stringMatching(/^The guest reports what makes no sense: /) as string,
    });
  });

  it.each([
    ['doing load foo', PANIC, 'the kernel died while it was being loaded: Kernel panic - not syncing: x'],
    ['doing unload foo', HANG, 'the machine hung while it was being unloaded: on the console'],
  ])('a machine that dies after %j dies of the module', async (row, dies, why) => {
    const { loads, broke, failure } = await verify({
      stdout: rows('doing load foo', ...(row === 'doing load foo' ? [] : [row])),
      dies,
    });
    expect([...loads.values()]).toMatchObject([{ name: 'foo', how: 'bad', why }]);
    expect([broke, failure]).toEqual(['foo', null]);
  });

  it('a machine that dies before any module is tried dies of the package; one that is silent, of nothing known', async () => {
    expect(await verify({ dies: PANIC })).toMatchObject({
      failure: expect.stringContaining('Kernel panic') as string,
    });
    await expect(verify({ dies: HANG })).rejects.toMatchObject({ fault: 'transient' });
    const after = rows('doing load foo', 'load foo loaded');
    await expect(verify({ stdout: after, dies: HANG })).rejects.toMatchObject({ fault: 'transient' });
  });

  it.each([7, 11])('exit code %d is a verdict', async (code) => {
    expect(await verify({ code, stdout: rows('error does not install') })).toMatchObject({
      failure: 'does not install',
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
      host: '10.0.2.9',
      sources: 'deb',
      keyUrl: '',
      keyring: '',
    },
    packages: ['foo-modules'],
  } satisfies ProveOrder;
  const answerOf = (answer: Answer) =>
    proveRepository(standInGuest({ 'prove.py': answer }).guest, order, { ...LOADS, step: 'alone' });
  const prove = async (answer: Answer): Promise<InstalledPackage[]> => {
    const found = await answerOf(answer);
    if ('lacks' in found) throw new Error(found.lacks);
    return found;
  };

  it('reads what was installed and how its modules load', async () => {
    const stdout = rows(
      'installed foo-modules 1:2-3 foo,bar',
      'installed foo-common 1',
      'doing load foo',
      'load foo loaded',
      'load bar bad no',
    );
    expect(await prove({ code: 1, stdout })).toEqual([
      {
        ...{ name: 'foo-modules', version: '1:2-3' },
        loads: [
          { name: 'foo', how: 'loaded', why: '', warnings: [] },
          { name: 'bar', how: 'bad', why: 'no', warnings: [] },
        ],
      },
      { name: 'foo-common', version: '1', loads: [] },
    ]);
  });

  it('refuses a package that comes twice', async () => {
    const stdout = rows('installed foo 1 foo', 'installed foo 2 bar', 'doing load foo', 'load foo loaded');
    await expect(prove({ stdout })).rejects.toMatchObject({ fault: 'transient' });
  });

  it('says of what was not tried that the kernel did not survive another', async () => {
    const stdout = rows(
      'installed foo-modules 1 foo,bar',
      'doing load foo',
      'load foo broke its init function hangs',
    );
    const [found] = await prove({ code: 1, stdout });
    expect(found!.loads).toMatchObject([
      { name: 'foo', how: 'bad', why: 'its init function hangs' },
      { name: 'bar', how: 'missing', why: 'not tried: the kernel did not survive foo' },
    ]);
  });

  it.each(['installed ../x 1 foo', 'installed foo', 'installed foo 1 $(reboot)'])(
    'leaves out the row %j',
    async (row) => {
      await expect(prove({ stdout: rows(row) })).rejects.toMatchObject({
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
    [11, 'module'],
    [12, 'usage'],
    [13, 'module'],
  ])('exit code %d alone is %s', async (code, fault) => {
    await expect(prove({ code, stdout: rows('error gcc') })).rejects.toMatchObject({ fault });
  });

  it('tells what the repository alone lacks, which is for the distro’s own sources', async () => {
    const lacks = 'foo : Depends: libfoo but it is not installable';
    expect(await answerOf({ code: 14, stdout: rows(`error ${lacks}`) })).toEqual({ lacks });
    const fetch = (answer: Answer) => {
      const egress = { proxy: 'http://proxy:3142', authorities: Buffer.from('PEM') };
      return fetchPackages(standInGuest({ 'prove.py': answer }).guest, order, { timeoutMs: 1000, egress });
    };
    await fetch({ code: 0, stdout: '' });
    await expect(fetch({ code: 14, stdout: '' })).rejects.toMatchObject({ fault: 'module' });
    await expect(fetch({ code: 13, stdout: rows('error gcc-12') })).rejects.toMatchObject({
      message: 'A toolchain comes along with the packages: gcc-12',
    });
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
