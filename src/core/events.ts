/** What work tells the outside. Only `ui/` consumes it; nothing decides on an event. */
export type Event =
  | { type: 'note'; level: 'info' | 'warn' | 'debug'; message: string; cell?: string }
  /** A named phase of a cell (or of a shared layer) began or ended; `seconds` is wall time. */
  | { type: 'phase'; state: 'start' | 'end'; phase: string; cell?: string; seconds?: number }
  /** `total` is absent when the server does not say. Units are bytes. */
  | { type: 'progress'; what: string; done: number; total?: number }
  /** One line of output of a guest command, already stripped of control bytes. */
  | { type: 'output'; cell?: string; line: string }
  | { type: 'cell'; cell: string; verdict: string; reason?: string; package?: string };

export type Emit = (event: Event) => void;
