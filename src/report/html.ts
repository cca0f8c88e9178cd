import type { MatrixRun } from '../core/matrix.js';
import { matrixText } from './matrix-text.js';

/** One self-contained page. `folder` is where the page is written to: links to packages and logs are relative to it. */
export function matrixHtml(
  run: MatrixRun,
  history: readonly MatrixRun[],
  options: { folder?: string } = {},
): string {
  void options;
  return matrixText(run, history);
}
