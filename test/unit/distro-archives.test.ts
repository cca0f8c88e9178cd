import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { availableKernels } from '../../src/distro/kernels.js';
import { resolveKernels, type ResolveOptions } from '../../src/distro/resolve.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../../src/distro/catalogue.js';
import { FileServer, putRepo, sha256 } from './repo-server.js';

let server: FileServer;
let rows: CatalogueRow[];
let cacheDir: string;

beforeAll(async () => {
  [server, rows] = await Promise.all([new FileServer().open(), loadCatalogue()]);
});
afterAll(() => server.close());
beforeEach(async () => {
  cacheDir = await mkdtemp(join(tmpdir(), 'archives-'));
  server.files.clear();
  server.requests.length = 0;
});
afterEach(() => rm(cacheDir, { recursive: true, force: true }));

const options = (more: Partial<ResolveOptions> = {}): ResolveOptions => ({
  cacheDir,
  mirror: `${server.origin}/live`,
  archiveUrl: `${server.origin}/old`,
  keyring: false,
  proxy: '',
  hostDistro: null,
  ...more,
});

/** A suite of an apt archive with the given Packages stanzas. */
function putSuite(path: string, stanzas: string[]): void {
  const packed = gzipSync(stanzas.join('\n'));
  const sum = createHash('sha256').update(packed).digest('hex');
  server.put(
    `${path}/InRelease`,
    `Suite: x\nSHA256:\n ${sum} ${packed.length} main/binary-amd64/Packages.gz\n`,
  );
  server.put(`${path}/main/binary-amd64/Packages.gz`, packed);
}
const deb = (name: string, version: string, more = ''): string =>
  `Package: ${name}\nVersion: ${version}\nArchitecture: amd64\n${more}`;

/** Launchpad's answer to who publishes a binary package. */
function publish(series: string, binary: string, entries: Record<string, string>[]): void {
  const root = `${server.origin}/old/1.0`;
  server.put(
    `/old/1.0/ubuntu/+archive/primary?ws.op=getPublishedBinaries&binary_name=${binary}&exact_match=true&distro_arch_series=${root}/ubuntu/${series}/amd64`,
    JSON.stringify({
      total_size: entries.length,
      start: 0,
      entries: entries.map((entry) => ({
        binary_package_name: binary,
        distro_arch_series_link: `${root}/ubuntu/${series}/amd64`,
        ...entry,
      })),
    }),
  );
}
const outcome = async (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'no error',
    (error: Error & { fault: string; hint?: string }) =>
      `${error.fault}: ${error.message}\n${error.hint ?? ''}`,
  );

describe("Ubuntu's archive", () => {
  test('release, updates and security; signed, unsigned and extra packages of one kernel', async () => {
    putSuite('/live/dists/noble', [
      deb('linux-image-6.8.0-31-generic', '6.8.0-31.31', 'Source: linux-signed\n'),
      deb('linux-image-unsigned-6.8.0-31-generic', '6.8.0-31.31', 'Source: linux\n'),
      deb('linux-image-unsigned-6.8.0-31-lowlatency', '6.8.0-31.31.1', 'Source: linux-lowlatency\n'),
      ...['generic', 'lowlatency'].map((flavour) => deb(`linux-headers-6.8.0-31-${flavour}`, '6.8.0-31.31')),
    ]);
    putSuite('/live/dists/noble-updates', [
      deb('linux-image-6.17.0-8-generic', '6.17.0-8.8~24.04.2', 'Source: linux-signed-hwe-6.17\n'),
      deb('linux-image-6.8.0-79-generic', '6.8.0-79.79'),
      deb('linux-headers-6.8.0-79-generic', '6.8.0-79.79'),
      deb('linux-headers-6.17.0-8-generic', '6.17.0-8.8~24.04.2'),
      deb(
        'linux-image-generic',
        '6.8.0-79.79',
        'Depends: linux-image-6.8.0-79-generic, linux-modules-extra-6.8.0-79-generic\n',
      ),
    ]);
    const found = await availableKernels(findRow(rows, 'noble'), options());
    expect(found.map(({ release, suite, flavour, source }) => [release, suite, flavour, source])).toEqual([
      ['6.17.0-8-generic', 'noble-updates', 'generic', 'linux-signed-hwe-6.17'],
      ['6.8.0-79-generic', 'noble-updates', 'generic', undefined],
      ['6.8.0-31-lowlatency', 'noble', 'lowlatency', 'linux-lowlatency'],
      ['6.8.0-31-generic', 'noble', 'generic', 'linux-signed'],
    ]);
    const [latest] = await resolveKernels(['latest'], rows, options({ distro: 'noble' }));
    expect(latest).toMatchObject({ release: '6.8.0-79-generic', suite: 'noble-updates' });
    expect(await resolveKernels(['6.8.0-*-generic'], rows, options({ distro: 'noble' }))).toHaveLength(2);
  });

  test('a release that left the archive is read from old-releases', async () => {
    const row = structuredClone(findRow(rows, 'xenial'));
    row.mirrors.old = `${server.origin}/old-releases`;
    putSuite(
      '/old-releases/dists/xenial',
      ['image', 'headers'].map((what) => deb(`linux-${what}-4.4.0-21-generic`, '4.4.0-21.37')),
    );
    expect((await availableKernels(row, options())).map(({ release }) => release)).toEqual([
      '4.4.0-21-generic',
    ]);
  });
});

