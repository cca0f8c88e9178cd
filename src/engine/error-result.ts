import type { CellResult } from '../model/cell.js';
import { messageOf, type Dkms2binError } from '../model/errors.js';
import type { PlannedCell } from './plan/types.js';

/** The row of a cell that ended before its modules were known; `phases` in seconds. */
export function errorResult(
  cell: PlannedCell,
  error: Dkms2binError,
  phases: Record<string, number> = {},
): CellResult {
  return {
    module: cell.source,
    version: null,
    kernel: cell.kernel,
    distro: cell.distro,
    arch: cell.arch,
    verdict: error.fault === 'module' ? 'failed' : 'error',
    reason: error.hint ? `${messageOf(error)}\n${error.hint}` : messageOf(error),
    package: null,
    log: null,
    phases,
    kept: (error as { kept?: string }).kept ?? null,
    fault: error.fault,
  };
}
