import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { compile, networkOf } from '../../../src/cell/compile.js';
import { deliver, resultsOf } from '../../../src/cell/deliver.js';
import { pack } from '../../../src/cell/package.js';
import type { CellInput, Packaged } from '../../../src/cell/types.js';
import { verify } from '../../../src/cell/verify.js';
import { GuestDeath } from '../../../src/model/errors.js';
import type { ProgramName } from '../../../src/guest/program.js';
import {
  built,
  collected,
  opened,
  RELEASE,
  run,
  sourcePackage,
  tmp,
  withCellFolder,
} from '../fixtures/cell.js';
import { OWNERS } from '../../../src/guest/programs/file-owners.js';
import { inspectFile } from '../../../src/attest/inspect.js';
import { readDeb } from '../../../src/formats/deb.js';
import { elf, modinfo } from '../fixtures/elf.js';
import { frames, rows, type Answer } from '../fixtures/guest.js';

withCellFolder();

async function packaged(
  answers: Partial<Record<ProgramName, Answer>> = {},
  input: Partial<CellInput> = {},
  source: { brings?: string[]; bytes?: Buffer } = {},
): Promise<Packaged> {
  const usual = {
    'build.sh': built('module foo 1 built foo.ko'),
    'collect.py': { stdout: collected('foo') },
  };
  const { cell } = await opened({ ...usual, ...answers }, input, source);
  return pack(await compile(cell));
}

it('compile cuts the way out before the package’s code runs, and boots the verify VM before the files are taken', async () => {
  const { cell, calls, events } = await opened({
    'build.sh': built('module foo 1 built foo.ko'),
    'collect.py': { stdout: collected('foo') },
  });
  const { built: made, phases } = await compile(cell);
  expect(made.reports).toMatchObject([{ name: 'foo', verdict: 'built' }]);
  expect(calls.map(({ name }) => name)).toEqual([
    "umask 022; mkdir -p '/var/lib/dkms2bin' && cat > '/var/lib/dkms2bin/source.deb'",
    'build.sh',
    'collect.py',
  ]);
  expect(events).toEqual([
    'boot build',
    expect.stringMatching(/^cut after umask[^,]*$/),
    'boot verify',
    'end build',
  ]);
  expect(Object.keys(phases).sort()).toEqual(['boot', 'build', 'collect', 'dkms', 'fetch']);
  expect(phases.build).toBe(3);
  expect(run.record).toMatchObject({ live: null, kept: false });
});

it.each<[string, Partial<CellInput>, boolean, string]>([
  ['nothing', {}, false, 'none'],
  ['a login', { debug: true }, false, 'login'],
  ['a login when it fails', { keepFailed: true }, false, 'login'],
  ['a question when it fails', { onFailure: () => Promise.resolve() }, false, 'login'],
  ['packages that the host has not found', {}, true, 'egress'],
])('a build VM that needs %s of a network', async (_, input, network, expected) => {
  const { cell } = await opened({}, { debug: false, keepFailed: false, ...input });
  expect(networkOf(cell.input, { network })).toBe(expected);
});

it('pack makes a package of what was built, and a row of the results', async () => {
  const cell = await packaged();
  expect(resultsOf(cell)).toMatchObject([
    { module: 'foo', verdict: 'built', reason: null, fault: null, package: null, kernel: RELEASE },
  ]);
  const [module] = cell.modules;
  expect(module!.packed).toMatchObject({ koNames: ['foo'], needs: ['usbcore'] });
  expect(readFileSync(module!.packed!.main).length).toBeGreaterThan(100);
  expect(readdirSync(join(tmp, 'out'))).toEqual([]);
});

it.each([
  ['skipped BUILD_EXCLUSIVE', null],
  ['failed no', 'module'],
  ['error disk full', 'transient'],
])('a module that ended as %j is packed by nobody and is the fault of %s', async (end, fault) => {
  const cell = await packaged({
    'build.sh': { code: 6, stdout: rows('announce foo 1', `module foo 1 ${end}`) },
  });
  expect(cell.modules).toMatchObject([{ packed: null, result: { fault } }]);
});

it('what cannot be packed has failed: here a module for another kernel', async () => {
  const other = frames([
    ['ko', elf([['.modinfo', modinfo({ vermagic: '5.10.0 SMP ' })]])],
    ['log', 'make says\n'],
    [
      'meta',
      JSON.stringify({
        modules: [{ name: 'foo', version: '1', ko: [{ dest: 'foo.ko', blob: 0 }], log: 1 }],
      }),
    ],
  ]);
  const cell = await packaged({ 'collect.py': { stdout: other } });
  expect(cell.modules).toMatchObject([{ packed: null, result: { verdict: 'failed', fault: 'module' } }]);
  expect(cell.modules[0]!.result.reason).toContain('5.10.0');
});

