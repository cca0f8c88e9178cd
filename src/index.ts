/**
 * dkms2bin as a library: the functions that the command line calls. They print nothing and never end the process; what happens
 * is told by events, and what goes wrong for all cells is thrown as a `Dkms2binError`.
 *
 * @packageDocumentation
 */
export type { BuildContext } from './engine/cells.js';
export { build } from './engine/local.js';
export { plan, type PlanContext } from './engine/plan.js';
export {
  bisect,
  planBisect,
  type BisectContext,
  type BisectOutcome,
  type BisectStep,
} from './engine/bisect.js';
export type { CellDone, Executor, ExecutorContext } from './engine/executor.js';
export {
  matrix,
  planMatrix,
  type MatrixContext,
  type MatrixOutcome,
  type MatrixRules,
} from './engine/matrix.js';
export {
  loadSigningKey,
  publishRepository,
  type RepositoryOptions,
  type RepositoryResult,
  type SigningKey,
} from './repo/index.js';
export type { Answer, BisectResult } from './plan/bisect.js';
export { buildRequest, type RequestValues } from './plan/request.js';
export type { CellPattern, Expectation, MatrixPlan } from './plan/matrix.js';
export type { BuildPlan, BuildRequest, PlannedCell } from './plan/types.js';
export type { Arch, CellResult, KernelTarget, ModuleSource, Verdict } from './core/cell.js';
export type { MatrixCell, MatrixKernel, MatrixRun, Outcome } from './core/matrix.js';
export { Dkms2binError, EXIT_CODE, type Fault } from './core/errors.js';
export type { Emit, Event } from './core/events.js';
