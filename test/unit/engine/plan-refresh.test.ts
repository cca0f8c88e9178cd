import { describe, expect, test } from 'vitest';
import type { ModuleSource } from '../../../src/model/cell.js';
import {
  comingCells,
  missingCells,
  sourceOf,
  type PublishedModule,
  type Missing,
  type NamedSource,
  type Offer,
  type SourceNow,
  type TriedCell,
} from '../../../src/engine/plan/refresh.js';

const held = (kernel: string, more: Partial<PublishedModule> = {}): PublishedModule => ({
  ...{ module: 'acpi-call', version: '1.2.2', kernel, distro: 'debian-12', arch: 'x86_64' },
  source: { kind: 'repo', name: 'acpi-call-dkms' },
  ...{ digest: 'old', sourceVersion: '1.2.2-2' },
  ...more,
});

const offer = (distro: string, releases: string[], heads: string[]): Offer => ({
  ...{ distro, arch: 'x86_64', heads },
  kernels: releases.map((release) => ({ release, packageVersion: `v${release}`, suite: 'suite' })),
});

/** Shaped like the live archive: a second series in security, and backports behind it. */
const BOOKWORM = offer(
  'debian-12',
  [
    ...['6.1.0-9-amd64', '6.1.0-10-amd64', '6.1.0-11-amd64', '6.1.0-11-cloud-amd64'],
    ...['6.12.95+deb12-amd64', '6.12.117+deb12-amd64'],
  ],
  ['6.1.0-10-amd64', '6.1.0-11-amd64', '6.1.0-11-cloud-amd64', '6.12.117+deb12-amd64', '6.12.95+deb12-amd64'],
);
/** Backports that moved on from series to series. */
const TRIXIE = offer(
  'debian-13',
  [
    ...['6.12.107+deb13-amd64', '6.12.118+deb13-amd64', '6.16.12+deb13-amd64', '6.17.8+deb13-amd64'],
    ...['7.2.12+deb13-amd64', '7.3.4+deb13-amd64', '7.3.5+deb13-amd64'],
  ],
  ['6.12.118+deb13-amd64', '7.3.5+deb13-amd64'],
);

const repo: ModuleSource = { kind: 'repo', text: 'acpi-call-dkms', name: 'acpi-call-dkms' };
const now = (more: Partial<Exclude<SourceNow, { fault: string }>> = {}): SourceNow => ({
  ...{ module: repo, digest: 'old', version: '1.2.2-2' },
  ...more,
});
const none = { tried: [] as TriedCell[], newest: false, force: false };

const missing = (
  modules: PublishedModule[],
  {
    offers = [BOOKWORM, TRIXIE],
    source = now(),
    ...options
  }: Partial<typeof none> & {
    offers?: Offer[];
    source?: SourceNow | ((held: PublishedModule) => SourceNow);
  } = {},
): Missing =>
  missingCells(modules, offers, typeof source === 'function' ? source : () => source, {
    ...none,
    ...options,
  });

const releases = ({ cells }: Missing): string[] => cells.map(({ kernel }) => kernel.release);

