import type { Stage } from './stages.js';

/** What work tells the outside. `ui/` shows it, and what it took is written down; nothing else decides on an event. */
export type Event =
  | { type: 'note'; level: 'info' | 'warn' | 'debug'; message: string; cell?: string }
  /** A stage of a cell (or of what cells share, then without `cell`) began or ended; `seconds` is wall time. */
  | { type: 'phase'; state: 'start' | 'end'; phase: Stage; cell?: string; seconds?: number }
  /** `total` is absent when the server does not say. Units are bytes. */
  | { type: 'progress'; what: string; done: number; total?: number }
  /** One line of output of a guest command, already stripped of control bytes. */
  | { type: 'output'; cell?: string; line: string }
  /** All cells of a matrix, before the first of them has its turn; `seconds` is what it took before. */
  | { type: 'matrix'; cells: MatrixEventCell[] }
  /** What a run will do and what it finds there, before it does it; `seconds` is about how long all of it takes. */
  | {
      type: 'course';
      ahead: CourseStep[];
      there: string[];
      seconds: number;
      /** Where an emulated VM's compiler runs. */
      compiles?: 'host' | 'guest';
    }
  /** A cell of a matrix got its turn. */
  | { type: 'turn'; cell: string; worker: string }
  | { type: 'cell'; cell: string; verdict: string; reason?: string; package?: string };

export type Emit = (event: Event) => void;

/** A step of a run, as expected. */
export interface CourseStep {
  /** What its other events name it by: `progress.what`, `phase.phase`, `cell`. */
  kind: 'download' | 'stage' | 'cell';
  key: string;
  /** For people. */
  what: string;
  /** Wall time. */
  seconds: number;
  /** To download, where that is known. */
  bytes?: number;
  /** Lines that it printed the last time. */
  lines?: number;
  /** It is a part of getting the image. */
  image?: true;
}

export interface MatrixEventCell {
  /** As other events name it. */
  cell: string;
  source: string;
  kernel: string;
  distro: string;
  seconds: number | null;
  /** Of its modules, when an interrupted run has finished it; else empty. */
  outcomes: string[];
}
