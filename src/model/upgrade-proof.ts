import type { ModuleProof, Proof } from './proof.js';

/** The outcome of `prove --from --to`; `--json` prints it. */
export interface UpgradeProof extends Pick<
  Proof,
  'distro' | 'accelerator' | 'repository' | 'signedBy' | 'phases'
> {
  /** Kernel releases. */
  from: string;
  to: string;
  /** The distro's kernel metapackage that the machine follows, and its version that leads to the next kernel. */
  follows: { package: string; version: string };
  /** Our metapackages. */
  metapackages: string[];
  /** What each kind of upgrade did while the next kernel was offered without our package. */
  held: { upgrade: string; kept: boolean; said: string }[];
  /** What one upgrade brought once our package was published; empty when the kernel was not kept before. */
  upgraded: { package: string; version: string }[];
  /** How the modules met both kernels. */
  modules: (ModuleProof & { kernel: string })[];
  /** What went along with the old kernel. */
  removed: string[];
  /** Kernel metapackages that the distro has no more, by version: one like it stood in for each. */
  standIns: string[];
}

/** Whether the machine keeps its driver. */
export const holds = ({ held, modules, upgraded }: UpgradeProof): boolean =>
  held.every(({ kept }) => kept) &&
  upgraded.length > 0 &&
  modules.every(({ verdict }) => verdict !== 'failed');