describe('Launchpad and snapshot.ubuntu.com', () => {
  const release = '3.13.0-77-generic';
  const version = '3.13.0-77.121';
  const file = (name: string, arch: string): string =>
    `/old/ubuntu/+archive/primary/+files/${name}_${version}_${arch}.deb`;

  test('an old kernel comes by name, with its two header packages and the -extra one', async () => {
    putSuite('/live/dists/trusty', []);
    const entry = {
      binary_package_version: version,
      source_package_name: 'linux',
      pocket: 'Security',
      date_published: '2016-01-19T20:24:11.123456+00:00',
    };
    for (const name of [`linux-headers-${release}`, `linux-image-${release}`])
      publish('trusty', name, [entry]);
    for (const name of [`linux-image-${release}`, `linux-image-extra-${release}`, `linux-headers-${release}`])
      server.put(file(name, 'amd64'));
    server.put(file('linux-headers-3.13.0-77', 'all'));
    const [target] = await resolveKernels([release], rows, options());
    expect(target).toEqual({
      release,
      distro: 'ubuntu-14.04',
      arch: 'x86_64',
      packageVersion: version,
      files: [
        file(`linux-image-${release}`, 'amd64'),
        file(`linux-headers-${release}`, 'amd64'),
        file('linux-headers-3.13.0-77', 'all'),
        file(`linux-image-extra-${release}`, 'amd64'),
      ].map((path) => ({ url: server.origin + path })),
    });

    // Half a kernel is none, and every place is told.
    server.files.delete(file('linux-headers-3.13.0-77', 'all'));
    const text = await outcome(resolveKernels([release], rows, options()));
    expect(text).toMatch(/^not-found: There is no kernel 3\.13\.0-77-generic/);
    for (const place of [
      /live trusty \(ubuntu-14.04\): not there/,
      /old\/ubuntu \(ubuntu-14.04\): keeps nothing from before 20230301/,
      /old \(ubuntu-14.04\): not there/,
    ])
      expect(text).toMatch(place);
  });

  test('a kernel of after March 2023 comes from the signed snapshot of its day', async () => {
    putSuite('/live/dists/jammy', []);
    publish('jammy', 'linux-image-6.8.0-40-generic', [
      {
        binary_package_version: '6.8.0-40.40~22.04.3',
        source_package_name: 'linux-signed-hwe-6.8',
        pocket: 'Updates',
        date_published: '2024-07-30T20:00:00+00:00',
      },
    ]);
    putSuite('/old/ubuntu/20240731T020000Z/dists/jammy-updates', [
      deb('linux-image-6.8.0-40-generic', '6.8.0-40.40~22.04.3'),
    ]);
    const [target] = await resolveKernels(['6.8.0-40-generic'], rows, options({ distro: 'jammy' }));
    expect(target).toMatchObject({
      packageVersion: '6.8.0-40.40~22.04.3',
      archive: { uri: `${server.origin}/old/ubuntu/20240731T020000Z/`, suite: 'jammy-updates' },
    });
  });
});

