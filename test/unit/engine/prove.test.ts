import { execFileSync } from 'node:child_process';
import { rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { connect, createServer as createSocketServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { choosePackages, proverOf } from '../../../src/engine/prove.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import type { Proof } from '../../../src/model/proof.js';
import { findRow, loadCatalogue } from '../../../src/distro/catalogue.js';
import { ProofDocument } from '../../../src/model/result-schema.js';
import { kernelsOf, modulesFor, readOffer } from '../../../src/repo/index.js';
import { forwardTo } from '../../../src/vm/forward.js';
import { cli } from '../fixtures/cli-harness.js';
import { hasTool } from '../fixtures/elf.js';
import { addDeb, makeKey, publishQuietly, tempFolder } from '../fixtures/repository.js';

const KERNEL = '6.1.0-56-amd64';

let tmp: ReturnType<typeof tempFolder>;
beforeEach(() => (tmp = tempFolder()));
afterEach(() => tmp.remove());

describe('what a repository offers', () => {
  test('is read from what was published: the newest version of each module for a kernel', async () => {
    for (const [name, version] of [
      [`acpi-call-modules-${KERNEL}`, '1.9'],
      [`acpi-call-modules-${KERNEL}`, '1.10'],
      [`tiny-modules-${KERNEL}`, '1'],
      ['tiny-modules-6.12.117+deb12-amd64', '1'],
      ['tiny-modules-common', '1'],
      ['something-else', '1'],
    ] as const)
      addDeb(tmp.path, name, version);
    const keys = tempFolder();
    const { key } = await makeKey(keys.path);
    await publishQuietly(tmp.path, { key });
    keys.remove();
    // Not published: nobody is offered it.
    addDeb(tmp.path, `late-modules-${KERNEL}`, '1');

    const offer = await readOffer(tmp.path);
    expect(offer.signedBy).toBe(key!.fingerprint);
    expect(kernelsOf(offer)).toEqual([KERNEL, '6.12.117+deb12-amd64']);
    const modules = modulesFor(offer, KERNEL);
    expect([...modules].map(([name, { version }]) => [name, version])).toEqual([
      ['acpi-call', '1.10'],
      ['tiny', '1'],
    ]);
    expect(modules.get('tiny')!.installedBytes % 1024).toBe(0);
    expect(modules.get('tiny')!.installedBytes).toBeGreaterThan(0);
    expect(modules.get('tiny')!.downloadBytes).toBeGreaterThan(0);

    const names = (wanted: string[]) => choosePackages(offer, KERNEL, wanted).map(({ name }) => name);
    expect(names([])).toHaveLength(2);
    for (const form of ['acpi_call', 'acpi-call', `acpi-call-modules-${KERNEL}`])
      expect(names([form])).toEqual([`acpi-call-modules-${KERNEL}`]);
    expect(() => names(['nope'])).toThrow(
      expect.objectContaining({ fault: 'not-found', hint: 'It has: acpi-call, tiny' }),
    );
    expect(() => choosePackages(offer, '6.1.0-1-amd64', [])).toThrow(
      expect.objectContaining({
        fault: 'not-found',
        hint: `It has some for: ${KERNEL}, 6.12.117+deb12-amd64`,
      }),
    );
  });

  test('.rpm packages are offered to dnf, by the same names', async (ctx) => {
    if (!hasTool('rpmbuild')) ctx.skip('no rpmbuild');
    const el = '5.14.0-503.11.1.el9_5.x86_64';
    const rpm = (name: string, version: string): string =>
      [
        `Name: ${name}`,
        `Version: ${version}`,
        'Release: 1',
        'Summary: x',
        'License: GPL-2.0-only',
        'BuildArch: noarch',
        '%description',
        '%install',
        'mkdir -p %{buildroot}/opt; echo text >%{buildroot}/opt/%{name}',
        '%files',
        '/opt/*',
      ].join('\n');
    const specs = [
      rpm(`kmod-acpi_call-${el}`, '1.9'),
      rpm(`kmod-acpi_call-${el}`, '1.10'),
      rpm(`kmod-acpi_call-${el}-debuginfo`, '1.10'),
      rpm('kmod-tiny-2-5.14.0-570.el9.x86_64', '1'),
      rpm('acpi_call-kmod-common', '1.10'),
    ];
    const build = tempFolder();
    specs.forEach((spec, at) => {
      const file = join(build.path, `${at}.spec`);
      writeFileSync(file, spec);
      execFileSync(
        'rpmbuild',
        ['-bb', '--quiet', '--define', `_topdir ${build.path}`, '--define', `_rpmdir ${tmp.path}`, file],
        { stdio: 'ignore' },
      );
    });
    const { key } = await makeKey(build.path);
    await publishQuietly(tmp.path, { key });
    build.remove();

    const offer = await readOffer(tmp.path);
    expect(offer.signedBy).toBe(key!.fingerprint);
    expect(kernelsOf(offer)).toEqual([el, '5.14.0-570.el9.x86_64']);
    expect([...modulesFor(offer, '5.14.0-570.el9.x86_64').keys()]).toEqual(['tiny-2']);
    for (const wanted of ['acpi_call', 'acpi-call', `kmod-acpi_call-${el}`]) {
      const [found] = choosePackages(offer, el, [wanted]);
      expect(found).toMatchObject({ form: 'rpm', name: `kmod-acpi_call-${el}`, version: '1.10-1' });
      expect(found!.installedBytes).toBe('text\n'.length);
      expect(found!.downloadBytes).toBe(statSync(join(tmp.path, found!.path)).size);
    }
    // Another kind of machine takes none of them.
    const rows = await loadCatalogue();
    const packages = choosePackages(offer, el, []);
    expect(proverOf(findRow(rows, 'rocky-9'), packages)).toBe('dnf');
    expect(() => proverOf(findRow(rows, 'debian-12'), packages)).toThrow(/takes no \.rpm packages/);
    expect(() => proverOf(findRow(rows, 'tumbleweed'), packages)).toThrow(/prove knows apt and dnf/);
  });

  test('a folder that was not published, or whose key is gone, is refused with the next step', async () => {
    addDeb(tmp.path, `tiny-modules-${KERNEL}`, '1');
    await expect(readOffer(tmp.path)).rejects.toMatchObject({
      fault: 'usage',
      hint: `Make it one: dkms2bin repo ${tmp.path}`,
    });
    await publishQuietly(tmp.path);
    expect((await readOffer(tmp.path)).signedBy).toBeNull();
    writeFileSync(join(tmp.path, 'InRelease'), 'signed');
    rmSync(join(tmp.path, 'dkms2bin-archive-keyring.asc'), { force: true });
    await expect(readOffer(tmp.path)).rejects.toMatchObject({ fault: 'usage' });
  });
});

test('one stream carries one HTTP connection after the other, also after the server hung up', async () => {
  const big = Buffer.alloc(3_000_000, 'x');
  const server: Server = createServer((request, response) => {
    response.end(request.url === '/big' ? big : request.url);
  });
  server.keepAliveTimeout = 50;
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  // QEMU's end: all of a guest's connections are one stream.
  const path = join(tmp.path, 'forward');
  const qemu = createSocketServer();
  const stream = new Promise<Socket>((done) => qemu.once('connection', done));
  await new Promise<void>((done) => qemu.listen(path, done));
  const forward = forwardTo((server.address() as AddressInfo).port, path);
  const guest = await stream;
  const get = async (target: string, more = ''): Promise<string> => {
    guest.write(`GET ${target} HTTP/1.1\r\nHost: x\r\n${more}\r\n`);
    let text = '';
    for (;;) {
      const [head, body] = text.split('\r\n\r\n', 2);
      const length = /content-length: (\d+)/i.exec(head ?? '')?.[1];
      if (body !== undefined && body.length >= Number(length)) return body;
      text += String(await new Promise<Buffer>((done) => guest.once('data', done)));
    }
  };
  try {
    expect(await get('/a')).toBe('/a');
    expect((await get('/big')).length).toBe(big.length);
    expect(await get('/b', 'Connection: close\r\n')).toBe('/b');
    await new Promise((done) => setTimeout(done, 150));
    expect(await get('/c')).toBe('/c');
    const closed = new Promise((done) => guest.once('close', done));
    forward[Symbol.dispose]();
    await closed;
  } finally {
    guest.destroy();
    qemu.close();
    server.closeAllConnections();
    server.close();
  }
  await expect(
    new Promise((done, fail) => connect(path).once('connect', done).once('error', fail)),
  ).rejects.toThrow();
});

const PROOF: Proof = {
  kernel: KERNEL,
  distro: 'debian-12',
  accelerator: 'tcg',
  repository: '/home/user/project/out',
  signedBy: 'ABCD',
  pristine: true,
  enforced: null,
  installed: [{ package: `acpi-call-modules-${KERNEL}`, version: '1.2.2' }],
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
      `saves 453 MB on disk (109 packages, 113 MB to download) against installing acpi-call-dkms, dkms and linux-headers-${KERNEL}; the package takes 0.025 MB`,
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
