import { beforeAll, describe, expect, test } from 'vitest';
import { PACKAGE_MANAGERS } from '../../../src/distro/package-manager.js';
import { kernelPackages, suseRelease, suseVersionPrefix } from '../../../src/distro/packages.js';
import { candidatesFor } from '../../../src/distro/release.js';
import { compareRpmVersions } from '../../../src/formats/versions.js';
import { findRow, loadCatalogue, type CatalogueRow } from '../../../src/distro/catalogue.js';

let rows: CatalogueRow[];
beforeAll(async () => {
  rows = await loadCatalogue();
});

describe('the distro of a kernel release', () => {
  test.each([
    ['3.13.0-77-generic', 'ubuntu-14.04'],
    ['4.4.0-210-generic', 'ubuntu-14.04 ubuntu-16.04'],
    ['4.15.0-1087-oracle', 'ubuntu-16.04 ubuntu-18.04'],
    ['5.15.0-1026-aws', 'ubuntu-20.04 ubuntu-22.04'],
    ['5.15.0-1070-aws-fips', 'ubuntu-20.04 ubuntu-22.04'],
    ['6.8.0-31-generic', 'ubuntu-22.04 ubuntu-24.04'],
    ['6.17.0-8-generic', 'ubuntu-24.04'],
    ['7.0.0-1006-vmware', 'ubuntu-24.04 ubuntu-26.04'],
    ['6.8.0-31-generic-64k', 'ubuntu-22.04 ubuntu-24.04'],
    ['3.10.0-1160.119.1.el7.x86_64', 'centos-7'],
    ['5.14.0-503.el9.x86_64', 'centos-stream-9'],
    ['5.14.0-503.el9.x86_64+rt', 'centos-stream-9'],
    ['6.12.0-55.el10.x86_64', 'centos-stream-10'],
    ['5.14.0-503.11.1.el9_5.x86_64', 'alma-9 oracle-9 rocky-9'],
    ['4.18.0-553.rt7.342.el8_10.x86_64', 'alma-8 oracle-8 rocky-8'],
    ['6.12.0-124.8.1.el10_1.x86_64', 'alma-10 oracle-10 rocky-10'],
    ['5.15.0-302.167.6.el9uek.x86_64', 'oracle-9'],
    ['6.17.1-300.fc43.x86_64', 'fedora-43'],
    ['6.1.112-122.189.amzn2023.x86_64', 'amazon-2023'],
    ['6.4.0-150600.23.25-default', 'opensuse-leap-15.6'],
    ['6.12.0-160000.5-default', 'opensuse-leap-16.0'],
    ['6.15.3-1-default', 'opensuse-tumbleweed'],
    ['6.1.0-56-cloud-amd64', 'debian-12'],
  ])('%s: %s', (release, ids) => {
    expect(
      candidatesFor(release, rows)
        .map(({ id }) => id)
        .sort()
        .join(' '),
    ).toBe(ids);
  });

  test('a Fedora that has ended is named', () => {
    expect(() => candidatesFor('6.5.6-300.fc39.x86_64', rows)).toThrow(/Fedora 39.*not in the catalogue/);
  });
});

