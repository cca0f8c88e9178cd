export type Verdict = 'built' | 'skipped' | 'failed' | 'error';

/** Architectures by the kernel's name (`uname -m`) and the Debian name. */
export const ARCHES = ['x86_64', 'aarch64'] as const;
export type Arch = (typeof ARCHES)[number];
export const DEB_ARCH: Record<Arch, string> = { x86_64: 'amd64', aarch64: 'arm64' };
/** The guest kernel's name of the VM's serial port. */
export const CONSOLE: Record<Arch, string> = { x86_64: 'ttyS0', aarch64: 'ttyAMA0' };
/** Of this machine; KVM runs no other, and programs of another need qemu-user. */
export const HOST_ARCH = process.arch === 'arm64' ? 'aarch64' : 'x86_64';

/** Where a source was fetched from. */
export interface SourceOrigin {
  /** Of a git repository or a file, without user and password. */
  url: string;
  /** Of a git repository: what was built. */
  commit?: string;
}

interface FileSource<Kind> {
  kind: Kind;
  text: string;
  path: string;
  /** Absent for what lay on the machine of whoever asked. */
  origin?: SourceOrigin;
}

/** Where one DKMS module's source comes from. Local paths are absolute. */
export type ModuleSource =
  | {
      kind: 'repo';
      text: string;
      name: string;
      version?: string;
      /** The DKMS module that was asked for by its own name, of which `name` is what its package is likely called. */
      module?: string;
    }
  | FileSource<'deb'>
  | FileSource<'rpm'>
  | FileSource<'folder'>
  | FileSource<'tarball'>;

/** One target: an exact kernel of one distro. `distro` is a catalogue id such as `debian-12`. */
export interface KernelTarget {
  release: string;
  distro: string;
  arch: Arch;
  /** The distro's version of the image package, as the index or the file says; absent when only files were given. */
  packageVersion?: string;
  /** Suite to install from (`bookworm-backports`), for apt's `-t`. */
  suite?: string;
  /** An extra apt source line's URL parts when the kernel only exists in the archive of old packages. */
  archive?: { uri: string; suite: string };
  /** Of a kernel that was given as files: what the packages of image and headers are called, by what is in them. */
  packages?: { image: string; headers?: string };
  /** Packages to download by name, when no repository carries the kernel any more. */
  files?: { url: string; sha256?: string }[];
}

/** One row of the result; `--json` prints these. */
export interface CellResult {
  module: string;
  version: string | null;
  kernel: string;
  distro: string;
  arch: Arch;
  verdict: Verdict;
  reason: string | null;
  /** Absolute path of the package in --out-dir, null unless built. */
  package: string | null;
  /** Absolute paths of the packages that came with it: what all kernels share, debug symbols; absent when there are none. */
  otherPackages?: string[];
  /** Absolute path of make.log beside the packages, null when no build ran. */
  log: string | null;
  /** Wall seconds per phase; `build` is the guest's own `dkms build`. */
  phases: Record<string, number>;
  /** Kept run to log in to, null unless the VM was kept. */
  kept: string | null;
  /** Set for verdict error and failed: decides the exit code. */
  fault: 'module' | 'usage' | 'not-found' | 'host' | 'transient' | 'interrupted' | null;
  /** What whoever installs the package should know, a line each; absent when there is nothing. */
  notes?: string[];
  /** Whether a second build gave the same packages to the byte; absent when that was not checked. */
  reproducible?: boolean;
}
