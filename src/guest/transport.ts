import type { Writable } from 'node:stream';

/** What to run as root in the guest: a shell command line, or a Python program. */
export type Command = { sh: string } | { python: string };

export interface ExecIo {
  input?: string | Buffer | { file: string };
  /** Written with back-pressure and ended when the command has ended. */
  stdout: Writable;
  stderr: Writable;
  /** Hears that the command has taken some more of its input. */
  onInput?: (() => void) | undefined;
  timeoutMs: number;
  /** Ends the command before, as `timeoutMs` does. */
  giveUp?: AbortSignal | undefined;
}

/** For what is given up by its silence: no time that it may take is too long. */
export const AS_LONG_AS_IT_TAKES_MS = 12 * 3600 * 1000;

export interface Ended {
  /** Exit code; null when a signal or the timeout ended the command. */
  code: number | null;
  timedOut: boolean;
}

/**
 * A way to run commands in a guest, one at a time. `exec` rejects with fault `transient` when the way itself breaks and
 * `interrupted` when the signal it was made with aborts; whatever the command does is in what it resolves with.
 */
export interface Transport {
  exec(command: Command, io: ExecIo): Promise<Ended>;
  close(): Promise<void>;
}

/** Ends a stream and waits until it has taken everything, or has broken. */
export function endOf(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed) resolve();
    else stream.end(() => resolve());
  });
}
