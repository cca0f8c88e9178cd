import type { KernelTarget } from '../model/cell.js';
import type { Keyring } from '../formats/openpgp.js';
import { nameOf } from './kernel-source.js';
import { kernelPackages, suseVersionPrefix } from './packages.js';
import type { DistroRow, KernelSource } from './row.js';
import { fillKnown } from './templates.js';

/** Where a guest gets its packages. */
interface GuestNet {
  /** In place of the mirrors that the image knows. */
  mirrors?: { main: string; security?: string | undefined } | undefined;
  proxy?: string | undefined;
  /** Of a row on top of another one: the keyring of its repositories. */
  kernelKey?: Keyring | undefined;
  /** Writes a URL as the guest can reach it. */
  named?: (url: string) => string;
}

const asIs = (url: string): string => url;
const base64 = (key: Uint8Array | string = ''): string => Buffer.from(key).toString('base64');

/** How a distro's package manager is driven in a guest. */
export interface PackageManager {
  /**
   * Script of cloud-init/guest that configures mirrors and proxy, installs a kernel, tries passing faults again and names
   * lasting ones. All of them have the same result lines and exit codes.
   */
  script: 'install-kernel-apt.sh' | 'install-kernel-rpm.sh';
  /** The script's variables about a kernel's packages, besides RELEASE and those of an archive. */
  variables(
    row: DistroRow,
    target: Pick<KernelTarget, 'release' | 'arch'>,
    net: GuestNet,
  ): Record<string, string>;
  /** Shell command that lists what is installed: name, version, what it provides, architecture, by tabs. */
  list: string;
}

const repoLine = (
  { name, url, signed }: NonNullable<DistroRow['repos']>[number],
  values: Record<string, string>,
): string => `${name}${signed === false ? '!' : ''}=${fillKnown(url, values)}`;

const rpm = (manager: 'dnf' | 'zypper'): PackageManager => ({
  script: 'install-kernel-rpm.sh',
  variables: (row, { release, arch }, { mirrors, proxy = '', kernelKey, named = asIs }) => {
    const { image, modules, extra, headers } = kernelPackages(row, release);
    // Without --mirror the image's own repositories serve: they know their mirrors.
    const all = [...(row.repos ?? []), ...(row.epel?.repos ?? [])];
    const values = { mirror: (mirrors?.main ?? '').replace(/\/+$/, ''), arch };
    const repos = mirrors === undefined ? [] : all.filter(({ mirrorList }) => !mirrorList);
    return {
      PACKAGE_MANAGER: manager,
      IMAGE_PACKAGES: image.join(' '),
      MODULE_PACKAGES: modules.join(' '),
      EXTRA_PACKAGES: extra.join(' '),
      HEADER_PACKAGES: headers.join(' '),
      VERSION_PREFIX: manager === 'zypper' ? suseVersionPrefix(release) : '',
      TOOLCHAIN_REPO: row.epel?.package ?? '',
      TOOLCHAIN_NEEDS: row.epel?.needs ?? '',
      REPOS: repos.map((repo) => repoLine(repo, values)).join('\n'),
      PROXY: proxy,
      ...kernelVariables(row, kernelKey, (url) => named(fillKnown(url, { arch }))),
    };
  },
  list: "rpm -qa --qf '%{NAME}\\t%{VERSION}-%{RELEASE}\\t[%{PROVIDES}, ]\\t%{ARCH}\\n'",
});

/** What dnf is told of a row's repositories of kernels. */
const kernelVariables = (
  row: DistroRow,
  key: Keyring | undefined,
  named: (url: string) => string,
): Record<string, string> =>
  row.overlay === undefined
    ? {}
    : {
        KERNEL_REPOS: kernelRepos(row, row.overlay, named),
        KERNEL_KEY: base64(key?.armored),
        HEADER_CHOICE: '1',
      };

const kernelRepos = (
  row: DistroRow,
  { repositories }: KernelSource,
  named: (url: string) => string,
): string => repositories.map(({ url }, at) => `${nameOf(row, at)}=${named(url)}`).join('\n');

/** One line for each suite of the row's repositories of kernels. */
const kernelSources = ({ repositories }: KernelSource, named: (url: string) => string): string =>
  repositories
    .map(({ url, suite = '', components }) => `deb ${named(url)} ${suite} ${components.join(' ')}`)
    .join('\n');

/** One line for each suite of the row. */
function aptSources(
  { suites, components = [] }: DistroRow,
  mirrors: NonNullable<GuestNet['mirrors']>,
): string {
  const { main, security = main } = mirrors;
  return suites
    .map(
      ({ name, mirror }) => `deb ${mirror === 'security' ? security : main} ${name} ${components.join(' ')}`,
    )
    .join('\n');
}

/** By the catalogue's `packageManager`. */
export const PACKAGE_MANAGERS: Record<NonNullable<DistroRow['packageManager']>, PackageManager> = {
  apt: {
    script: 'install-kernel-apt.sh',
    // apt finds a kernel's packages by what they depend on.
    variables: (row, { release }, { mirrors, proxy = '', kernelKey, named = asIs }) => ({
      ARCHIVE_KEYRING: row.keyring ?? '',
      TOOLCHAIN: row.toolchain?.join(' ') ?? '',
      SOURCES: mirrors ? aptSources(row, mirrors) : '',
      PROXY: proxy,
      ...(row.overlay && {
        KERNEL_SOURCES: kernelSources(row.overlay, named),
        KERNEL_KEY: base64(kernelKey?.binary),
        IMAGE_PACKAGES: kernelPackages(row, release).image.join(' '),
        HEADER_PACKAGES: kernelPackages(row, release).headers.join(' '),
      }),
    }),
    list: "dpkg-query -W -f '${Package}\\t${Version}\\t${Provides}\\t${Architecture}\\n'",
  },
  dnf: rpm('dnf'),
  zypper: rpm('zypper'),
};
