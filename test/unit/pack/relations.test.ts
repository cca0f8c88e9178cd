import { describe, expect, it } from 'vitest';
import { carriedRelations, carriedRpmRelations, isBuildTool } from '../../../src/pack/relations.js';
import type { RpmHeader, RpmRelation } from '../../../src/formats/rpm-header.js';

const SORTING = {
  isOfDistro: (name: string) => name === 'libc6',
  isOwn: (name: string) => name === 'zfs-modules',
};

describe('what only builds', () => {
  it.each([
    ...[
      'dkms',
      'gcc',
      'gcc-12',
      'g++',
      'make',
      'linux-headers-amd64',
      'linux-headers',
      'libc6-dev',
      'libelf-dev',
    ],
    ...[
      'kernel-devel',
      'kernel-headers',
      'elfutils-libelf-devel',
      'clang-16',
      'linux-libc-dev',
      'dh-dkms',
      'libc-dev',
    ],
  ])('%s', (name) => expect(isBuildTool(name)).toBe(true));
  it.each([
    'kmod',
    'zfsutils-linux',
    'python3',
    'make-up',
    'gcc-runtime',
    'lsb-release',
    'libc6',
    'nvidia-kernel-support',
  ])('is not %s', (name) => expect(isBuildTool(name)).toBe(false));
});

describe('relations of a .deb', () => {
  // zfs-dkms of Debian 12, and what one could put there.
  const control = new Map([
    ['Pre-Depends', 'debconf (>= 0.5) | debconf-2.0'],
    ['Depends', 'dkms (>= 2.1.1.2-5), file, libc6-dev | libc-dev,\n lsb-release, python3:any, perl-base'],
    ['Recommends', 'zfs-zed, zfsutils-linux (>= 2.1.11-1), linux-libc-dev (<< 6.3)'],
    ['Provides', 'zfs-modules, libc6 (= 99)'],
    ['Conflicts', 'zfs-modules, other-zfs'],
    ['Breaks', 'spl-dkms (<< 0.8.0~rc1), libc6 (<< 99)'],
    ['Replaces', 'spl-dkms'],
    ['Suggests', 'x ${misc:Depends}'],
  ]);

  it('stay, but for those on what builds, on our own and on what the distro has', () => {
    expect(carriedRelations(control, SORTING)).toEqual({
      relations: {
        depends: ['debconf (>= 0.5) | debconf-2.0', 'file', 'lsb-release', 'python3:any', 'perl-base'],
        recommends: ['zfs-zed', 'zfsutils-linux (>= 2.1.11-1)'],
        suggests: [],
        provides: ['zfs-modules'],
        conflicts: ['other-zfs'],
        breaks: ['spl-dkms (<< 0.8.0~rc1)'],
        replaces: ['spl-dkms'],
      },
      dropped: ['Suggests: x ${misc:Depends}', 'Provides: libc6 (= 99)', 'Breaks: libc6 (<< 99)'],
    });
  });
});

it('relations of an .rpm stay in its own words, without those of rpm and of its scripts', () => {
  const no: RpmRelation[] = [];
  const one = (name: string, more: Partial<RpmRelation> = {}): RpmRelation => ({ name, pre: false, ...more });
  const all: RpmHeader['relations'] = {
    ...{ enhances: no, supplements: no, suggests: no, recommends: [one('zfs-tools')] },
    requires: [
      ...[
        one('/bin/sh', { pre: true }),
        one('rpmlib(FileDigests)'),
        one('dkms', { flags: 'GE', evr: { epoch: '0', version: '3' } }),
      ],
      ...[one('kernel-devel'), one('python3'), one('bad\n%post')],
    ],
    provides: [
      one('zfs-dkms'),
      one('zfs-kmod', { flags: 'EQ', evr: { epoch: '0', version: '2.1', release: '1' } }),
    ],
    conflicts: [one('zfs-modules'), one('kmod-zfs')],
    obsoletes: [one('spl-dkms'), one('libc6')],
  };
  expect(carriedRpmRelations({ name: 'zfs-dkms', relations: all }, SORTING)).toEqual({
    relations: {
      ...{ depends: ['python3'], recommends: ['zfs-tools'], suggests: [], breaks: [] },
      ...{ provides: ['zfs-kmod = 2.1-1'], conflicts: ['kmod-zfs'], replaces: ['spl-dkms'] },
    },
    dropped: ['requires: bad\n%post', 'obsoletes: libc6'],
  });
});
