import type { Arch } from '../model/cell.js';

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

export const DEFAULTS = {
  outDir: './out',
  image: 'auto',
  timeoutSeconds: 7200,
  accel: 'auto',
  nameStyle: 'seed',
} as const satisfies Partial<BuildRequest>;

/** Any field of a request; one that is undefined counts as not given. */
export type RequestValues = { [K in keyof BuildRequest]?: BuildRequest[K] | undefined };

/** A request with the command line's defaults for what is not given; `cwd` is the process's. */
export function buildRequest(values: RequestValues): BuildRequest {
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
  return {
    ...DEFAULTS,
    dkms: [],
    kernels: [],
    verify: true,
    debugSymbols: false,
    checkReproducible: false,
    force: false,
    debug: false,
    keepFailed: false,
    offline: false,
    kernelPackages: [],
    cwd: process.cwd(),
    ...given,
  };
}
