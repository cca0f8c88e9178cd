import type { Arch, KernelTarget, ModuleSource } from '../../model/cell.js';
import type { BuildRequest } from '../../options/request.js';

/** One cell to build, in words that print. */
export interface PlannedCell {
  readonly source: string;
  readonly kernel: string;
  readonly distro: string;
  readonly arch: Arch;
  /** The distro's version of the kernel image package; null when only files were given. */
  readonly packageVersion: string | null;
  readonly image: string;
  readonly fileStyle: 'release' | 'dkms';
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
  readonly otherSources?: readonly ModuleSource[];
}
