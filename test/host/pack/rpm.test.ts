import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { inspectFile } from '../../../src/attest/inspect.js';
import { parseRpm, readRpmFile } from '../../../src/formats/rpm.js';
import { sharedFiles } from '../../../src/pack/shared-files.js';
import { noRelations } from '../../../src/pack/relations.js';
import { makeRpmSpec, type RpmInput } from '../../../src/pack/rpm.js';
import { guestRpmbuild } from '../fixtures/guest-rpmbuild.js';
import { hasTool } from '../fixtures/has-tool.js';
import { fakeModule } from '../../unit/fixtures/elf.js';

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

const MTIME = 1_700_000_000;
const EL = '5.14.0-503.el9.x86_64';
const SUSE = '6.4.0-150600.23.25-default';

const input = (more: Partial<RpmInput> = {}): RpmInput => ({
  module: 'acpi_call',
  version: '1.2.2',
  release: EL,
  arch: 'x86_64',
  form: 'kmod',
  modules: [{ name: 'acpi_call.ko', bytes: fakeModule(more.release ?? EL) }],
  extras: [],
  sourcePackage: null,
  maintainer: 'dkms2bin <root@localhost>',
  dependsModules: [],
  mtime: MTIME,
  ...more,
});

const EXTRAS = [
  { path: '/etc/modprobe.d/acpi-call.conf', bytes: Buffer.from('options acpi_call x=1\n'), mode: 0o644 },
  { path: '/lib/udev/rules.d/60-acpi-call.rules', bytes: Buffer.from('# rule\n'), mode: 0o600 },
];

/** The .rpm files by name. */
async function build(of: RpmInput): Promise<Record<string, string>> {
  return Object.fromEntries((await guestRpmbuild(of, tmp)).map(({ file, path }) => [file, path]));
}

const query = (file: string, ...what: string[]): string[] =>
  String(execFileSync('rpm', ['-qp', ...what, file], { stdio: ['ignore', 'pipe', 'ignore'] })).split('\n');

