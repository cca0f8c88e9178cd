import { DEB_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { checkRelease } from './release.js';
import type { PackageForm } from './row.js';
import { debName } from './deb-names.js';
import { rpmNames } from './rpm-names.js';

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

/**
 * File name of the package without `.deb` or `.rpm`, and of the log beside it without `.log`. The style is one of .deb
 * files: rpm's tools expect a file to be called what the package is called.
 */
export function packageBaseName(
  identity: PackageIdentity,
  style: NameStyle = 'seed',
  form: PackageForm = 'deb',
): string {
  const module = checkModuleName(identity.module);
  // A colon (a version with an epoch) is awkward in file names; dpkg too leaves the epoch out of them.
  const version = checkModuleVersion(identity.version).replaceAll(':', '-');
  const release = checkRelease(identity.release);
  if (form !== 'deb') return rpmNames(identity, form).file.replace(/\.rpm$/, '');
  return style === 'dkms'
    ? `${module}-modules-${release}_${version}_${DEB_ARCH[identity.arch]}`
    : `${module}_${version}-${release}_${identity.arch}`;
}

/**
 * Reads a package's name back: the module, as a .deb spells it, and the kernel, in the package's own spelling. Undefined
 * for a package that is none of modules for one kernel, such as one of debug symbols.
 */
export function namedModules(
  form: 'deb' | 'rpm',
  name: string,
): { module: string; kernel: string } | undefined {
  if (/-(?:dbgsym|debuginfo)$/.test(name)) return undefined;
  // A kernel's release has one dash in an .rpm.
  const named = form === 'deb' ? /^(.+)-modules-(\d[a-z0-9.+-]*)$/ : /^kmod-(.+)-(\d[^-]*-[^-]+)$/;
  const [, module, kernel] = named.exec(name) ?? [];
  return module === undefined || kernel === undefined ? undefined : { module: debName(module), kernel };
}
