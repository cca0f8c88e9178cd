import { describe, expect, test } from 'vitest';
import { Dkms2binError } from '../../../src/model/errors.js';
import type { Proof } from '../../../src/model/proof.js';
import { ProofDocument } from '../../../src/model/result-schema.js';
import type { UpgradeProof } from '../../../src/model/upgrade-proof.js';
import { cli } from '../fixtures/cli-harness.js';

const KERNEL = '6.1.0-56-amd64';

const PROOF: Proof = {
  kernel: KERNEL,
  distro: 'debian-12',
  accelerator: 'tcg',
  repository: '/home/user/project/out',
  signedBy: 'ABCD',
  pristine: true,
  enforced: null,
  installed: [{ package: `acpi-call-modules-${KERNEL}`, version: '1.2.2' }],
  fromDistro: [],
  modules: [
    {
      package: `acpi-call-modules-${KERNEL}`,
      version: '1.2.2',
      module: 'acpi_call',
      verdict: 'loaded',
      reason: null,
    },
  ],
  saved: {
    packages: 109,
    installedBytes: 453_143_552,
    downloadBytes: 112_651_276,
    instead: {
      packages: 110,
      installedBytes: 453_168_128,
      downloadBytes: 112_657_748,
      of: ['acpi-call-dkms', 'dkms', `linux-headers-${KERNEL}`],
    },
    takes: { packages: 1, installedBytes: 24_576, downloadBytes: 6472 },
  },
  phases: { boot: 1, install: 12 },
};

describe('dkms2bin prove', () => {
  test('passes on what was asked, and says what was proved and saved', async () => {
    const calls: unknown[][] = [];
    const { code, stdout } = await cli(
      ['prove', 'out', '--kernel', KERNEL, '--module', 'a', '--module', 'b', '--image', 'bootstrap'],
      {
        prove: (request, what) => {
          calls.push([request.kernels, request.image, what]);
          return Promise.resolve(PROOF);
        },
      },
    );
    expect(calls).toEqual([[[KERNEL], 'bootstrap', { dir: '/home/user/project/out', modules: ['a', 'b'] }]]);
    expect(code).toBe(0);
    expect(stdout.split('\n')[0]).toMatch(/^loaded +acpi_call +acpi-call-modules-6.1.0-56-amd64 +1\.2\.2$/);
    expect(stdout).toContain('signed by ABCD');
    expect(stdout).toContain(
      `saves 453 MB on disk (109 packages, 113 MB to download) compared with installing acpi-call-dkms, dkms and linux-headers-${KERNEL}; the package takes 0.025 MB`,
    );
  });

  test('a module that does not load is exit code 1; nobody knows what was saved without headers', async () => {
    const modules = [{ ...PROOF.modules[0]!, verdict: 'failed' as const, reason: 'Unknown\x1b symbol' }];
    const prove = () => Promise.resolve({ ...PROOF, modules, saved: null, signedBy: null });
    const { code, stdout } = await cli(['prove', 'out', '--kernel', KERNEL], { prove });
    expect(code).toBe(1);
    expect(stdout).toMatch(/^failed .*Unknown.* symbol\n/);
    expect(stdout).not.toContain('\x1b');
    expect(stdout).toContain('not signed');
    expect(stdout).toContain('unknown');
    expect(stdout).not.toContain('saves');
  });

  test('--json prints one document of the schema, of a proof and of an error', async () => {
    const argv = ['prove', 'out', '--kernel', KERNEL, '--json'];
    const good = JSON.parse((await cli(argv, { prove: () => Promise.resolve(PROOF) })).stdout) as unknown;
    expect(ProofDocument.parse(good)).toEqual({ schemaVersion: 1, ...PROOF });
    const error = new Dkms2binError('module', 'Hash Sum mismatch', { hint: 'Publish it again.' });
    const bad = await cli(argv, { prove: () => Promise.reject(error) });
    expect(bad.code).toBe(1);
    expect(ProofDocument.parse(JSON.parse(bad.stdout))).toEqual({
      schemaVersion: 1,
      error: { fault: 'module', message: 'Hash Sum mismatch', hint: 'Publish it again.' },
    });
    expect(ProofDocument.safeParse({ schemaVersion: 1, ...PROOF, pristine: false }).success).toBe(false);
  });

  test('wants a kernel', async () => {
    const { code, stderr } = await cli(['prove', 'out']);
    expect(code).toBe(2);
    expect(stderr).toContain('--kernel');
  });
});