it('what comes without a log of its build has failed', async () => {
  const meta = { modules: [{ name: 'foo', version: '1', ko: [{ dest: 'foo.ko', blob: 0 }] }] };
  const stdout = frames([
    ['ko', elf([['.modinfo', modinfo({ vermagic: `${RELEASE} SMP ` })]])],
    ['meta', JSON.stringify(meta)],
  ]);
  const cell = await packaged({ 'collect.py': { stdout } });
  expect(cell.modules).toMatchObject([
    { packed: null, result: { verdict: 'failed', reason: 'foo: the guest sent no log of its build' } },
  ]);
});

const verified = async (answer: Answer, input: Partial<CellInput> = {}) => {
  const cell = await verify(await packaged({ 'verify.py': answer }, input));
  return resultsOf(cell)[0]!;
};

it('verify leaves a module built that loads, or that its own init function refuses', async () => {
  expect(await verified({ stdout: rows('doing load foo', 'load foo loaded') })).toMatchObject({
    verdict: 'built',
    reason: null,
  });
  const refused = rows('doing load foo', 'load foo refused ENODEV No such device');
  expect(await verified({ stdout: refused })).toMatchObject({
    verdict: 'built',
    reason: 'installs; not loaded: foo: its init function returned ENODEV No such device',
  });
});

it('a warning of the kernel is told with the verdict; --strict makes it one', async () => {
  const stdout = rows('doing load foo', 'warn foo WARNING: at x', 'load foo loaded');
  const reason = 'the kernel warns: foo: WARNING: at x';
  expect(await verified({ stdout })).toMatchObject({ verdict: 'built', reason });
  expect(await verified({ stdout }, { strict: true })).toMatchObject({
    verdict: 'failed',
    fault: 'module',
    reason,
  });
});

it.each<[string, Answer, string]>([
  ['does not load', { code: 1, stdout: rows('load foo bad no such symbol') }, 'foo: no such symbol'],
  ['is not reported', { stdout: '' }, 'foo: nothing was reported of it'],
  ['does not install', { code: 7, stdout: rows('error depends on bar') }, 'depends on bar'],
  ['leaves files', { code: 11, stdout: rows('doing load foo', 'load foo loaded', 'error left x') }, 'left x'],
])('verify fails a module that %s', async (_, answer, reason) => {
  expect(await verified(answer)).toMatchObject({ verdict: 'failed', fault: 'module', reason });
});

/** Three modules of one source, verified by a guest that answers each round with the next of `rounds`. */
async function rounds(answers: Answer[]) {
  const more = ['announce bar 1', 'announce baz 1', 'module bar 1 built bar.ko', 'module baz 1 built baz.ko'];
  const answer = {
    get 'verify.py'() {
      return answers.shift()!;
    },
  };
  const { cell, calls, events } = await opened(
    Object.defineProperties(
      {
        'build.sh': built('module foo 1 built foo.ko', ...more),
        'collect.py': { stdout: collected('foo', 'bar', 'baz') },
      },
      Object.getOwnPropertyDescriptors(answer),
    ),
  );
  const found = resultsOf(await verify(await pack(await compile(cell))));
  const asked = calls
    .filter(({ name }) => name === 'verify.py')
    .map(({ text }) => /MODULES=(.*)/.exec(text)?.[1]);
  return {
    found: Object.fromEntries(found.map(({ module, verdict, reason }) => [module, [verdict, reason]])),
    asked,
    events,
  };
}

it('one bad module is no reason of another', async () => {
  const stdout = rows(
    'doing load foo',
    'load foo loaded',
    'load bar bad no',
    'doing load baz',
    'load baz loaded',
  );
  const { found, asked } = await rounds([{ code: 1, stdout }]);
  expect(found).toEqual({ foo: ['built', null], bar: ['failed', 'bar: no'], baz: ['built', null] });
  expect(asked).toHaveLength(1);
});

it('what a module of which the kernel died left untried is tried in a new VM', async () => {
  const dies = new GuestDeath('died', '', 'Kernel panic');
  const { found, asked, events } = await rounds([
    { stdout: rows('doing load foo', 'load foo loaded', 'doing load bar'), dies },
    { stdout: rows('doing load baz', 'load baz loaded') },
  ]);
  expect(found).toEqual({
    foo: ['built', null],
    bar: ['failed', 'bar: the kernel died while it was being loaded: Kernel panic'],
    baz: ['built', null],
  });
  expect(asked).toEqual(['["foo","bar","baz"]', '["baz"]']);
  expect(events.filter((each) => each.endsWith('verify'))).toEqual([
    'boot verify',
    'end verify',
    'boot verify',
  ]);
});

