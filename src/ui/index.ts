import { plainUi } from './plain.js';
import { ttyUi } from './tty.js';
import type { Output, Ui, UiOptions } from './ui.js';

export type { Level, Output, Ui, UiOptions } from './ui.js';
export { withNdjson } from './ndjson.js';

/** Live lines on a terminal; plain lines in a pipe, in CI, on a dumb terminal and when every output line is shown. */
export function createUi(
  output: Output,
  options: UiOptions,
  env: Readonly<Record<string, string | undefined>>,
): Ui {
  const live = output.isTTY === true && !env['CI'] && env['TERM'] !== 'dumb';
  return live && options.level === 'normal' ? ttyUi(output, options) : plainUi(output, options);
}
