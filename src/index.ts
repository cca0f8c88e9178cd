/**
 * dkms2bin as a library: the functions that the command line calls. They print nothing and never end the process; what happens
 * is told by events, and what goes wrong for all cells is thrown as a `Dkms2binError`.
 *
 * @packageDocumentation
 */
export { build } from './engine/local.js';
export { plan } from './engine/plan/plan.js';
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
export type { Answer, BisectResult } from './engine/plan/bisect.js';
export { buildRequest, type RequestValues } from './options/request.js';
export type { CellPattern, Expectation, MatrixPlan } from './engine/plan/matrix.js';
export type { BuildPlan, PlannedCell } from './engine/plan/types.js';
export type { BuildRequest } from './options/request.js';
export type { Arch, CellResult, KernelTarget, ModuleSource, Verdict } from './model/cell.js';
export type { MatrixCell, MatrixKernel, MatrixRun, Outcome } from './model/matrix.js';
export { Dkms2binError, EXIT_CODE, type Fault } from './model/errors.js';
export type { BuildContext, PlanContext } from './model/context.js';
export type { Emit, Event } from './model/events.js';