describe('kernels', () => {
  test.each<[string, PublishedModule[], string[]]>([
    ['the newest is held', [held('6.1.0-11-amd64')], []],
    ['all that are newer, in natural order', [held('6.1.0-9-amd64')], ['6.1.0-10-amd64', '6.1.0-11-amd64']],
    ['only the newest one held counts', [held('6.1.0-9-amd64'), held('6.1.0-11-amd64')], []],
    [
      'the one held left the archive',
      [held('6.1.0-8-amd64')],
      ['6.1.0-9-amd64', '6.1.0-10-amd64', '6.1.0-11-amd64'],
    ],
    [
      'flavours are lines of their own',
      [held('6.1.0-11-amd64'), held('6.1.0-10-cloud-amd64')],
      ['6.1.0-11-cloud-amd64'],
    ],
    ['a flavour that is not held is not wanted', [held('6.1.0-10-amd64')], ['6.1.0-11-amd64']],
    [
      'two series, each with its own',
      [held('6.1.0-10-amd64'), held('6.12.95+deb12-amd64')],
      ['6.1.0-11-amd64', '6.12.117+deb12-amd64'],
    ],
    ['a series does not lead to the next one while it lives', [held('6.1.0-11-amd64')], []],
    [
      'a series that ended leads to the next one',
      [held('6.5.0-0.deb12.4-amd64')],
      ['6.12.95+deb12-amd64', '6.12.117+deb12-amd64'],
    ],
    [
      'backports: to where the metapackage has gone, past the series between',
      [held('6.16.3+deb13-amd64', { distro: 'debian-13' })],
      ['7.3.4+deb13-amd64', '7.3.5+deb13-amd64'],
    ],
    [
      'of two series of one line the newer one is what is held',
      [
        held('6.16.3+deb13-amd64', { distro: 'debian-13' }),
        held('7.3.4+deb13-amd64', { distro: 'debian-13' }),
      ],
      ['7.3.5+deb13-amd64'],
    ],
    ['newer than all that is offered', [held('7.4.1+deb13-amd64', { distro: 'debian-13' })], []],
    ['a distro of which nothing is known', [held('6.1.0-9-amd64', { distro: 'debian-9' })], []],
    ['a kernel of the own making', [held('6.1.0-mine')], []],
  ])('%s', (_, modules, expected) => {
    expect(releases(missing(modules))).toEqual(expected);
  });

  test('--newest: one of each line', () => {
    const modules = [held('6.1.0-8-amd64'), held('6.12.95+deb12-amd64')];
    expect(releases(missing(modules, { newest: true }))).toEqual(['6.1.0-11-amd64', '6.12.117+deb12-amd64']);
  });

  test('without metapackages the newest kernel is where all go', () => {
    const el9 = offer('centos-9', ['5.14.0-9.el9.x86_64', '5.14.0-10.el9.x86_64'], []);
    const modules = [held('5.14.0-9.el9.x86_64', { distro: 'centos-9' })];
    expect(releases(missing(modules, { offers: [el9] }))).toEqual(['5.14.0-10.el9.x86_64']);
  });

  test('two distros, each from its own archive', () => {
    const modules = [held('6.1.0-10-amd64'), held('6.12.107+deb13-amd64', { distro: 'debian-13' })];
    expect(missing(modules).cells.map(({ distro, kernel }) => [distro, kernel.release])).toEqual([
      ['debian-12', '6.1.0-11-amd64'],
      ['debian-13', '6.12.118+deb13-amd64'],
    ]);
  });

  test('two architectures of one release are two cells', () => {
    const arm = 'aarch64' as 'x86_64';
    const modules = [held('6.1.0-10-amd64'), held('6.1.0-10-amd64', { arch: arm })];
    const { cells } = missing(modules, { offers: [BOOKWORM, { ...BOOKWORM, arch: arm }] });
    expect(cells.map(({ arch, kernel }) => [arch, kernel.release])).toEqual([
      ['x86_64', '6.1.0-11-amd64'],
      [arm, '6.1.0-11-amd64'],
    ]);
  });

  test('modules of one source are one cell, of two sources two', () => {
    const local: ModuleSource = { kind: 'folder', text: './v', path: '/v' };
    const modules = [
      held('6.1.0-10-amd64', { module: 'a' }),
      held('6.1.0-10-amd64', { module: 'b' }),
      held('6.1.0-10-amd64', { module: 'v', source: { kind: 'folder', name: 'v' } }),
    ];
    const source = ({ module }: PublishedModule): SourceNow =>
      module === 'v' ? now({ module: local, version: null }) : now();
    expect(missing(modules, { source }).cells.map((cell) => [cell.modules, cell.source.text])).toEqual([
      [['a', 'b'], 'acpi-call-dkms'],
      [['v'], './v'],
    ]);
  });
});

