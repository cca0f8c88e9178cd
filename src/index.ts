export { build } from './engine/local.js';
export { plan } from './engine/plan.js';
export {
  loadSigningKey,
  publishRepository,
  type RepositoryOptions,
  type RepositoryResult,
  type SigningKey,
} from './repo/index.js';
export type { BuildPlan, BuildRequest, PlannedCell } from './plan/types.js';
export type { Arch, CellResult, KernelTarget, ModuleSource, Verdict } from './core/cell.js';
export { Dkms2binError, EXIT_CODE, type Fault } from './core/errors.js';
export type { Emit, Event } from './core/events.js';
