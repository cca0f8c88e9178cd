import type { CellResult } from '../model/cell.js';
import type { Dkms2binError } from '../model/errors.js';
import type { Proof } from '../model/proof.js';
import type { UpgradeProof } from '../model/upgrade-proof.js';

export const SCHEMA_VERSION = 1;

/**
 * One JSON document. JSON.stringify leaves C1, DEL and bidi controls as they are; here they become `\uXXXX`,
 * so that the document is safe on a terminal and loses nothing.
 */
export function toJson(value: unknown): string {
  const text = JSON.stringify(value, null, 2).replace(
    /[\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `${text}\n`;
}

/** The document of `build --json`; `error` is there only when the run ended before it had cells to report. */
export function resultDocument(
  outcome: { run: string | null; accelerator: string | null; cells: readonly CellResult[] },
  error?: Dkms2binError,
): Record<string, unknown> {
  return {
    schemaVersion: SCHEMA_VERSION,
    run: outcome.run,
    accelerator: outcome.accelerator,
    cells: outcome.cells.map(cellDocument),
    ...errorField(error),
  };
}

function cellDocument(cell: CellResult): Record<string, unknown> {
  return {
    module: cell.module,
    version: cell.version,
    kernel: cell.kernel,
    distro: cell.distro,
    arch: cell.arch,
    verdict: cell.verdict,
    reason: cell.reason,
    package: cell.package,
    ...(cell.otherPackages === undefined ? {} : { otherPackages: cell.otherPackages }),
    log: cell.log,
    phases: cell.phases,
    kept: cell.kept,
    fault: cell.fault,
    ...(cell.notes === undefined ? {} : { notes: cell.notes }),
    ...(cell.reproducible === undefined ? {} : { reproducible: cell.reproducible }),
  };
}

/** The document of `prove --json`: of a proof, or of what ended it. */
export function proofDocument(outcome: Proof | UpgradeProof | Dkms2binError): Record<string, unknown> {
  return outcome instanceof Error ? errorDocument(outcome) : { schemaVersion: SCHEMA_VERSION, ...outcome };
}

/** The document of what ended a command before it had a result. */
export function errorDocument(error: Dkms2binError): Record<string, unknown> {
  return { schemaVersion: SCHEMA_VERSION, ...errorField(error) };
}

/** The document of `bisect --json`: of a search, or of what ended it. */
export function bisectDocument(
  outcome: { status: string; steps: readonly { cells: readonly CellResult[] }[] } | Dkms2binError,
): Record<string, unknown> {
  if (outcome instanceof Error) return { schemaVersion: SCHEMA_VERSION, ...errorField(outcome) };
  return {
    schemaVersion: SCHEMA_VERSION,
    ...outcome,
    steps: outcome.steps.map((step) => ({ ...step, cells: step.cells.map(cellDocument) })),
  };
}

function errorField(error: Dkms2binError | undefined): Record<string, unknown> {
  return error ? { error: { fault: error.fault, message: error.message, hint: error.hint ?? null } } : {};
}