describe('sources', () => {
  const newest = [held('6.1.0-10-amd64'), held('6.1.0-11-amd64')];

  test('a branch that moved: the newest kernel again, also when the folder of the module is the same', () => {
    const origin = { url: 'https://forge.example/o/r.git', commit: '1'.repeat(40) };
    const text = 'https://forge.example/o/r.git#main:src';
    const published = newest.map((each) => ({
      ...each,
      source: { kind: 'tarball' as const, name: text, origin },
    }));
    const at = (commit: string): SourceNow => ({
      module: { kind: 'tarball', text, path: '/c/r.tar', origin: { ...origin, commit } },
      ...{ digest: published[1]!.digest!, version: null },
    });
    expect(missing(published, { source: at('2'.repeat(40)) }).cells).toMatchObject([
      { kernel: { release: '6.1.0-11-amd64' }, why: 'new commit 111111111111 → 222222222222' },
    ]);
    expect(missing(published, { source: at(origin.commit) }).cells).toEqual([]);
    expect(sourceOf(published[0]!, [])).toEqual({ fetch: text });
  });

  test('a newer version: the newest kernel again', () => {
    const { cells } = missing(newest, { source: now({ digest: 'new', version: '1.2.2-10' }) });
    expect(cells).toMatchObject([
      {
        kernel: { release: '6.1.0-11-amd64' },
        version: '1.2.2-10',
        why: 'new module version 1.2.2-2 → 1.2.2-10',
      },
    ]);
  });

  test.each<[string, SourceNow]>([
    ['an older version', now({ digest: 'new', version: '1.2.2-1' })],
    ['the same version with other bytes', now({ digest: 'new' })],
    ['a source that is gone', { fault: 'not-found', reason: 'gone' }],
  ])('%s is no reason', (_, source) => {
    expect(missing(newest, { source })).toEqual({ cells: [], blocked: [] });
  });

  test('a local source is judged by its bytes', () => {
    const local = { module: { kind: 'folder', text: 't', path: '/t' } as const, version: null };
    const folder = [held('6.1.0-11-amd64', { sourceVersion: null })];
    expect(missing(folder, { source: now(local) }).cells).toEqual([]);
    const { cells } = missing(folder, { source: now({ ...local, digest: 'new' }) });
    expect(cells).toMatchObject([{ why: 'changed source', version: null }]);
  });

  test('with a new kernel the new version comes along, once', () => {
    const { cells } = missing([held('6.1.0-10-amd64')], { source: now({ digest: 'new', version: '2' }) });
    expect(cells).toMatchObject([{ kernel: { release: '6.1.0-11-amd64' }, why: 'new kernel', version: '2' }]);
  });

  test('the version last built for the newest kernel is what is held', () => {
    const both = [
      held('6.1.0-11-amd64'),
      held('6.1.0-11-amd64', { version: '1.2.3', sourceVersion: '1.2.3-1', digest: 'new' }),
    ];
    expect(missing(both, { source: now({ digest: 'new', version: '1.2.3-1' }) }).cells).toEqual([]);
  });

  test('an unknown source is told when there is a kernel to build for', () => {
    const source: SourceNow = { fault: 'usage', reason: 'unknown' };
    expect(missing([held('6.1.0-10-amd64')], { source })).toMatchObject({
      cells: [],
      blocked: [{ modules: ['acpi-call'], kernel: '6.1.0-11-amd64', fault: 'usage', reason: 'unknown' }],
    });
  });
});

describe('where a source is now', () => {
  const folder = (path: string): ModuleSource => ({ kind: 'folder', text: path, path });
  const local = (name: string): PublishedModule =>
    held('6.1.0-11-amd64', { module: 'acpi_call', source: { kind: 'folder', name } });
  const pinned = held('6.1.0-11-amd64', { source: { kind: 'repo', name: 'acpi-call-dkms=1.2.2-2' } });
  const at = (module: PublishedModule, ...known: NamedSource[]): ModuleSource | string => {
    const place = sourceOf(module, known);
    return 'fetch' in place ? place.fetch : place.source;
  };

  test.each<[string, PublishedModule, NamedSource]>([
    [
      'of the module, whatever it is called',
      local('src'),
      { source: folder('/x/other'), names: ['acpi-call'] },
    ],
    ['called the same', local('src'), { source: folder('/x/src'), names: [] }],
    ['a package of the distro, once a pinned version', pinned, { source: repo, names: ['acpi'] }],
    ['a folder instead of a package', pinned, { source: folder('/x'), names: ['acpi_call'] }],
  ])('the one of --dkms: %s', (_, module, named) => {
    const stranger = { source: folder('/stranger'), names: ['stranger'] };
    expect(sourceOf(module, [stranger, named])).toEqual({ source: named.source, named });
  });

  test('what brings the module comes before what is called the same', () => {
    const known = [
      { source: folder('/a/src'), names: ['other'] },
      { source: folder('/b/new'), names: ['acpi_call'] },
    ];
    expect(at(local('src'), ...known)).toEqual(folder('/b/new'));
  });

  test('a package of the distro keeps the version that was asked for', () => {
    expect(at(pinned)).toMatchObject({ kind: 'repo', name: 'acpi-call-dkms', version: '1.2.2-2' });
  });

  test('a folder must be named, and one of another kind is not it', () => {
    expect(() => at(local('src'))).toThrow(/the folder src, .*not recorded/);
    const tarball = { source: { kind: 'tarball', text: 'src', path: '/src' } as const, names: [] };
    expect(() => at(local('src'), tarball)).toThrow(expect.objectContaining({ fault: 'usage' }) as Error);
  });

  test('provenance with a name that is none is refused', () => {
    const forged = held('6.1.0-11-amd64', { source: { kind: 'repo', name: '../x; rm' } });
    expect(() => at(forged)).toThrow(expect.objectContaining({ fault: 'usage' }) as Error);
  });
});

