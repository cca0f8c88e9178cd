import type { Emit } from './events.js';

/** What a caller gives to all work: where its events go, and what ends it. */
export interface PlanContext {
  emit: Emit;
  signal: AbortSignal;
}

/** The same with the questions that a build may have; each is absent when nobody is there to answer. */
export interface BuildContext extends PlanContext {
  /** Called while the VM of a failed cell still runs; the cell ends when it resolves. */
  onFailure?: (run: { id: string; login: () => Promise<void> }) => Promise<void>;
  /** Asks for the passphrase of a signing key. */
  askPassphrase?: (question: string) => Promise<string>;
}
