import type { Arch, CellResult } from './cell.js';

/**
 * How a cell of a matrix counts. `built`, `up-to-date`, `skipped` and `expected-failure` are as wished; an
 * `unexpected-pass` was built although a failure was expected, so the expectation is out of date; `not-run` had no turn.
 */
export type Outcome =
  | 'built'
  | 'up-to-date'
  | 'skipped'
  | 'expected-failure'
  | 'unexpected-pass'
  | 'failed'
  | 'error'
  | 'not-run';

/** One row of a matrix: a module of a source on one kernel. A source with several modules has several. */
export interface MatrixCell extends Omit<CellResult, 'verdict'> {
  /** As `--dkms` named it. */
  source: string;
  /** Null when it had no turn. */
  verdict: CellResult['verdict'] | null;
  outcome: Outcome;
  /** Why the matrix expects this cell to fail; null where it does not. */
  expected: string | null;
  /** Fingerprint (SHA-256, hex) of the certificate that signed the modules; null when they are not signed. */
  signedBy: string | null;
  /** The last lines of make.log, at most 16 KiB, long lines shortened; null when there is none. */
  logTail: string | null;
  /** ISO 8601; null when it had no turn in this run. */
  startedAt: string | null;
  /** Wall seconds from its turn to its verdict, the waiting for a layer not included; null when it had no turn. */
  seconds: number | null;
  /** Name of the machine that built it; null for one that was not built now. */
  worker: string | null;
}

export interface MatrixKernel {
  release: string;
  distro: string;
  arch: Arch;
  /** The distro's version of the image package; null when only files were given. */
  packageVersion: string | null;
}

/** A whole run of a matrix: what `matrix --json` prints and what reports are made of. */
export interface MatrixRun {
  schemaVersion: 1;
  /** Sorts by time. */
  run: string;
  /** Version of dkms2bin. */
  tool: string;
  startedAt: string;
  endedAt: string;
  /** Whether Ctrl-C or fail-fast ended it before all cells had their turn. */
  complete: boolean;
  accelerators: string[];
  /** By distro, newest first. */
  kernels: MatrixKernel[];
  /** In the order asked for. */
  sources: string[];
  cells: MatrixCell[];
}
