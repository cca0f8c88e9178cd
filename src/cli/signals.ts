import { closeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { Dkms2binError, EXIT_CODE } from '../model/errors.js';

interface Process {
  on(event: string, listener: () => void): unknown;
  off(event: string, listener: () => void): unknown;
  exit(code: number): unknown;
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * The first signal aborts, so that VMs and files are cleaned up; the second leaves at once (the next run cleans up).
 * Returns the way to take the handlers away again.
 */
export function onSignals(target: Process, controller: AbortController): () => void {
  const handlers = SIGNALS.map((name) => {
    const handler = (): void => {
      if (!controller.signal.aborted) controller.abort(new Dkms2binError('interrupted', 'Interrupted'));
      // A closed terminal sends SIGHUP and then often SIGTERM or SIGINT too: SIGHUP never counts as the second.
      else if (name !== 'SIGHUP') target.exit(EXIT_CODE.interrupted);
    };
    target.on(name, handler);
    return [name, handler] as const;
  });
  return () => {
    for (const [name, handler] of handlers) target.off(name, handler);
  };
}

/**
 * Makes the exit code hold after the terminal was closed. At its exit Node.js puts back the modes of the terminals it was
 * started on, and aborts (SIGABRT) when one of them is gone.
 */
export function outliveTerminal(): void {
  const terminals = [0, 1, 2].filter((fd) => isatty(fd));
  process.on('exit', () => {
    for (const fd of terminals) if (!isatty(fd)) closeSync(fd);
  });
}
