import { describe, expect, test } from 'vitest';
import { identityOf, type LayeredInputs, type PlannedInputs } from '../../../src/cell/identity.js';
import { jobIdOf, type CellJob } from '../../../src/engine/queue/protocol.js';
import { buildRequest, identityOptions } from '../../../src/options/request.js';

const target = {
  release: '6.1.0-56-amd64',
  distro: 'debian-12',
  arch: 'x86_64',
  packageVersion: '1',
} as const;
const common = {
  sources: [
    { kind: 'folder', sha256: 'a' },
    { kind: 'folder', sha256: 'b' },
  ],
  target,
  signer: null,
} satisfies Partial<PlannedInputs>;
const planned: PlannedInputs = {
  ...common,
  options: identityOptions(buildRequest({})),
  order: { image: 'auto', checkReproducible: false },
  ...{ buildPackages: [], kernelPackages: ['c', 'd'], attester: null },
};
const layered: LayeredInputs = {
  ...common,
  options: planned.options,
  layer: 'layer',
};

type Change = Partial<Omit<PlannedInputs, 'order'>> & {
  order?: Partial<PlannedInputs['order']>;
  layer?: string;
};
const changed = (inputs: LayeredInputs | PlannedInputs, { order, ...change }: Change): string =>
  identityOf({ ...inputs, ...change, order: { ...planned.order, ...order } });

const optionsWith = (values: Parameters<typeof buildRequest>[0]): PlannedInputs['options'] =>
  identityOptions(buildRequest(values));

/** What counts at both levels. */
const BOTH: [string, Change][] = [
  ['the content of the source', { sources: [{ kind: 'folder', sha256: 'x' }, ...common.sources.slice(1)] }],
  [
    'the content of a build dependency',
    { sources: [...common.sources.slice(0, 1), { kind: 'deb', sha256: 'x' }] },
  ],
  ['one build dependency less', { sources: common.sources.slice(0, 1) }],
  ['the kind of the source', { sources: [{ kind: 'tarball', sha256: 'a' }, ...common.sources.slice(1)] }],
  ['the kernel', { target: { ...target, release: '6.1.0-57-amd64' } }],
  ['the distro', { target: { ...target, distro: 'debian-13' } }],
  ['the architecture', { target: { ...target, arch: 'aarch64' } }],
  ["the modules' signer", { signer: 'e' }],
  ['--name-style', { options: optionsWith({ nameStyle: 'dkms' }) }],
  ['--no-verify', { options: optionsWith({ verify: false }) }],
  ['--strict', { options: optionsWith({ strict: true }) }],
  ['--debug-symbols', { options: optionsWith({ debugSymbols: true }) }],
];
const PLANNED: [string, Change][] = [
  ['the version of the kernel package', { target: { ...target, packageVersion: '2' } }],
  ['its suite', { target: { ...target, suite: 'bookworm-backports' } }],
  ['its archive', { target: { ...target, archive: { uri: 'http://a.example', suite: 's' } } }],
  ['its files', { target: { ...target, files: [{ url: 'http://a.example/k.deb', sha256: 'f' }] } }],
  ['a --build-package', { buildPackages: ['bc'] }],
  ['the content of a --kernel-package', { kernelPackages: ['c', 'x'] }],
  ['--image', { order: { image: 'bootstrap' } }],
  ['--mirror', { order: { mirror: 'http://m.example' } }],
  ['--archive', { order: { archive: 'http://m.example' } }],
  ['--check-reproducible', { order: { checkReproducible: true } }],
  ["the provenance's signer", { attester: 'k' }],
];

describe('the identity before there is a layer', () => {
  test.each([...BOTH, ...PLANNED])('is another one by %s', (_, change) => {
    expect(changed(planned, change)).not.toBe(identityOf(planned));
  });

  test.each<[string, Change]>([
    ['nothing', {}],
    ['the order of kernel packages', { kernelPackages: ['d', 'c'] }],
  ])('is the same by %s', (_, change) => expect(changed(planned, change)).toBe(identityOf(planned)));

  test('where a file of an archive lies does not count, its digest does', () => {
    const from = (host: string, sha256: string): string =>
      changed(planned, { target: { ...target, files: [{ url: `http://${host}/k.deb`, sha256 }] } });
    expect(from('a.example', 'f')).toBe(from('b.example', 'f'));
    expect(from('a.example', 'f')).not.toBe(from('a.example', 'e'));
  });

  test('an option that changes nothing of what comes out is none of it', () => {
    const request = buildRequest({
      cpus: 7,
      jobs: 3,
      accel: 'tcg',
      outDir: '/x',
      force: true,
      proxy: 'http://p',
    });
    expect(identityOptions(request)).toEqual(planned.options);
  });
});

describe('the identity with a layer', () => {
  test.each([...BOTH, ['the layer', { layer: 'other' }] satisfies [string, Change]])(
    'is another one by %s',
    (_, change) => expect(changed(layered, change)).not.toBe(identityOf(layered)),
  );

  // The layer's name holds the first, and provenance is signed again without a build.
  test.each(PLANNED)('is the same by %s', (_, change) => {
    expect(changed(layered, change)).toBe(identityOf(layered));
  });
});

describe('the id of a job', () => {
  const job: CellJob = {
    source: { kind: 'folder', text: './a', file: 'a', sha256: 'a'.repeat(64) },
    otherSources: [],
    kernel: { release: target.release },
    buildPackages: [],
    kernelPackages: [{ file: 'k.deb', sha256: 'b'.repeat(64) }],
    need: { distro: 'debian-12', arch: 'x86_64', accelerator: null, signer: null },
    ...{ image: 'auto', nameStyle: 'release', verify: true, strict: false, debugSymbols: false },
    ...{ checkReproducible: false, timeoutSeconds: 60 },
  };

  test('is the identity of its inputs', () => {
    const other = { ...job, kernelPackages: [{ file: 'k.deb', sha256: 'c'.repeat(64) }] };
    expect(jobIdOf(job, null)).toMatch(/^cell-[0-9a-f]{40}$/);
    expect(jobIdOf(other, null)).not.toBe(jobIdOf(job, null));
    expect(jobIdOf({ ...job, need: { ...job.need, signer: 'f'.repeat(64) } }, null)).not.toBe(
      jobIdOf(job, null),
    );
  });

  test('names and patience are none of it', () => {
    const renamed: CellJob = {
      ...job,
      source: { kind: 'folder', text: '/elsewhere/b', file: 'b', sha256: 'a'.repeat(64) },
      buildPackages: [],
      kernelPackages: [{ file: 'other.deb', sha256: 'b'.repeat(64) }],
      timeoutSeconds: 7200,
    };
    expect(jobIdOf(renamed, null)).toBe(jobIdOf(job, null));
  });

  test("a distro's package is what its index says, or else its name", () => {
    const repo: CellJob = { ...job, source: { kind: 'repo', text: 'a', name: 'a' } };
    const ids = [jobIdOf(repo, 'x'), jobIdOf(repo, 'y'), jobIdOf(repo, null)];
    const named = jobIdOf({ ...job, source: { kind: 'repo', text: 'b', name: 'b' } }, null);
    expect(new Set([...ids, named]).size).toBe(4);
    expect(jobIdOf({ ...job, source: { kind: 'repo', text: 'a=1', name: 'a', version: '1' } }, 'x')).toBe(
      ids[0],
    );
  });
});
