import type { Arch, ModuleSource, SourceOrigin } from '../model/cell.js';
import { packagePurl } from './purl.js';

/** Lowercase hex digests by in-toto's names of the algorithms. */
export type DigestSet = Record<string, string>;

export interface SourceRecord {
  kind: ModuleSource['kind'];
  /** As it was asked for: a package name, `name=version`, or a path, of which the last part is recorded. */
  text: string;
  /** Where it was fetched from; then `text` is recorded whole. */
  origin?: SourceOrigin;
  /** The distro's package that a repository name came to. */
  package?: { name: string; version: string };
  /** Of the .deb or tarball; of a folder, of the tar that the guest was sent (sha256). */
  digest: DigestSet;
}

interface InstalledPackage {
  name: string;
  version: string;
  /** The distro's name of the architecture, `all` and `noarch` included. */
  arch?: string;
}

export interface PackageRecord {
  /** File name without folders. */
  file: string;
  sha256: string;
  package: string;
  version: string;
  architecture: string;
  /** What it installs, in the package's order; digests are of the bytes as packed, a module's signature included. */
  files: {
    /** Absolute path on the target. */
    path: string;
    sha256: string;
    /** What a kernel module says about itself. */
    module?: { name?: string; version?: string; license?: string };
  }[];
}

/** All that is known of one cell's build. `makeStatement` and `makeSbom` are functions of it alone. */
export interface BuildFacts {
  /** The DKMS module's name and version. */
  module: { name: string; version: string };
  /** Kernel release. */
  kernel: string;
  /** Catalogue id. */
  distro: string;
  arch: Arch;
  packages: PackageRecord[];
  /** Of `packages`, of the distro's and so of the source's. */
  packageType: 'deb' | 'rpm';
  source: SourceRecord;
  /** Other sources of the request that were built first. */
  buildDepends: SourceRecord[];
  /** What the user chose that can change the outcome. Credentials in URLs are not recorded. */
  options: {
    image: string;
    nameStyle: string;
    verify: boolean;
    debugSymbols?: boolean;
    /** As they were asked for; of a path the last part is recorded. */
    buildPackages?: readonly string[];
    mirror?: string;
    archive?: string;
  };
  image: {
    origin: 'official' | 'bootstrap' | 'file';
    digest: DigestSet;
    /** Where an official image was downloaded from. */
    url?: string;
  };
  /** Kernel packages that were given as files. */
  kernelPackages: { file: string; sha256: string }[];
  /** Build packages that were given as files. */
  buildPackages: { file: string; sha256: string }[];
  /** Every package of the kernel layer, those below among them. */
  installed: InstalledPackage[];
  /** Names of the packages in `installed` that make a module: kernel image, headers, compiler, dkms. */
  roles: { kernelImage: string; kernelHeaders?: string; compiler?: string; dkms?: string };
  /** The cache's name of the kernel layer. */
  layer: string;
  /** Seconds since 1970 in every file of the packages (SOURCE_DATE_EPOCH). */
  epoch: number;
  builder: {
    /** URI of who runs dkms2bin; without it the builder is just some host. */
    id?: string;
    dkms2bin: string;
    qemu: string;
    accelerator: string;
    /** How many files were compiled on the host and in the VM; absent where the VM compiled all. */
    compilations?: { host: number; guest: number };
  };
  run: {
    /** Unique to the invocation. */
    id: string;
    startedOn: Date;
    finishedOn: Date;
    /** Wall seconds by phase. */
    phases: Record<string, number>;
    log?: { file: string; sha256: string };
  };
}

/** The package URL of a DKMS package of the distro. */
export function sourcePurl(
  { name, version }: { name: string; version: string },
  { packageType, distro }: Pick<BuildFacts, 'packageType' | 'distro'>,
): string {
  const arch = packageType === 'deb' ? 'all' : 'noarch';
  return packagePurl(packageType, name, version, { arch, distro });
}

/** What a package of the kernel layer is to the build; undefined for the rest of the system. */
export function roleOf(name: string, roles: BuildFacts['roles']): string | undefined {
  switch (name) {
    case roles.kernelImage:
      return 'kernel image';
    case roles.kernelHeaders:
      return 'kernel headers';
    case roles.compiler:
      return 'compiler';
    case roles.dkms:
      return 'dkms';
  }
  return undefined;
}
