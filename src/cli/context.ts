import type { Engine } from './services.js';
import type { Output } from '../ui/index.js';

/** All that a command touches outside itself. */
export interface CliContext {
  engine: Engine;
  stdin: NodeJS.ReadableStream & { isTTY?: boolean };
  stdout: Output;
  stderr: Output & NodeJS.WritableStream;
  env: Readonly<Record<string, string | undefined>>;
  cwd: string;
  /** Aborted by the first SIGINT, SIGTERM or SIGHUP. */
  signal: AbortSignal;
}