it('packages that do not install together are tried one by one', async () => {
  const stdout = (name: string): string => rows(`doing load ${name}`, `load ${name} loaded`);
  const { found, asked } = await rounds([
    { code: 7, stdout: rows('error bar is broken') },
    { stdout: stdout('foo') },
    { code: 7, stdout: rows('error bar is broken') },
    { stdout: stdout('baz') },
  ]);
  expect(found).toEqual({ foo: ['built', null], bar: ['failed', 'bar is broken'], baz: ['built', null] });
  expect(asked).toEqual(['["foo","bar","baz"]', '["foo"]', '["bar"]', '["baz"]']);
});

it('verify throws what says nothing of the module, and does nothing where it is not wanted', async () => {
  await expect(verified({ code: 20 })).rejects.toMatchObject({ fault: 'transient' });
  const cell = await packaged({ 'verify.py': { code: 20 } }, { verify: false });
  expect(await verify(cell)).toEqual({ ...cell, verified: false });
});

it('a module of another cell serves the proof and is in no result', async () => {
  const cell = await packaged(
    {
      'build.sh': built('announce lib 1', 'dependency lib 1 built lib.ko', 'module foo 1 failed no'),
      'collect.py': { stdout: collected('foo', 'lib') },
    },
    {},
    { brings: ['lib'] },
  );
  expect(cell.modules.map(({ ownedByOtherCell, packed }) => [ownedByOtherCell, packed !== null])).toEqual([
    [true, true],
    [false, false],
  ]);
  expect(resultsOf(cell).map(({ module }) => module)).toEqual(['foo']);
  const { results, records } = await deliver({ ...cell, verified: true });
  expect(records).toEqual([]);
  expect(results).toMatchObject([{ module: 'foo', verdict: 'failed', package: null }]);
  const [log] = readdirSync(join(tmp, 'out'));
  expect(results[0]!.log).toBe(join(tmp, 'out', log!));
  expect(readFileSync(join(tmp, 'out', log!), 'utf8')).toBe('make says\n');
});

it('what is packed beside the modules, and whose place it takes, is what this host read of the source package', async () => {
  const bytes = sourcePackage(
    {
      '/etc/modprobe.d/foo.conf': 'options foo x=1\ninstall e1000 /bin/false\n',
      '/usr/bin/foo-tool': '#!/bin/sh\n',
      '/usr/share/lintian/overrides/foo-dkms': 'x',
      '/boot/foo.img': 'left',
    },
    'foo-dkms',
    'Depends: dkms, foo-tools (>= 2) | bar\nProvides: foo-modules, libc6\nConflicts: foo-modules, old-foo\n',
  );
  const notes: string[] = [];
  const machine = {
    ...(await opened({})).cell.input.machine,
    emit: (event: { type: string; message?: string }) =>
      void (event.type === 'note' && notes.push(event.message!)),
  } as CellInput['machine'];
  const cell = await packaged({}, { machine }, { bytes });
  const [{ result, log, packed }] = cell.modules as [(typeof cell.modules)[0]];
  const common = await readDeb(packed!.packages[0]!.path);
  expect(common.files.map(({ path }) => path)).toEqual([
    ...['/etc/modprobe.d/foo.conf', '/usr/bin/foo-tool'],
  ]);
  expect(Object.fromEntries(common.control)).toMatchObject({
    ...{ Package: 'foo-modules-common', Version: '1-1', Depends: 'foo-tools (>= 2) | bar' },
    ...{ Conflicts: 'foo-dkms, old-foo', Replaces: 'foo-dkms' },
    Provides: 'foo-dkms (= 1-1), foo-modules',
  });
  const main = await readDeb(packed!.main);
  expect(main.control.get('Pre-Depends')).toBe('foo-modules-common (>= 1-1)');
  expect(notes).toEqual([
    '/etc/modprobe.d/foo.conf runs a command in place of loading e1000: /bin/false',
    'Relations of the source package that are not kept: Provides: libc6',
    'Not packed, of the source package: /boot/foo.img',
  ]);
  expect(result.notes).toEqual(notes);
  expect(log!.toString()).toBe(`make says\n\n${notes.map((note) => `dkms2bin: ${note}\n`).join('')}`);
});