describe('package names', () => {
  const of = (id: string, release: string, source?: string): ReturnType<typeof kernelPackages> =>
    kernelPackages(findRow(rows, id), release, source);

  test.each([
    ['6.1.0-29-amd64', ['linux-headers-6.1.0-29-amd64', 'linux-headers-6.1.0-29-common', 'linux-kbuild-6.1']],
    [
      '6.1.0-29-cloud-amd64',
      ['linux-headers-6.1.0-29-cloud-amd64', 'linux-headers-6.1.0-29-common', 'linux-kbuild-6.1'],
    ],
    [
      '6.1.0-29-rt-amd64',
      ['linux-headers-6.1.0-29-rt-amd64', 'linux-headers-6.1.0-29-common-rt', 'linux-kbuild-6.1'],
    ],
    [
      '6.12.38+deb13-amd64',
      [
        'linux-headers-6.12.38+deb13-amd64',
        'linux-headers-6.12.38+deb13-common',
        'linux-kbuild-6.12.38+deb13',
      ],
    ],
    [
      // The real-time patches are in the mainline kernel since.
      '7.2.13+deb14-rt-amd64',
      [
        'linux-headers-7.2.13+deb14-rt-amd64',
        'linux-headers-7.2.13+deb14-common',
        'linux-kbuild-7.2.13+deb14',
      ],
    ],
    [
      '6.1.0-0.deb11.52-amd64',
      ['linux-headers-6.1.0-0.deb11.52-amd64', 'linux-headers-6.1.0-0.deb11.52-common', 'linux-kbuild-6.1'],
    ],
  ])('Debian %s', (release, headers) => {
    expect(of('debian-12', release).headers).toEqual(headers);
    expect(of('debian-12', release).image[0]).toBe(`linux-image-${release}`);
  });

  test("Ubuntu's common headers are called after the source package, signed or not", () => {
    expect(of('ubuntu-24.04', '6.8.0-31-generic')).toEqual({
      image: ['linux-image-6.8.0-31-generic', 'linux-image-unsigned-6.8.0-31-generic'],
      modules: ['linux-modules-6.8.0-31-generic'],
      extra: ['linux-modules-extra-6.8.0-31-generic'],
      headers: ['linux-headers-6.8.0-31-generic', 'linux-headers-6.8.0-31'],
    });
    expect(of('ubuntu-24.04', '6.17.0-8-generic', 'linux-signed-hwe-6.17').headers[1]).toBe(
      'linux-hwe-6.17-headers-6.17.0-8',
    );
    expect(of('ubuntu-22.04', '5.15.0-1026-aws', 'linux-aws').headers).toEqual([
      'linux-headers-5.15.0-1026-aws',
      'linux-aws-headers-5.15.0-1026',
    ]);
    expect(of('ubuntu-16.04', '4.15.0-142-generic', 'linux-signed-hwe').headers[1]).toBe(
      'linux-headers-4.15.0-142',
    );
    expect(of('ubuntu-18.04', '4.18.0-1006-azure', 'linux-signed-azure-edge').headers[1]).toBe(
      'linux-azure-headers-4.18.0-1006',
    );
    expect(of('ubuntu-14.04', '3.13.0-77-generic')).toMatchObject({
      modules: [],
      extra: expect.arrayContaining(['linux-image-extra-3.13.0-77-generic']) as string[],
      headers: ['linux-headers-3.13.0-77-generic', 'linux-headers-3.13.0-77'],
    });
  });

  test.each([
    [
      'centos-7',
      '3.10.0-1160.el7.x86_64',
      ['kernel-3.10.0-1160.el7.x86_64'],
      'kernel-devel-3.10.0-1160.el7.x86_64',
    ],
    [
      'rocky-9',
      '5.14.0-503.11.1.el9_5.x86_64',
      ['kernel-core-5.14.0-503.11.1.el9_5.x86_64'],
      'kernel-devel-5.14.0-503.11.1.el9_5.x86_64',
    ],
    [
      'rocky-9',
      '5.14.0-503.11.1.el9_5.x86_64+rt',
      ['kernel-rt-core-5.14.0-503.11.1.el9_5.x86_64'],
      'kernel-rt-devel-5.14.0-503.11.1.el9_5.x86_64',
    ],
    [
      'alma-8',
      '4.18.0-553.rt7.342.el8_10.x86_64',
      ['kernel-rt-core-4.18.0-553.rt7.342.el8_10.x86_64'],
      'kernel-rt-devel-4.18.0-553.rt7.342.el8_10.x86_64',
    ],
    [
      'oracle-8',
      '5.4.17-2136.300.7.el8uek.x86_64',
      ['kernel-uek-core-5.4.17-2136.300.7.el8uek.x86_64', 'kernel-uek-5.4.17-2136.300.7.el8uek.x86_64'],
      'kernel-uek-devel-5.4.17-2136.300.7.el8uek.x86_64',
    ],
    [
      'oracle-8',
      '4.18.0-553.el8_10.x86_64',
      ['kernel-core-4.18.0-553.el8_10.x86_64'],
      'kernel-devel-4.18.0-553.el8_10.x86_64',
    ],
    [
      'amazon-2023',
      '6.12.22-27.96.amzn2023.x86_64',
      ['kernel6.12-6.12.22-27.96.amzn2023.x86_64'],
      'kernel6.12-devel-6.12.22-27.96.amzn2023.x86_64',
    ],
    ['opensuse-leap-15.6', '6.4.0-150600.23.25-default', ['kernel-default'], 'kernel-default-devel'],
  ])('%s %s', (id, release, image, headers) => {
    expect(of(id, release).image).toEqual(image);
    expect(of(id, release).headers).toContain(headers);
  });

  test('a variant that nobody named is no plain kernel', () => {
    expect(() => of('fedora-43', '6.17.1-300.fc43.x86_64+debug')).toThrow(/\+debug kernels of fedora-43/);
  });

  test("SUSE's build counter", () => {
    expect(suseRelease('6.4.0', '150600.23.25.1', 'default')).toBe('6.4.0-150600.23.25-default');
    expect(suseRelease('6.15.3', '1.1', 'default')).toBe('6.15.3-1-default');
    expect(suseVersionPrefix('6.4.0-150600.23.25-default')).toBe('6.4.0-150600.23.25');
  });
});

