import { expect, test } from 'vitest';
import { planMetapackages, type PlannedMetapackage } from '../../../src/engine/plan/metapackages.js';
import type { PublishedModule } from '../../../src/engine/plan/refresh.js';
import type { Following } from '../../../src/pack/metapackage.js';

const built = (kernel: string, more: Partial<PublishedModule> = {}): PublishedModule => ({
  ...{ module: 'acpi-call', version: '1.2.2', kernel, distro: 'debian-12', arch: 'x86_64' },
  source: { kind: 'repo', name: 'acpi-call-dkms' },
  ...{ digest: null, sourceVersion: null },
  ...more,
});

type Meta = [name: string, release: string, version: string, suite?: string];

const offer = (metas: Meta[], kernels = metas.map(([, release]) => release)) => ({
  ...{ distro: 'debian-12', arch: 'x86_64' as const, backports: new Set(['bookworm-backports']) },
  kernels: kernels.map((release) => ({ release, packageVersion: '1', suite: 'bookworm' })),
  heads: metas.map(([, release]) => release),
  metas: metas.map(([name, release, packageVersion, suite = 'bookworm']) => ({
    ...{ name, release, packageVersion, suite },
  })),
});

/** As bookworm has them: a point release, security behind it, a second line with a metapackage of its own, backports. */
const BOOKWORM: Meta[] = [
  ['linux-image-amd64', '6.1.0-50-amd64', '6.1.176-1'],
  ['linux-image-amd64', '6.1.0-57-amd64', '6.1.192-3', 'bookworm-security'],
  ['linux-image-cloud-amd64', '6.1.0-57-cloud-amd64', '6.1.192-3', 'bookworm-security'],
  ['linux-image-6.12-amd64', '6.12.117+deb12-amd64', '6.12.117-1~deb12u1', 'bookworm-security'],
  ['linux-image-amd64', '6.12.118+deb12-amd64', '6.12.118-1~bpo12+1', 'bookworm-backports'],
];

const short = ({ meta, backports, release, upTo, waitsFor }: PlannedMetapackage): unknown[] => [
  `${meta}${backports ? ' (backports)' : ''}`,
  release,
  upTo,
  waitsFor?.release ?? null,
];

const plan = (published: PublishedModule[], metas = BOOKWORM, before: Following[] = []): unknown[][] =>
  planMetapackages({ published, offers: [offer(metas)], before }).map(short);

test('each kernel metapackage whose line of kernels the module is there for is followed', () => {
  expect(plan([built('6.1.0-50-amd64'), built('6.1.0-57-amd64')])).toEqual([
    ['linux-image-amd64', '6.1.0-57-amd64', '6.1.192-3', null],
  ]);
  expect(plan([built('6.1.0-57-cloud-amd64'), built('6.12.117+deb12-amd64')])).toEqual([
    ['linux-image-cloud-amd64', '6.1.0-57-cloud-amd64', '6.1.192-3', null],
    ['linux-image-6.12-amd64', '6.12.117+deb12-amd64', '6.12.117-1~deb12u1', null],
  ]);
  expect(plan([built('6.12.118+deb12-amd64')])).toEqual([
    ['linux-image-amd64 (backports)', '6.12.118+deb12-amd64', '6.12.118-1~bpo12+1', null],
  ]);
});

test('a kernel without the module is waited for; one before it is let through', () => {
  expect(plan([built('6.1.0-50-amd64')])).toEqual([
    ['linux-image-amd64', '6.1.0-50-amd64', '6.1.192-3~', '6.1.0-57-amd64'],
  ]);
});

const said = (more: Partial<Following> = {}): Following => ({
  ...{
    distro: 'debian-12',
    arch: 'x86_64',
    module: 'acpi-call',
    meta: 'linux-image-amd64',
    backports: false,
  },
  ...{ release: '6.1.0-56-amd64', moduleVersion: '1.2.2', upTo: '6.1.190-1' },
  ...more,
});

test('which version led to the kernel is remembered, and rises with a rebuild that leads to the same one', () => {
  const kernel = built('6.1.0-56-amd64');
  expect(plan([kernel], BOOKWORM, [said()])).toEqual([
    ['linux-image-amd64', '6.1.0-56-amd64', '6.1.190-1', '6.1.0-57-amd64'],
  ]);
  const rebuilt: Meta[] = [['linux-image-amd64', '6.1.0-56-amd64', '6.1.191-1']];
  expect(plan([kernel], rebuilt, [said()])).toEqual([
    ['linux-image-amd64', '6.1.0-56-amd64', '6.1.191-1', null],
  ]);
});

test('what cannot be asked now stays as it was said', () => {
  const before = [said()];
  const planned = planMetapackages({ published: [built('6.1.0-56-amd64')], offers: [], before });
  expect(planned).toEqual([{ ...said(), waitsFor: null }]);
});

test('the newest version of a module is brought, and each module has its own', () => {
  const newer = built('6.1.0-57-amd64', { version: '1.3' });
  const other = built('6.1.0-50-amd64', { module: 'tiny' });
  const planned = planMetapackages({
    published: [newer, built('6.1.0-57-amd64'), other],
    ...{ offers: [offer(BOOKWORM)], before: [] },
  });
  expect(planned.map(({ module, moduleVersion, release }) => [module, moduleVersion, release])).toEqual([
    ['acpi-call', '1.3', '6.1.0-57-amd64'],
    ['tiny', '1.2.2', '6.1.0-50-amd64'],
  ]);
});
