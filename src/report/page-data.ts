import type { CellResult } from '../model/cell.js';
import type { MatrixKernel, Outcome } from '../model/matrix.js';

/** What html.ts writes into the page and page/client.js shows. Every text is plain: no control bytes, never HTML. */
export interface PageData {
  run: string;
  tool: string;
  startedAt: string;
  endedAt: string;
  complete: boolean;
  accelerators: string[];
  words: Record<Outcome, { word: string; sign: string }>;
  /** Worst first; those of no cell are left out. */
  counts: [outcome: Outcome, count: number][];
  kernels: MatrixKernel[];
  rows: PageRow[];
  /** The runs that `PageCell.past` speaks of, oldest first. */
  pastRuns: { run: string; startedAt: string }[];
  broke: PageStory[];
  fixed: PageStory[];
  /** Modules that do not build on the newest kernel; `withNewest` when the one before it was still good. */
  broken: (PageStory & { withNewest: boolean })[];
}

/** A line of what changed. `row` and `column` are those of the cell to open, null when this run does not have it. */
export interface PageStory {
  module: string;
  /** Kept on one line each where there is room. */
  parts: string[];
  row: number | null;
  column: number | null;
}

interface PageRow {
  /** With the source when the module alone would not tell it. */
  name: string;
  module: string;
  source: string;
  cells: (PageCell | null)[];
}

export interface PageCell {
  outcome: Outcome;
  version: string | null;
  reason: string;
  expected: string | null;
  fault: CellResult['fault'];
  package: PageFile | null;
  log: PageFile | null;
  logTail: string | null;
  phases: [name: string, seconds: number][];
  /** Null when it was not checked. */
  reproducible: boolean | null;
  signedBy: string | null;
  worker: string | null;
  seconds: number | null;
  startedAt: string | null;
  kept: string | null;
  past: (Outcome | null)[];
}

/** `href` is null when the page's place is not known. */
export interface PageFile {
  name: string;
  href: string | null;
}
