import type { Arch, KernelTarget, ModuleSource } from '../core/cell.js';

/** What the user asked for, after the config file and the options are merged. Paths are as typed, relative to `cwd`. */
export interface BuildRequest {
  /** Package names, files, folders or list files. */
  dkms: string[];
  /** Exact releases, globs or `latest`; empty means `latest`. */
  kernels: string[];
  /** Catalogue id such as `debian-12`; absent: follows from the kernel. */
  distro?: string;
  outDir: string;
  /** Absent: follows from the kernels, else x86_64. */
  arch?: Arch;
  /** `auto`, `official`, `bootstrap` or the path of a disk image. */
  image: string;
  /** Where machines share images and layers: a folder, `s3://BUCKET/PREFIX` or a URL. */
  layerCache?: string;
  mirror?: string;
  /** Base URL of the archive of old packages. */
  archive?: string;
  proxy?: string;
  /** CPUs and memory of one VM. */
  cpus?: number;
  memoryMiB?: number;
  /** VMs at once. */
  jobs?: number;
  /** Longest time one cell may take. */
  timeoutSeconds: number;
  accel: 'auto' | 'kvm' | 'tcg';
  nameStyle: 'seed' | 'dkms';
  verify: boolean;
  /** Packs the modules' debug symbols as well. */
  debugSymbols: boolean;
  /** Builds each cell twice and compares. */
  checkReproducible: boolean;
  force: boolean;
  debug: boolean;
  keepFailed: boolean;
  offline: boolean;
  /** Signs the modules: private key (PEM file or `pkcs11:` URI) and its certificate; both or neither. */
  signKey?: string;
  signCert?: string;
  /** PEM private key that signs the provenance. */
  provenanceKey?: string;
  /** File with the key's passphrase, or the token's PIN. */
  passphraseFile?: string;
  /** Files or URLs of kernel image and header packages. */
  kernelPackages: string[];
  cwd: string;
}

/** One cell to build, in words that print. */
export interface PlannedCell {
  readonly source: string;
  readonly kernel: string;
  readonly distro: string;
  readonly arch: Arch;
  /** The distro's version of the kernel image package; null when only files were given. */
  readonly packageVersion: string | null;
  readonly image: string;
  readonly fileStyle: 'seed' | 'dkms';
  /** The same in the engine's words. */
  readonly module: ModuleSource;
  readonly target: KernelTarget;
}

/** Frozen, and prints as JSON (`--dry-run`). */
export interface BuildPlan {
  readonly request: Readonly<BuildRequest>;
  /** Absent until measured. */
  readonly accelerator?: string;
  readonly cells: readonly PlannedCell[];
  /** Sources that may bring what cells depend on; absent: those of the cells. */
  readonly siblings?: readonly ModuleSource[];
}
