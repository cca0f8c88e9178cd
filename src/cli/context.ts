import type { Engine } from './services.js';
import type { Keyboard } from '../lib/keyboard.js';
import type { Output } from '../ui/index.js';

/** All that a command touches outside itself. */
export interface CliContext {
  engine: Engine;
  stdin: Keyboard;
  stdout: Output;
  stderr: Output & NodeJS.WritableStream;
  env: Readonly<Record<string, string | undefined>>;
  cwd: string;
  /** Aborted by the first SIGINT, SIGTERM or SIGHUP. */
  signal: AbortSignal;
  /** Does what SIGINT does: for a Ctrl-C that came as a character. */
  interrupt: () => void;
}
