/** What packages take. */
export interface Cost {
  packages: number;
  /** Bytes on the disk, as the packages' Installed-Size has them. */
  installedBytes: number;
  downloadBytes: number;
}

/** One kernel module of an installed package. */
export interface ModuleProof {
  package: string;
  version: string;
  module: string;
  /** `refused`: the kernel took it, but it found no hardware of its own or wants parameters. `failed`: it does not load, or the kernel warns of it and --strict was given. */
  verdict: 'loaded' | 'refused' | 'failed';
  reason: string | null;
}

/** What installing the packages saved against installing what DKMS needs to build them on the same machine. */
export interface Saving extends Cost {
  /** What DKMS would take: the DKMS packages that are known, dkms, the kernel's headers, and all that they bring along. */
  instead: Cost & { of: string[] };
  /** What the packages from the repository took. */
  takes: Cost;
}

/** The outcome of `prove`; `--json` prints it. */
export interface Proof {
  kernel: string;
  /** Catalogue id. */
  distro: string;
  accelerator: string;
  /** Absolute path of the repository's folder. */
  repository: string;
  /** Fingerprint of the key that the package manager checked the repository with; null: it is not signed. */
  signedBy: string | null;
  /** The machine had no compiler, make, headers or dkms, before and after. */
  pristine: true;
  /** Serial number (`0A:1B:…`, as modinfo's sig_key) of the certificate that the kernel trusted while it loaded nothing unsigned; null: it asked for no signatures. */
  enforced: string | null;
  /** All that was installed. */
  installed: { package: string; version: string }[];
  /** Of these, what came from the distro's own package sources, because the packages depend on it. */
  fromDistro: string[];
  modules: ModuleProof[];
  /** Null where the distro's package sources lack this kernel's headers, so that nobody can tell. */
  saved: Saving | null;
  /** Wall seconds. */
  phases: Record<string, number>;
}
