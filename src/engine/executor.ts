import type { CellResult } from '../model/cell.js';
import type { PlanContext } from '../model/context.js';
import type { BuildPlan, PlannedCell } from './plan/types.js';

/** Who builds the cells of a plan: this machine, or workers that take them from a queue. */
export interface Executor {
  /**
   * Builds every cell of the plan, in an order of its own choosing, and calls `ended` once for each. The package and log paths
   * of results are below the plan's out-dir by then. When `signal` is aborted, it starts no more, ends what runs,
   * leaves nothing behind and resolves; cells without a verdict had no turn. Rejects only for what ends the whole run.
   */
  run(plan: BuildPlan, context: ExecutorContext): Promise<void>;
}

export interface ExecutorContext extends PlanContext {
  /** Wall seconds that a cell took before, null when it was never built: long ones go first. */
  expectedSeconds: (cell: PlannedCell) => number | null;
  /** A cell got its turn; `worker` is the name of the machine. Not called for one that needs no VM, as it is up to date. */
  begun: (cell: PlannedCell, worker: string) => void;
  ended: (cell: PlannedCell, done: CellDone) => Promise<void>;
}

export interface CellDone {
  results: CellResult[];
  worker: string;
  /** `kvm` or `tcg`; null when no VM ran. */
  accelerator: string | null;
  /** Wall seconds, the waiting for image and layer not included. */
  seconds: number;
}