const rpmbuild = hasTool('rpmbuild');
describe.skipIf(!rpmbuild)(`rpmbuild${rpmbuild ? '' : ' (skipped: it is not installed)'}`, () => {
  it('makes a package that is tied to its kernel, with the bytes that it was given, twice the same', async () => {
    const signed = Buffer.concat([fakeModule(EL), Buffer.from('signature~Module signature appended~\n')]);
    const of = input({
      modules: [
        { name: 'acpi_call.ko', bytes: signed, packed: { suffix: '.xz', bytes: Buffer.from('xz%') } },
      ],
      dependsModules: ['lib'],
    });
    const name = `kmod-acpi_call-${EL}-1.2.2-1.x86_64.rpm`;
    const [file] = Object.values(await build(of));
    const first = readFileSync(file!);
    expect(query(file!, '--requires')).toEqual(
      expect.arrayContaining([`kernel-uname-r = ${EL}`, `kmod-lib-${EL}`, 'kmod']),
    );
    expect(query(file!, '--provides')).toEqual(
      expect.arrayContaining([
        'acpi_call-kmod = 1.2.2-1',
        'kmod-acpi_call = 1.2.2-1',
        'installonlypkg(kernel-module)',
      ]),
    );
    const path = `/lib/modules/${EL}/extra/acpi_call/acpi_call.ko.xz`;
    const scripts = query(file!, '--scripts').join('\n');
    expect(scripts).toContain(`depmod -a "$release"`);
    expect(scripts).toContain(`printf '%s\\n' ${path} | /usr/sbin/weak-modules --add-modules`);
    expect(query(file!, '--qf', '%{BUILDTIME} %{BUILDHOST} [%{FILEMTIMES} ]')[0]).toBe(
      `${MTIME} dkms2bin ${MTIME} ${MTIME} `,
    );
    const { header, files } = await readRpmFile(file!);
    expect([header.name, header.version, header.arch]).toEqual([`kmod-acpi_call-${EL}`, '1.2.2', 'x86_64']);
    expect(files.map((each) => [each.path, each.mode, String(each.bytes())])).toEqual([[path, 0o644, 'xz%']]);
    expect(header.files.find((each) => each.path === path)?.sha256).toBe(
      (await makeRpmSpec(of)).packages[0]!.files[0]!.sha256,
    );
    rmSync(join(tmp, name));
    expect(readFileSync(Object.values(await build(of))[0]!).equals(first)).toBe(true);
  });

  it('puts what all kernels share into a package of its own', async () => {
    const relations = { ...noRelations(), depends: ['python3'], provides: ['acpi_call-tools'] };
    const sourcePackage = {
      ...{ name: 'acpi_call-dkms', version: '1.2.2-1.el9', relations },
      ...{ leader: { name: 'acpi_call', version: '1.2.2' }, notCarried: ['%post would run: udevadm 100%'] },
      overlaps: ["/usr/bin/50% is a file of the distro's package tools"],
    };
    const links = [{ path: '/usr/lib/firmware/new.bin', target: 'old.bin' }];
    const [common, main] = Object.values(await build(input({ extras: EXTRAS, links, sourcePackage })));
    expect(common).toMatch(/acpi_call-kmod-common-1\.2\.2_1\.el9-1\.noarch\.rpm$/);
    expect(query(common!, '--configfiles')).toContain('/etc/modprobe.d/acpi-call.conf');
    expect(query(common!, '--conflicts')).toContain('acpi_call-dkms');
    expect(query(common!, '--provides')).toEqual(
      expect.arrayContaining(['acpi_call-dkms = 1.2.2-1.el9', 'acpi_call-tools']),
    );
    expect(query(common!, '--requires')).toContain('python3');
    expect(query(main!, '--requires')).toContain('acpi_call-kmod-common >= 1.2.2_1.el9');
    const { files } = await readRpmFile(common!);
    expect(files.map(({ path, mode }) => [path, mode & 0o777])).toEqual([
      ...EXTRAS.map(({ path, mode }) => [path, mode]),
      ['/usr/lib/firmware/new.bin', 0o777],
    ]);
    const seen = await inspectFile(common!);
    expect(seen.notCarried).toEqual(['%post would run: udevadm 100%']);
    expect(seen.hazards).toContain("/usr/bin/50% is a file of the distro's package tools");
    expect(query(main!, '--scripts').join('\n')).toContain('dracut --force "$initramfs" "$release"');
  });

  it('carries the folders of a DKMS package, with their modes', async () => {
    const spec = [
      ...['Name: foo-dkms', 'Version: 1', 'Release: 1', 'Summary: x', 'License: x', 'BuildArch: noarch'],
      ...[
        '%description',
        'x',
        '%install',
        'cd %{buildroot}',
        'mkdir -p usr/src/foo-1/empty etc/foo.d var/lib/foo',
      ],
      ...['touch usr/src/foo-1/dkms.conf var/lib/foo/key', '%files', '/usr/src/foo-1'],
      ...['%dir /etc/foo.d', '%dir %attr(0700,root,root) /var/lib/foo', '/var/lib/foo/key', ''],
    ];
    writeFileSync(join(tmp, 'foo.spec'), spec.join('\n'));
    const into = ['--define', `_topdir ${tmp}/top`, '--define', `_rpmdir ${tmp}`];
    const name = ['--define', '_rpmfilename foo-dkms.rpm'];
    execFileSync('rpmbuild', ['-bb', ...into, ...name, join(tmp, 'foo.spec')], { stdio: 'pipe' });
    const { files, folders } = await parseRpm(readFileSync(join(tmp, 'foo-dkms.rpm')), 'foo-dkms.rpm');
    const { left, ...shared } = sharedFiles(files, folders);
    expect(left).toEqual([]);
    const [common] = Object.values(
      await build(input({ ...shared, sourcePackage: { name: 'foo-dkms', version: '1-1' } })),
    );
    expect(query(common!, '--qf', '[%{FILEMODES:perms} %{FILEMTIMES} %{FILENAMES}\n]').sort()).toEqual([
      '',
      `-rw-r--r-- ${MTIME} /var/lib/foo/key`,
      `drwx------ ${MTIME} /var/lib/foo`,
      `drwxr-xr-x ${MTIME} /etc/foo.d`,
    ]);
  });

  it('puts debug symbols where gdb and crash look for them, in a package of its own', async (ctx) => {
    if (!['gcc', 'ld', 'objcopy', 'strip', 'readelf'].every(hasTool)) ctx.skip('no compiler');
    const tool = (file: string, ...args: string[]): string => {
      const done = spawnSync(file, args, {
        cwd: tmp,
        encoding: 'utf8',
        env: { ...process.env, LC_ALL: 'C' },
      });
      if (done.status !== 0) throw new Error(`${file} ${args.join(' ')}: ${done.stdout}${done.stderr}`);
      return done.stdout;
    };
    const info = `static const char i[] __attribute__((used, section(".modinfo"))) = "vermagic=${EL} ";\n`;
    writeFileSync(join(tmp, 'source.c'), `${info}int answer(int x) { return x + 42; }\n`);
    tool('gcc', '-c', '-g', 'source.c', '-o', 'source.o');
    tool('ld', '-r', '--build-id=sha1', 'source.o', '-o', 'foo.ko');
    tool('objcopy', '--only-keep-debug', 'foo.ko', 'foo.ko.debug');
    tool('strip', '-g', 'foo.ko');
    const bytes = readFileSync(join(tmp, 'foo.ko'));
    const debug = readFileSync(join(tmp, 'foo.ko.debug'));
    const id = /Build ID: (\w+)/.exec(tool('readelf', '-n', 'foo.ko'))![1]!;

    const of = input({ module: 'foo', extras: EXTRAS, modules: [{ name: 'foo.ko', bytes, debug }] });
    const built = await build(of);
    const name = `kmod-foo-${EL}`;
    const { packages } = await makeRpmSpec(of);
    expect(packages.map(({ role, file }) => [role, file])).toEqual([
      ['common', 'foo-kmod-common-1.2.2-1.noarch.rpm'],
      ['modules', `${name}-1.2.2-1.x86_64.rpm`],
      ['debug', `${name}-debuginfo-1.2.2-1.x86_64.rpm`],
    ]);
    const [, main, symbols] = Object.values(built);
    expect(query(symbols!, '--provides')).toContain(`debuginfo(build-id) = ${id}`);
    // Symbols serve on a machine without the module, too.
    expect(
      query(symbols!, '--requires').filter((each) => each !== '' && !each.startsWith('rpmlib(')),
    ).toEqual([]);
    // The module's own package is what it is without them.
    const alone = { ...of, modules: [{ name: 'foo.ko', bytes }] };
    const before = readFileSync(main!);
    await build(alone);
    expect(readFileSync(main!).equals(before)).toBe(true);

    // What is in it, as an installation has it.
    for (const each of (await readRpmFile(symbols!)).files) {
      const to = join(tmp, each.path);
      mkdirSync(dirname(to), { recursive: true });
      if (each.target === undefined) writeFileSync(to, each.bytes());
      else symlinkSync(each.target, to);
    }
    const byName = `usr/lib/debug/lib/modules/${EL}/extra/foo/foo.ko.debug`;
    const byId = `usr/lib/debug/.build-id/${id.slice(0, 2)}/${id.slice(2)}.debug`;
    expect(tool('readelf', '--debug-dump=info', byId)).toContain('source.c');
    expect(readFileSync(join(tmp, byName)).equals(debug)).toBe(true);
    if (hasTool('gdb')) {
      const set = `set debug-file-directory ${join(tmp, 'usr/lib/debug')}`;
      const said = tool('gdb', '-nx', '-batch', '-iex', set, '-ex', 'info line answer', 'foo.ko');
      expect(said).toMatch(/Line 2 of "source\.c"/);
    }
    const first = readFileSync(symbols!);
    expect(readFileSync(Object.values(await build(of))[2]!).equals(first)).toBe(true);
  });

  it("makes SUSE's kernel module package", async () => {
    const [file] = Object.values(await build(input({ release: SUSE, form: 'kmp' })));
    expect(query(file!, '--requires')).toContain('kernel-default = 6.4.0-150600.23.25');
    expect(query(file!, '--provides')).toEqual(
      expect.arrayContaining(['multiversion(kernel)', 'acpi_call-kmp-default-k6.4.0_150600.23.25']),
    );
    const { kind, package: about, modules } = await inspectFile(file!);
    expect([kind, about?.name, modules.map((each) => [each.name, each.kernel])]).toEqual([
      'rpm',
      'acpi_call-kmp-default',
      [['acpi_call', SUSE]],
    ]);
    expect(query(file!, '-l')).toContain(`/lib/modules/${SUSE}/updates/acpi_call/acpi_call.ko`);
    expect(query(file!, '--scripts').join('\n')).toContain(
      "--add-kmp 'acpi_call-kmp-default-1.2.2_k6.4.0_150600.23.25-1'",
    );
  });
});