describe('RPM archives', () => {
  const path = '/old/vault/rocky/9.4';

  test("a former minor release is in the vault, with the index's digests", async () => {
    const evr = '5.14.0-427.13.1.el9_4';
    const rpm = (name: string): { name: string; evr: string } => ({ name, evr });
    putRepo(server, `${path}/BaseOS/x86_64/os`, [
      rpm('kernel-core'),
      rpm('kernel-modules'),
      rpm('kernel-modules-core'),
    ]);
    putRepo(server, `${path}/AppStream/x86_64/os`, [rpm('kernel-devel')]);
    const [target] = await resolveKernels([`${evr}.x86_64`], rows, options({ distro: 'rocky-9' }));
    expect(target!.packageVersion).toBe(evr);
    expect(target!.files).toEqual(
      [
        ['BaseOS', 'kernel-core'],
        ['BaseOS', 'kernel-modules'],
        ['AppStream', 'kernel-devel'],
        ['BaseOS', 'kernel-modules-core'],
      ].map(([repo, name]) => ({
        url: `${server.origin}${path}/${repo!}/x86_64/os/Packages/k/${name!}-${evr}.x86_64.rpm`,
        sha256: sha256(`${name!}-${evr}.x86_64.rpm`),
      })),
    );
    expect(
      await outcome(resolveKernels(['5.14.0-1.el9_3.x86_64'], rows, options({ distro: 'rocky-9' }))),
    ).toMatch(/old\/vault\/rocky\/9\.3\/BaseOS\/x86_64\/os \(rocky-9\): no such repository/);
  });

  test('CentOS 7: the release does not tell the minor one, so all are looked into', async () => {
    const evr = '3.10.0-693.el7';
    putRepo(server, '/old/7.4.1708/os/x86_64', [
      { name: 'kernel', evr },
      { name: 'kernel-devel', evr },
    ]);
    const [target] = await resolveKernels([`${evr}.x86_64`], rows, options());
    expect(target).toMatchObject({ distro: 'centos-7', packageVersion: evr });
    expect(target!.files).toHaveLength(2);
  });

  test('Koji has a build under its version, release and architecture', async () => {
    const folder = '/old/packages/kernel/6.17.1/300.fc43/x86_64';
    const put = (name: string): void => server.put(`${folder}/${name}-6.17.1-300.fc43.x86_64.rpm`);
    ['kernel-core', 'kernel-modules-core', 'kernel-modules', 'kernel-devel'].forEach(put);
    const [target] = await resolveKernels(['6.17.1-300.fc43.x86_64'], rows, options());
    expect(target!.files!.map(({ url }) => url.slice(server.origin.length + folder.length + 1))).toEqual(
      ['kernel-core', 'kernel-modules-core', 'kernel-modules', 'kernel-devel'].map(
        (name) => `${name}-6.17.1-300.fc43.x86_64.rpm`,
      ),
    );
    expect(await outcome(resolveKernels(['6.17.9-300.fc43.x86_64'], rows, options()))).toMatch(
      /old\/packages\/kernel\/6\.17\.9\/300\.fc43\/x86_64\/ \(fedora-43\): not there/,
    );
  });

  test('an archive that breaks off is worth a retry; offline it is not asked', async () => {
    server.files.set(
      '/old/packages/kernel/6.17.1/300.fc43/x86_64/kernel-core-6.17.1-300.fc43.x86_64.rpm',
      500,
    );
    const asked = resolveKernels(['6.17.1-300.fc43.x86_64'], rows, options());
    expect(await outcome(asked)).toMatch(/^transient: Could not ask for/);
    expect(
      await outcome(resolveKernels(['6.17.1-300.fc43.x86_64'], rows, options({ offline: true }))),
    ).toMatch(/not asked \(--offline\)/);
  });
});
