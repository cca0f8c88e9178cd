import { z } from 'zod';
import type { Cost } from '../../model/proof.js';
import { Dkms2binError } from '../../model/errors.js';
import type { Guest, GuestOutput, ScriptRun } from '../guest.js';
import { programText, type ProgramName } from '../program.js';
import { readEnd, valuesOf } from '../protocol.js';

/** One for each family of package managers; they have the same result lines and exit codes. */
export type InstallProgram = Extract<ProgramName, `install-kernel-${string}`>;

export interface InstallVariables {
  RELEASE: string;
  VARIANT: 'build' | 'runtime';
  SUITE: string;
  ARCHIVE_URI: string;
  ARCHIVE_SUITE: string;
  /** Certificates of further authorities, PEM; may be empty. */
  AUTHORITIES: string;
  /** Folder in the guest with packages to use first; may be empty. */
  KERNEL_PACKAGE_DIR: string;
  /** Packages to install besides the toolchain, words with blanks between; may be empty. */
  BUILD_PACKAGES: string;
  /** Folder in the guest with more of them; may be empty. */
  BUILD_PACKAGE_DIR: string;
  /** What the package manager of the distro needs besides. */
  [ofPackageManager: string]: string;
}

/** What installing a kernel left in the guest, by its own word. */
export interface InstalledKernel {
  /** Versions of image, headers, gcc and dkms, '' for what it does not name. */
  versions: Record<string, string>;
  rootUuid: string;
  /** Of a booted image: those of its kernel arguments that its root and its security module need, each with a blank in front. */
  bootArguments: string;
  /** Of a machine without a toolchain: what one would take; null when the package sources lack it. */
  toolchain: Cost | null;
  /** What the user is to know of it. */
  notes: string[];
}

/** Runs the program that installs a kernel. `readInstalledKernel` reads what came of it. */
export const installKernel = (
  guest: Guest,
  program: InstallProgram,
  vars: InstallVariables,
  run: ScriptRun,
): Promise<GuestOutput> => guest.script(program, vars, run);

/** The same program with its variables, for a layer that is made on the host. */
export const installKernelText = (program: InstallProgram, vars: InstallVariables): Promise<string> =>
  programText(program, vars);

const VERSIONS = [
  'image-package',
  'image-version',
  'headers-version',
  'gcc-version',
  'dkms-version',
  'kernel-compiler',
];
const UUID = z.string().regex(/^[0-9a-f-]{36}$/);
/** Root on a subvolume, and SELinux where it is not the kernel's default. */
const KEPT_ARGUMENT = /^(?:rootflags|rootfstype|security|lsm|selinux|enforcing|apparmor)=[\w.,:=@/-]+$/;
/** Packages, KiB installed, bytes to download. */
const TOOLCHAIN = z
  .string()
  .regex(/^[1-9]\d{0,5} [1-9]\d{0,11} [1-9]\d{0,11}$/)
  .transform((text): Cost => {
    const [packages = 0, kib = 0, downloadBytes = 0] = text.split(' ').map(Number);
    return { packages, installedBytes: kib * 1024, downloadBytes };
  });

/** What the installing program reported. Throws what its exit code means, and `transient` for a report without a root file system. */
export function readInstalledKernel(
  output: GuestOutput,
  target: { release: string; distro: string },
): InstalledKernel {
  readEnd(output, ['DONE'], (why) => {
    const near = valuesOf(output, 'near').slice(-8);
    return {
      message: `Kernel ${target.release} could not be installed in the ${target.distro} image: ${why}`,
      hint: near.length > 0 ? `Releases that exist there: ${near.join(', ')}` : undefined,
    };
  });
  const said = (key: string): string => valuesOf(output, key).at(-1) ?? '';
  const rootUuid = UUID.safeParse(said('root-uuid'));
  if (!rootUuid.success) {
    throw new Dkms2binError(
      'transient',
      `The image reports no UUID of its root file system (${said('root-uuid')})`,
    );
  }
  const toolchain = TOOLCHAIN.safeParse(said('toolchain'));
  return {
    versions: Object.fromEntries(VERSIONS.map((key) => [key, said(key)])),
    rootUuid: rootUuid.data,
    bootArguments: said('cmdline')
      .split(' ')
      .filter((word) => KEPT_ARGUMENT.test(word))
      .map((word) => ` ${word}`)
      .join(''),
    toolchain: toolchain.success ? toolchain.data : null,
    notes: valuesOf(output, 'note').slice(0, 8),
  };
}
