import type { CellResult } from '../model/cell.js';
import { EXIT_CODE } from '../model/errors.js';

/**
 * Exit codes from the one to report first. A failed module is a true answer, so it comes last: any other code says
 * that some cell has no answer yet, and why.
 */
export const EXIT_ORDER = [130, 4, 3, 2, 5, 1] as const;

/** Of `refresh --dry-run`: there is something to build. */
export const WORK_TO_DO = 6;

/** An `error` cell without a fault counts as a guest fault (5), a `failed` one always as the module's (1). */
export function exitCodeOf(cells: readonly CellResult[]): number {
  const codes = new Set(
    cells
      .filter((cell) => cell.verdict === 'failed' || cell.verdict === 'error')
      .map((cell) => EXIT_CODE[cell.fault ?? (cell.verdict === 'failed' ? 'module' : 'transient')]),
  );
  return EXIT_ORDER.find((code) => codes.has(code)) ?? 0;
}
