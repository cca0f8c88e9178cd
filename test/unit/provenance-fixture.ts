import { createHash } from 'node:crypto';
import { makeDeb } from '../../src/pack/deb.js';
import type { BuildFacts } from '../../src/attest/facts.js';
import { fakeModule } from './pack-fixture.js';

export const RELEASE = '6.1.0-56-amd64';
export const FILE = `acpi_call_1.2.2-${RELEASE}_x86_64.deb`;
export const KO = `/lib/modules/${RELEASE}/updates/dkms/acpi_call.ko`;

export const sha256 = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex');

/** A package with one module. */
export function packageBytes(module = fakeModule(RELEASE)): Buffer {
  return makeDeb({
    control: {
      package: `acpi-call-modules-${RELEASE}`,
      version: '1.2.2',
      architecture: 'amd64',
      maintainer: 'dkms2bin <root@localhost>',
      section: 'kernel',
      priority: 'optional',
      depends: [`linux-image-${RELEASE}`],
      description: { synopsis: 'acpi_call kernel module', lines: ['one'] },
    },
    files: [{ path: KO, mode: 0o644, bytes: module }],
    scripts: {},
    mtime: 1_577_836_800,
  });
}

export function facts(more: Partial<BuildFacts> = {}): BuildFacts {
  return {
    module: { name: 'acpi_call', version: '1.2.2' },
    kernel: RELEASE,
    distro: 'debian-12',
    arch: 'x86_64',
    packageType: 'deb',
    packages: [
      {
        file: FILE,
        sha256: sha256(packageBytes()),
        package: `acpi-call-modules-${RELEASE}`,
        version: '1.2.2',
        architecture: 'amd64',
        files: [
          {
            path: KO,
            sha256: sha256(fakeModule(RELEASE)),
            module: { name: 'acpi_call', version: '1.2.2', license: 'GPL v2' },
          },
        ],
      },
      {
        file: 'acpi-call-modules-common_1.2.2_all.deb',
        sha256: 'c'.repeat(64),
        package: 'acpi-call-modules-common',
        version: '1.2.2',
        architecture: 'all',
        files: [{ path: '/etc/modprobe.d/acpi-call.conf', sha256: 'd'.repeat(64) }],
      },
    ],
    source: {
      kind: 'repo',
      text: 'acpi-call-dkms',
      package: { name: 'acpi-call-dkms', version: '1.2.2-2+b1' },
      digest: { sha256: 'a'.repeat(64) },
    },
    buildDepends: [{ kind: 'folder', text: '/home/me/secret/helper', digest: { sha256: 'b'.repeat(64) } }],
    options: {
      image: 'auto',
      nameStyle: 'seed',
      verify: true,
      mirror: 'http://me:pw@mirror.example/debian',
    },
    image: { origin: 'bootstrap', digest: { sha256: 'e'.repeat(64) } },
    kernelPackages: [{ file: '/home/me/linux-image-x.deb', sha256: '9'.repeat(64) }],
    installed: [
      { name: 'zlib1g', version: '1:1.2.13.dfsg-1', arch: 'amd64' },
      { name: 'gcc-12', version: '12.2.0-14+deb12u1', arch: 'amd64' },
      { name: `linux-image-${RELEASE}`, version: '6.1.192-2', arch: 'amd64' },
      { name: `linux-headers-${RELEASE}`, version: '6.1.192-2', arch: 'amd64' },
      { name: 'dkms', version: '3.0.10-8+deb12u1', arch: 'all' },
    ],
    roles: {
      kernelImage: `linux-image-${RELEASE}`,
      kernelHeaders: `linux-headers-${RELEASE}`,
      compiler: 'gcc-12',
      dkms: 'dkms',
    },
    layer: 'f'.repeat(32),
    epoch: 1_577_836_800,
    builder: { dkms2bin: '0.1.0', qemu: '7.2.19', accelerator: 'tcg' },
    run: {
      id: 'run-1',
      startedOn: new Date('2026-11-24T06:00:00.123Z'),
      finishedOn: new Date('2026-11-24T06:01:00Z'),
      phases: { boot: 1.5, build: 44.1 },
      log: { file: '/home/me/out/acpi_call.log', sha256: '1'.repeat(64) },
    },
    ...more,
  };
}