it('what other packages of the distro have in its places is told in note, log and package, and by inspect', async () => {
  const bytes = sourcePackage({
    '/lib/udev/rules.d/90-foo.rules': '#\n',
    '/usr/bin/foo': '#!/bin/sh\n',
    '/usr/share/doc/foo-dkms/copyright': 'x',
  });
  const info = '/var/lib/dpkg/info';
  const stdout = [
    `${info}/udev.list:/usr/lib/udev/rules.d/90-foo.rules`,
    `${info}/foo-tools:amd64.list:/usr/bin/foo`,
    ...[`${info}/foo-dkms.list:/usr/bin/foo`, `${info}/x y.list:/usr/bin/foo`, `${info}/bash.list:/bin/bash`],
  ].join('\n');
  const { cell, calls, events } = await opened(
    {
      ...{ 'build.sh': built('module foo 1 built foo.ko'), 'collect.py': { stdout: collected('foo') } },
      [OWNERS.deb]: { stdout },
    },
    {},
    { bytes },
  );
  const { modules } = await pack(await compile(cell));
  const lines = [
    "/lib/udev/rules.d/90-foo.rules is a file of the distro's package udev",
    "/usr/bin/foo is a file of the distro's package foo-tools",
  ];
  const [{ result, log, packed }] = modules as [(typeof modules)[0]];
  expect(result.notes).toEqual(lines);
  for (const line of lines) expect(log!.toString()).toContain(`dkms2bin: ${line}\n`);
  expect((await inspectFile(packed!.packages[0]!.path)).hazards).toEqual(lines);
  expect(
    calls
      .find(({ name }) => name.includes("'/var/lib/dkms2bin/paths'"))!
      .text.split('\n')
      .sort(),
  ).toEqual([
    ...[
      '',
      '/bin/foo',
      '/lib/udev/rules.d/90-foo.rules',
      '/usr/bin/foo',
      '/usr/lib/udev/rules.d/90-foo.rules',
    ],
  ]);
  // By a guest that has run nothing of the package yet.
  expect(events.find((each) => each.startsWith('cut after'))).toContain(OWNERS.deb);
});

it('what the scripts of a source package would have done is told, and stands in the package', async () => {
  const source = { '/usr/src/foo-1/hook.sh': '#!/bin/sh\nmodprobe foo\n' };
  const conf = 'PACKAGE_NAME=foo\nPACKAGE_VERSION=1\nPOST_INSTALL="hook.sh"\n';
  const bytes = sourcePackage({
    ...source,
    '/usr/src/foo-2/dkms.conf': conf,
    '/usr/src/foo-2/hook.sh': source['/usr/src/foo-1/hook.sh'],
  });
  const { modules } = await packaged({}, {}, { bytes });
  const line = 'Not carried: POST_INSTALL of dkms.conf would run: modprobe foo';
  expect(modules[0]!.result.notes).toEqual([line]);
  const common = await readDeb(modules[0]!.packed!.packages[0]!.path);
  expect(common.control.get('Description')).toContain(line);
});

it('a source package that is called like one of the distro takes nobody’s place', async () => {
  const bytes = sourcePackage({ '/etc/modprobe.d/foo.conf': '#\n' }, 'libc6');
  const { modules } = await packaged({}, {}, { bytes });
  const common = await readDeb(modules[0]!.packed!.packages[0]!.path);
  expect(common.control.has('Conflicts') || common.control.has('Replaces')).toBe(false);
  expect(modules[0]!.result.notes).toMatchObject([expect.stringContaining('called libc6')]);
});

it('a package depends on no module that only the build VM names', async () => {
  const meta = JSON.stringify({
    modules: [
      {
        name: 'foo',
        version: '1',
        ko: [{ dest: 'foo.ko', blob: 0 }],
        log: 1,
        buildDepends: ['systemd', 'lib'],
      },
    ],
  });
  const ko = elf([['.modinfo', modinfo({ vermagic: `${RELEASE} SMP ` })]]);
  const stdout = frames([
    ['ko', ko],
    ['log', 'make says\n'],
    ['meta', meta],
  ]);
  const { modules } = await packaged({ 'collect.py': { stdout } });
  const { control } = await readDeb(modules[0]!.packed!.main);
  expect(control.get('Depends')).not.toMatch(/systemd|lib/);
  expect(modules[0]!.result.notes).toMatchObject([expect.stringContaining('systemd, lib')]);
});

it('a source that changed after it was looked at is not built', async () => {
  const { cell } = await opened({});
  const prepared = { ...cell.prepared, digest: 'a'.repeat(64) };
  await expect(compile({ ...cell, prepared })).rejects.toMatchObject({
    fault: 'usage',
    message: 'foo has changed while it was read',
  });
});