describe('dkms2bin prove --from --to', () => {
  const [from, to] = ['6.1.0-56-amd64', '6.1.0-57-amd64'];
  const of = (kernel: string, verdict: 'loaded' | 'failed' = 'loaded') => ({
    ...{ kernel, package: `acpi-call-modules-${kernel}`, version: '1.2.2', module: 'acpi_call' },
    ...{ verdict, reason: null },
  });
  const WALK: UpgradeProof = {
    ...{ from, to, distro: 'debian-12', accelerator: 'tcg', repository: '/r', signedBy: null },
    follows: { package: 'linux-image-amd64', version: '6.1.192-3' },
    metapackages: ['acpi-call-modules-amd64'],
    held: ['upgrade', 'dist-upgrade'].map((upgrade) => ({
      ...{ upgrade, kept: true, said: 'kept back: linux-image-amd64' },
    })),
    upgraded: [{ package: `acpi-call-modules-${to}`, version: '1.2.2' }],
    modules: [of(from), of(to)],
    removed: [`acpi-call-modules-${from}`, `linux-image-${from}`],
    standIns: ['6.1.192-2'],
    phases: { boot: 3 },
  };
  const walk = (proof: UpgradeProof, ...more: string[]) =>
    cli(['prove', 'out', '--from', from, '--to', to, ...more], {
      proveUpgrade: () => Promise.resolve(proof),
    });

  test('tells each step, and in a document of its schema', async () => {
    const { code, stdout } = await walk(WALK);
    expect([code, stdout.trim().split('\n')]).toEqual([
      0,
      [
        expect.stringMatching(/^loaded +acpi_call +6\.1\.0-56-amd64$/),
        expect.stringMatching(/^kept +6\.1\.0-56-amd64 +apt upgrade +kept back: linux-image-amd64$/),
        expect.stringMatching(/^kept +6\.1\.0-56-amd64 +apt dist-upgrade +kept back/),
        expect.stringMatching(
          /^upgraded +6\.1\.0-57-amd64 +apt upgrade +acpi-call-modules-6\.1\.0-57-amd64 1\.2\.2$/,
        ),
        expect.stringMatching(/^loaded +acpi_call +6\.1\.0-57-amd64$/),
        expect.stringMatching(
          /^removed +6\.1\.0-56-amd64 +apt remove +acpi-call-modules-6\.1\.0-56-amd64, linux-image/,
        ),
        'followed linux-image-amd64 to 6.1.192-3 with acpi-call-modules-amd64',
        'the distro no longer has linux-image-amd64 6.1.192-2: one like it stood in',
      ],
    ]);
    const json = await walk(WALK, '--json');
    expect(ProofDocument.parse(JSON.parse(json.stdout))).toMatchObject({ from, to, held: WALK.held });
  });

  test.each<[string, Partial<UpgradeProof>]>([
    [
      'a kernel that went on without us',
      { held: [{ upgrade: 'upgrade', kept: false, said: '' }], upgraded: [] },
    ],
    ['a module that does not load on the new kernel', { modules: [of(from), of(to, 'failed')] }],
  ])('%s: exit code 1', async (_, more) => {
    expect((await walk({ ...WALK, ...more })).code).toBe(1);
  });

  test.each([
    [['--from', from], '--to is missing'],
    [['--to', to], '--from is missing'],
    [[], '--kernel is missing'],
    [['--from', from, '--to', to, '--kernel', to], 'cannot be used with'],
  ])('usage error %j', async (argv, message) => {
    const { code, stderr } = await cli(['prove', 'out', ...argv]);
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
  });
});
