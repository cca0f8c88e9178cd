import type { Emit } from '../model/events.js';

/** How much is told: warnings only, phases and progress, or every line a guest prints too. */
export type Level = 'quiet' | 'normal' | 'verbose';

/** Part of a stream that a UI needs; process.stderr is one. */
export interface Output {
  write(text: string): unknown;
  isTTY?: boolean | undefined;
  columns?: number | undefined;
  rows?: number | undefined;
}

/** Consumes events and shows them. Between pause() and resume() the terminal belongs to somebody else. */
export interface Ui {
  emit: Emit;
  /** A line of the command's own, told at every level. */
  say(text: string): void;
  pause(): void;
  resume(): void;
  /** Leaves the terminal clean; events after it are dropped. */
  close(): void;
}

export interface UiOptions {
  level: Level;
  /** Milliseconds; a test's clock. */
  now?: () => number;
}
