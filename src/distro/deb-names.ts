import { Dkms2binError } from '../model/errors.js';

/** A name as Debian allows it: `acpi_call` becomes `acpi-call`. */
export function debName(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^a-z0-9+.-]+/g, '-')
    .replace(/^[^a-z0-9]+|-+$/g, '');
}

/** A module's version as Debian allows it: `v1.2_3` becomes `0~v1.2.3`, 1.2.3 stays. */
export function debVersion(text: string): string {
  const clean = text
    .replace(/[_:/]/g, '.')
    .replace(/[^A-Za-z0-9.+~-]+/g, '+')
    .replace(/-+/g, '-')
    .replace(/^[^A-Za-z0-9]+|-+$/g, '');
  if (clean === '') throw new Dkms2binError('module', `Not a module version: ${JSON.stringify(text)}`);
  return /^\d/.test(clean) ? clean : `0~${clean}`;
}

/** Name of the package with what a module needs beside it, the same for all kernels. */
export const debCommonName = (module: string): string => `${debName(module)}-modules-common`;

/** Name that the packages of a module for all kernels provide. */
export const debVirtualName = (module: string): string => `${debName(module)}-modules`;

/** Name of the package of one module for one kernel. */
export const debModulesName = (module: string, release: string): string =>
  `${debName(module)}-modules-${debName(release)}`;

/**
 * Name of the metapackage that brings a module for the kernels that the metapackage `linux-image-…` leads to. A digit after
 * `-modules-` starts a kernel release: `linux-image-6.12-amd64` becomes `…-modules-linux-6.12-amd64`.
 */
export function debMetaName(module: string, meta: string, backports: boolean): string {
  const flavour = debName(meta.replace(/^linux-image-/, '')).replace(/^(?=\d)/, 'linux-');
  return `${debName(module)}-modules-${flavour}${backports ? '-backports' : ''}`;
}

/** What the package that has this .ko file for a kernel provides, and no other may be installed beside: `thing.ko-6.1.0-56-amd64`. */
export const debModuleFile = (file: string, release: string): string =>
  `${debName(file)}-${debName(release)}`;

/** Name of the package with the debug symbols of another one. */
export const debDebugName = (name: string): string => `${name}-dbgsym`;

/** File name of a .deb, as apt writes it into its cache. */
export function debFile(of: { name: string; version: string; architecture: string }): string {
  return `${of.name}_${of.version.replaceAll(':', '%3a')}_${of.architecture}.deb`;
}
