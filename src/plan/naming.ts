import { DEB_ARCH, type Arch } from '../core/cell.js';
import { Dkms2binError } from '../core/errors.js';
import { checkRelease } from '../distro/release.js';

export type NameStyle = 'seed' | 'dkms';

export interface PackageIdentity {
  module: string;
  version: string;
  release: string;
  arch: Arch;
}

/** A file name holds 255 bytes; these caps leave room for the release, the architecture and a temporary suffix. */
const MAX_MODULE = 80;
const MAX_VERSION = 80;

/** A module name that a hostile guest reported: safe as a path component, a package name and a shell word. */
export function checkModuleName(name: string): string {
  if (name.length > MAX_MODULE || !/^[A-Za-z0-9][A-Za-z0-9+._-]*$/.test(name) || name.includes('..')) {
    throw new Dkms2binError('module', `The module's PACKAGE_NAME cannot be used: ${quote(name)}`, {
      hint: `Letters, digits and + - . _ are allowed, ${MAX_MODULE} characters at most, a letter or digit first.`,
    });
  }
  return name;
}

/** A module version that a hostile guest reported. */
export function checkModuleVersion(version: string): string {
  if (
    version.length > MAX_VERSION ||
    !/^[A-Za-z0-9][A-Za-z0-9+._~:-]*$/.test(version) ||
    version.includes('..')
  ) {
    throw new Dkms2binError('module', `The module's PACKAGE_VERSION cannot be used: ${quote(version)}`, {
      hint: `Letters, digits and + - . _ ~ : are allowed, ${MAX_VERSION} characters at most, a letter or digit first.`,
    });
  }
  return version;
}

function quote(text: string): string {
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}…` : text);
}

/** File name without `.deb`; the log beside it has the same base. */
export function packageBaseName(identity: PackageIdentity, style: NameStyle = 'seed'): string {
  const module = checkModuleName(identity.module);
  // A colon (a version with an epoch) is awkward in file names; dpkg too leaves the epoch out of them.
  const version = checkModuleVersion(identity.version).replaceAll(':', '-');
  const release = checkRelease(identity.release);
  return style === 'dkms'
    ? `${module}-modules-${release}_${version}_${DEB_ARCH[identity.arch]}`
    : `${module}_${version}-${release}_${identity.arch}`;
}

export function packageFileName(identity: PackageIdentity, style: NameStyle = 'seed'): string {
  return `${packageBaseName(identity, style)}.deb`;
}

export function logFileName(identity: PackageIdentity, style: NameStyle = 'seed'): string {
  return `${packageBaseName(identity, style)}.log`;
}

/** `<module>-modules-<release>` as Debian allows it: lower case, no underscore. */
export function debianPackageName(module: string, release: string): string {
  return `${checkModuleName(module)}-modules-${checkRelease(release)}`.toLowerCase().replaceAll('_', '-');
}

/** `<module>-modules`, what every kernel's package of the module provides. */
export function debianProvidesName(module: string): string {
  return `${checkModuleName(module)}-modules`.toLowerCase().replaceAll('_', '-');
}

/**
 * The module's version as a Debian version: starts with a digit, only `A-Za-z0-9.+~-`, and no dash that would read as
 * a revision's, because dpkg would then order `1.0-rc1` by the wrong rule.
 */
export function debianVersion(version: string): string {
  const clean = checkModuleVersion(version).replace(/[_:-]/g, '.');
  return /^[0-9]/.test(clean) ? clean : `0+${clean}`;
}
