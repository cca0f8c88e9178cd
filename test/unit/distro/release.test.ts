import { expect, test } from 'vitest';
import type { DistroRow } from '../../../src/distro/row.js';
import { archOf } from '../../../src/distro/release.js';
import { candidatesFor, parseRelease } from '../../../src/distro/release.js';

const row = (id: string, codename: string): DistroRow => ({
  id,
  codename,
  family: 'debian',
  version: id.slice(7),
  mirrors: { main: 'http://mirror.test/debian' },
  suites: [],
  arch: { x86_64: { defaultKernel: 'linux-image-amd64' } },
});
const rows = [
  row('debian-11', 'bullseye'),
  row('debian-12', 'bookworm'),
  row('debian-13', 'trixie'),
  row('debian-forky', 'forky'),
  row('debian-sid', 'sid'),
];

test.each([
  ['6.1.0-56-amd64', 'debian-12'],
  ['6.1.0-56-cloud-amd64', 'debian-12'],
  ['6.1.0-56-rt-amd64', 'debian-12'],
  ['6.1.0-56-arm64', 'debian-12'],
  ['6.12.117+deb13-arm64-16k', 'debian-13'],
  ['6.12.117+deb13-cloud-arm64', 'debian-13'],
  ['5.10.0-46-amd64', 'debian-11'],
  ['6.1.0-0.deb11.52-amd64', 'debian-11'],
  ['6.5.0-0.deb12.4-amd64', 'debian-12'],
  ['6.9.7+bpo-amd64', 'debian-12'],
  ['6.12.117+deb12-amd64', 'debian-12'],
  ['6.12.90+deb12.1-cloud-amd64', 'debian-12'],
  ['6.12.117+deb13-amd64', 'debian-13'],
  ['7.3.4+deb13-amd64', 'debian-13'],
  ['7.2.12+deb14-amd64', 'debian-forky debian-sid'],
  ['6.16.12-amd64', 'debian-forky debian-sid'],
  ['7.3-amd64', 'debian-forky debian-sid'],
])('%s is of %s', (release, ids) => {
  expect(
    candidatesFor(release, rows)
      .map(({ id }) => id)
      .join(' '),
  ).toBe(ids);
});

test.each([
  ['5.15.0-100-generic', 'not-found', /kernel of Ubuntu, .*not in the catalogue/],
  ['6.8.0-1021-aws', 'not-found', /Ubuntu/],
  ['5.14.0-503.el9.x86_64', 'not-found', /CentOS\/RHEL family 9/],
  ['6.15.3-200.fc42.x86_64', 'not-found', /Fedora 42/],
  ['4.19.0-27-amd64', 'not-found', /Debian 10/],
  ['6.1.0-56-armmp', 'usage', /armmp; only x86_64 \(amd64\) and aarch64/],
  ['6.1.0-56', 'usage', /No known distro/],
  ['6.13.7-114.bazzite.fc42.x86_64', 'usage', /No known distro/],
  ['6.13.7-cachyos1.fc42.x86_64', 'usage', /No known distro/],
  ['6.1.119-1.el9.elrepo.x86_64', 'usage', /No known distro/],
  ['6.17.0-0.rc3.250827gfab1beda7597.31.fc42.x86_64', 'not-found', /Fedora 42/],
  ['5.14.0-70.13.1.rt21.83.el9_0.x86_64', 'not-found', /CentOS\/RHEL family 9/],
  ['6.12.47+rpt-rpi-v7', 'usage', /only x86_64/],
  ['../../etc', 'usage', /Not a kernel release/],
  ['6.1.0-56-amd64; rm', 'usage', /Not a kernel release/],
] as const)('%s is refused as %s', (release, fault, message) => {
  expect(() => candidatesFor(release, rows)).toThrow(expect.objectContaining({ fault }) as Error);
  expect(() => candidatesFor(release, rows)).toThrow(message);
});

test('the flavour', () => {
  expect(parseRelease('6.12.117+deb13-cloud-amd64')).toMatchObject({ flavour: 'cloud-amd64', major: 13 });
});

test('the architecture is what the kernels and their packages end with, else what was asked for', () => {
  expect(archOf(['6.1.0-56-cloud-arm64', '6.12.*-arm64-16k'])).toBe('aarch64');
  expect(archOf(['5.14.0-503.el9.aarch64+64k'])).toBe('aarch64');
  expect(archOf(['https://m.test/linux-image-6.1.0-56-amd64-unsigned_6.1.192-2_amd64.deb'])).toBe('x86_64');
  expect(archOf(['latest', '6.8.0-40-generic'], 'aarch64')).toBe('aarch64');
  expect(archOf(['latest'])).toBeUndefined();
  expect(() => archOf(['6.1.0-56-arm64'], 'x86_64')).toThrow(/for aarch64, but --arch says x86_64/);
  expect(() => archOf(['6.1.0-56-amd64', '6.1.0-56-arm64'])).toThrow(/6.1.0-56-amd64 says x86_64/);
});
