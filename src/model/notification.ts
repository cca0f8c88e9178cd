import type { CellResult } from './cell.js';
import type { Fault } from './errors.js';

type Place = Pick<CellResult, 'module' | 'version' | 'kernel' | 'distro' | 'arch'>;

/** What `refresh --notify` posts. */
export interface Notification {
  schemaVersion: 1;
  /** The same for people. */
  text: string;
  tool: string;
  host: string;
  repository: string;
  at: string;
  /** `package`: file name. */
  built: (Place & { package: string })[];
  failing: (Place & Pick<CellResult, 'verdict' | 'reason' | 'log'>)[];
  held: HeldBack[];
  /** What ended the round before it had a result. */
  error: { fault: Fault; message: string; hint: string | null } | null;
}

export interface HeldBack {
  /** The metapackage of ours. */
  package: string;
  /** For apt the kernel metapackage, for dnf and zypper the package of the kernel's image. */
  follows: string;
  distro: string;
  kernel: string;
  waitsFor: string;
  version: string;
  why: string;
}