describe('variables for the guest', () => {
  const of = (id: string, release: string, mirror?: string): Record<string, string> => {
    const row = findRow(rows, id);
    const net = mirror === undefined ? {} : { mirrors: { main: mirror } };
    return PACKAGE_MANAGERS[row.packageManager].variables(row, { release, arch: 'x86_64' }, net);
  };

  test('dnf gets names with their versions, and repositories only of a mirror that was given', () => {
    const release = '5.14.0-503.11.1.el9_5.x86_64';
    expect(of('rocky-9', release)).toMatchObject({
      PACKAGE_MANAGER: 'dnf',
      IMAGE_PACKAGES: `kernel-core-${release}`,
      HEADER_PACKAGES: `kernel-devel-${release}`,
      VERSION_PREFIX: '',
      TOOLCHAIN_REPO: 'epel-release',
      TOOLCHAIN_NEEDS: 'crb',
      REPOS: '',
    });
    expect(of('rocky-9', release, 'http://mirror.test/rocky/').REPOS!.split('\n').slice(0, 2)).toEqual([
      'baseos=http://mirror.test/rocky/9/BaseOS/x86_64/os',
      'appstream=http://mirror.test/rocky/9/AppStream/x86_64/os',
    ]);
  });

  // With --mirror the image's own repositories are hidden: what brings EPEL, and what EPEL's packages need, must be among those given.
  test.each([
    ['rocky-8', '4.18.0-553.el8_10.x86_64', 'epel-release', 'powertools'],
    ['alma-10', '6.12.0-55.9.1.el10_0.x86_64', 'epel-release', 'crb'],
    ['centos-stream-9', '5.14.0-503.el9.x86_64', 'epel-release', 'crb'],
    ['oracle-9', '5.15.0-302.167.6.el9uek.x86_64', 'oracle-epel-release-el9', 'ol9_codeready_builder'],
  ])('%s finds dkms in EPEL', (id, release, brings, needs) => {
    expect(of(id, release)).toMatchObject({ TOOLCHAIN_REPO: brings, TOOLCHAIN_NEEDS: needs });
    const repos = of(id, release, 'http://mirror.test').REPOS!.split('\n');
    expect(repos.map((each) => each.split('=')[0])).toEqual([
      ...findRow(rows, id).repos.map(({ name }) => name),
      ...(id === 'oracle-9' ? ['crb', 'epel'] : ['extras', needs]),
    ]);
    expect(repos.filter((each) => !/^[a-z0-9]+=http:\/\/mirror\.test\/[\w./-]+$/.test(each))).toEqual([]);
  });

  test('apt gets the toolchain of the row, and sources for each suite of mirrors that were given', () => {
    const release = '6.1.0-56-amd64';
    expect(of('debian-12', release)).toMatchObject({
      TOOLCHAIN:
        'dkms gcc make libc6-dev dpkg-dev bc flex bison libelf-dev libssl-dev rsync gawk file xxd dwarves',
      SOURCES: '',
    });
    const { apt } = PACKAGE_MANAGERS;
    const mirrors = { main: 'http://m.test/debian', security: 'http://m.test/security' };
    const row = findRow(rows, 'debian-12');
    expect(apt.variables(row, { release, arch: 'x86_64' }, { mirrors }).SOURCES!.split('\n')).toEqual([
      'deb http://m.test/debian bookworm main',
      'deb http://m.test/debian bookworm-updates main',
      'deb http://m.test/security bookworm-security main',
      'deb http://m.test/debian bookworm-backports main',
    ]);
  });

  test('zypper gets bare names and the beginning of their versions', () => {
    expect(of('tumbleweed', '6.15.3-1-longterm')).toMatchObject({
      PACKAGE_MANAGER: 'zypper',
      IMAGE_PACKAGES: 'kernel-longterm',
      HEADER_PACKAGES: 'kernel-longterm-devel kernel-devel',
      VERSION_PREFIX: '6.15.3-1',
    });
  });
});

test.each([
  ['5.14.0-70.el9', '5.14.0-503.el9'],
  ['5.14.0-503.el9', '5.14.0-503.11.1.el9_5'],
  ['6.12.0~rc1-1', '6.12.0-1'],
  ['6.12.0-1', '6.12.0^20250101-1'],
  ['6.12.0^20250101-1', '6.12.0.1-1'],
  ['6.12.0-1', '1:5.0-1'],
  ['1.0a-1', '1.0.1-1'],
  ['1.9-1', '1.010-1'],
])('rpm: %s is older than %s', (older, newer) => {
  expect(Math.sign(compareRpmVersions(older, newer))).toBe(-1);
  expect(Math.sign(compareRpmVersions(newer, older))).toBe(1);
  expect(compareRpmVersions(older, older)).toBe(0);
});
