import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { EPOCH } from '../../../src/cell/source.js';
import { loadCatalogue } from '../../../src/distro/catalogue.js';
import type { MetaEntry } from '../../../src/distro/kernel-index.js';
import { modulesOfPackages } from '../../../src/engine/published-modules.js';
import type { PublishedModule } from '../../../src/engine/plan/refresh.js';
import { updateRpmMetapackages, type RpmMetapackage } from '../../../src/engine/rpm-metapackages.js';
import { relationText } from '../../../src/formats/rpm-header.js';
import type { Event } from '../../../src/model/events.js';
import { scan, type RpmFile } from '../../../src/repo/package-files.js';

let dir: string;
let warnings: string[];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dk2b-rpm-meta-'));
  warnings = [];
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const built = (kernel: string, more: Partial<PublishedModule> = {}): PublishedModule => ({
  ...{ module: 'foo', version: '1.2', kernel, distro: 'alma-9', arch: 'x86_64' },
  source: { kind: 'folder', name: 'foo' },
  ...{ digest: null, sourceVersion: null },
  ...more,
});
const EL = (n: number, variant = ''): string => `5.14.0-${n}.el9.x86_64${variant}`;
const LEAP = (n: number): string => `6.4.0-150600.23.${n}-default`;
const head = (name: string, release: string, packageVersion: string): MetaEntry => ({
  ...{ name, release, packageVersion, suite: 'baseos' },
});

async function update(
  published: PublishedModule[],
  { metas = [], hold = true }: { metas?: MetaEntry[]; hold?: boolean } = {},
): Promise<RpmMetapackage[]> {
  const { signal } = new AbortController();
  const emit = (event: Event): void => {
    if (event.type === 'note') warnings.push(event.message);
  };
  const rows = new Map((await loadCatalogue()).map((row) => [row.id, row]));
  const { packages } = await scan(dir, signal);
  const offers = [{ distro: 'alma-9', arch: 'x86_64' as const, metas }];
  return updateRpmMetapackages(dir, { published, packages, rows, offers, hold, emit });
}

async function files(): Promise<RpmFile[]> {
  const { packages, leftOut } = await scan(dir, new AbortController().signal);
  expect(leftOut).toEqual([]);
  return packages.filter((each) => each.format === 'rpm');
}

test('one of each variant, in a version for each kernel; the newest says what is waited for', async () => {
  const made = await update([built(EL(427)), built(EL(503)), built(EL(503, '+rt')), built(EL(70))], {
    metas: [
      head('kernel-core', EL(570), '5.14.0-570.el9'),
      head('kernel-rt-core', EL(503, '+rt'), '5.14.0-503.el9'),
    ],
  });
  expect(made).toMatchObject([
    {
      ...{ name: 'kmod-foo', image: 'kernel-core', distro: 'alma-9', kernel: EL(503) },
      waitsFor: { meta: 'kernel-core', release: EL(570), packageVersion: '5.14.0-570.el9' },
    },
    { name: 'kmod-foo-rt', image: 'kernel-rt-core', kernel: EL(503, '+rt'), waitsFor: null },
  ]);
  expect((await files()).map(({ path }) => path)).toEqual([
    ...[70, 427, 503].map((n) => `kmod-foo-5.14.0_${n}.el9-1.2.x86_64.rpm`),
    'kmod-foo-rt-5.14.0_503.el9-1.2.x86_64.rpm',
  ]);
  // They are no modules that lack provenance.
  expect(await modulesOfPackages(dir, await files())).toEqual({ published: [], unknown: [] });
});

test('the bytes are a function of what it follows, and nothing in it holds when it is not to', async () => {
  await update([built(EL(503))]);
  const [first] = await files();
  expect(first?.header).toMatchObject({ buildTime: EPOCH, payload: { format: 'cpio', compressor: 'gzip' } });
  expect(first?.header.files).toMatchObject([
    { path: '/etc/dnf/plugins/protected-kmods.d/kmod-foo.conf', type: 'file', mode: 0o100644 },
  ]);
  await update([built(EL(503))]);
  expect((await files())[0]?.sha256).toBe(first?.sha256);
  await update([built(EL(503)), built(LEAP(25), { distro: 'opensuse-leap-15.6', module: 'bar' })], {
    hold: false,
  });
  for (const { header } of await files()) {
    expect([header.files, header.relations.conflicts, header.relations.recommends]).toEqual([[], [], []]);
  }
});

test('SUSE’s keeps the next kernel away, and takes the place of older modules for its kernel, whenever they went', async () => {
  const leap = (version: string): PublishedModule =>
    built(LEAP(25), { version, distro: 'opensuse-leap-15.6' });
  const made = await update([leap('1.10'), leap('1.2')]);
  expect(made).toMatchObject([{ name: 'foo-kmp-default-meta', image: 'kernel-default', kernel: LEAP(25) }]);
  const relations = async (): Promise<string[][]> => {
    const newest = (await files()).find(({ version }) => version === '6.4.0_150600.23.25-1.10');
    const { requires = [], conflicts = [], obsoletes = [] } = newest?.header.relations ?? {};
    return [requires, conflicts, obsoletes].map((each) =>
      each.map(relationText).filter((text) => !text.startsWith('rpmlib')),
    );
  };
  const whole = [
    [
      ...['kernel-default = 6.4.0-150600.23.25', 'foo-kmp-default >= 1.10_k6.4.0_150600.23.25-1'],
      'foo-kmp-default-k6.4.0_150600.23.25',
    ],
    ['kernel-default > 6.4.0-150600.23.25.99999'],
    ['foo-kmp-default = 1.2_k6.4.0_150600.23.25-1'],
  ];
  expect(await relations()).toEqual(whole);
  await update([leap('1.10')]);
  expect(await relations()).toEqual(whole);
});

test('it goes with the last package for its kernel', async () => {
  await update([built(EL(427)), built(EL(503))]);
  await writeFile(join(dir, 'other.txt'), '');
  await update([built(EL(503))]);
  expect((await readdir(dir)).sort()).toEqual(['kmod-foo-5.14.0_503.el9-1.2.x86_64.rpm', 'other.txt']);
});

test('none for the kernels of several distros, which one folder cannot serve', async () => {
  expect(await update([built(EL(503)), built('6.11.4-301.fc43.x86_64', { distro: 'fedora-43' })])).toEqual(
    [],
  );
  expect(warnings).toEqual([
    'No kmod-foo is made: the folder has foo for the kernels of several distros. Give each distro with .rpm packages a folder of its own.',
  ]);
});