describe('what was tried', () => {
  const entry: TriedCell = {
    ...{ module: 'acpi-call', kernel: '6.1.0-11-amd64', packageVersion: 'v6.1.0-11-amd64' },
    ...{ distro: 'debian-12', arch: 'x86_64', digest: 'old', verdict: 'failed', reason: 'no such function' },
  };
  const modules = [held('6.1.0-10-amd64')];

  test('a failure is told and not repeated', () => {
    const { cells, blocked } = missing(modules, { tried: [entry] });
    expect(cells).toEqual([]);
    expect(blocked).toMatchObject([{ fault: 'module', kernel: '6.1.0-11-amd64' }]);
    expect(blocked[0]!.reason).toContain('no such function');
  });

  test('a module that is not for the kernel is neither', () => {
    expect(missing(modules, { tried: [{ ...entry, verdict: 'skipped' }] })).toEqual({
      cells: [],
      blocked: [],
    });
  });

  test.each<[string, Parameters<typeof missing>[1]]>([
    ['the source changed', { source: now({ digest: 'new', version: '1.3-1' }) }],
    ['the kernel was built anew', { tried: [{ ...entry, packageVersion: 'older' }] }],
    ['it was another module', { tried: [{ ...entry, module: 'other' }] }],
    ['it was another distro', { tried: [{ ...entry, distro: 'debian-13' }] }],
    ['--force', { force: true }],
  ])('tried again: %s', (_, more) => {
    expect(releases(missing(modules, { tried: [entry], ...more }))).toEqual(['6.1.0-11-amd64']);
  });

  test('the same package made of another source is no change, but no package of another kernel either', () => {
    const built = [{ ...entry, verdict: 'built' as const, digest: 'new' }];
    const source = now({ digest: 'new', version: '1.3-1' });
    expect(releases(missing([held('6.1.0-11-amd64')], { source, tried: built }))).toEqual([]);
    expect(releases(missing(modules, { source, tried: built }))).toEqual(['6.1.0-11-amd64']);
  });

  test('the module of a source that gave no package does not keep the others back', () => {
    const both = [held('6.1.0-10-amd64', { module: 'a' }), held('6.1.0-10-amd64', { module: 'b' })];
    const { cells } = missing(both, { tried: [{ ...entry, module: 'a', verdict: 'skipped' }] });
    expect(cells.map((cell) => cell.modules)).toEqual([['b']]);
  });
});

describe('coming kernels', () => {
  const of = 'debian-12';
  const coming = (modules: PublishedModule[], to: Offer, source: SourceNow = now()): Missing =>
    comingCells(modules, [{ of, offer: to, why: 'why' }], () => source);
  const backports = offer(of, ['6.12.90+deb12-amd64', '6.12.95+deb12-amd64'], ['6.12.95+deb12-amd64']);

  test.each<[string, PublishedModule[], Offer, string[]]>([
    ['the newest of backports', [held('6.1.0-11-amd64')], backports, ['6.12.95+deb12-amd64']],
    ['not what is held', [held('6.12.95+deb12-amd64')], backports, []],
    ['nor older than what is held', [held('6.12.117+deb12-amd64')], backports, []],
    [
      'proposed: newer than what is held',
      [held('6.1.0-11-amd64')],
      offer(of, ['6.1.0-12-amd64'], []),
      ['6.1.0-12-amd64'],
    ],
    ['an empty suite', [held('6.1.0-11-amd64')], offer(of, [], []), []],
    ['a flavour that it lacks', [held('6.1.0-11-rt-amd64')], backports, []],
    [
      'the next release: the kernel that it boots, not a newer series besides',
      [held('6.1.0-11-amd64'), held('6.12.117+deb12-amd64')],
      TRIXIE,
      ['6.12.118+deb13-amd64'],
    ],
    ['another distro is not asked for', [held('6.1.0-11-amd64', { distro: 'debian-11' })], TRIXIE, []],
  ])('%s', (_, modules, to, expected) => {
    const { cells } = coming(modules, to);
    expect(releases({ cells, blocked: [] })).toEqual(expected);
    for (const cell of cells) expect(cell.distro).toBe(to.distro);
  });

  test('an unknown source blocks', () => {
    const { cells, blocked } = coming([held('6.1.0-11-amd64')], backports, {
      fault: 'usage',
      reason: 'unknown',
    });
    expect([cells, blocked]).toMatchObject([[], [{ kernel: '6.12.95+deb12-amd64', distro: of }]]);
  });
});
