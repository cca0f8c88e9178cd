import type { CellResult } from '../model/cell.js';
import { EXIT_CODE, EXIT_ORDER } from '../model/errors.js';

/** An `error` cell without a fault counts as a guest fault (5), a `failed` one always as the module's (1). */
export function exitCodeOf(cells: readonly CellResult[]): number {
  const codes = new Set<number>(
    cells
      .filter((cell) => cell.verdict === 'failed' || cell.verdict === 'error')
      .map((cell) => EXIT_CODE[cell.fault ?? (cell.verdict === 'failed' ? 'module' : 'transient')]),
  );
  return EXIT_ORDER.find((code) => codes.has(code)) ?? 0;
}
