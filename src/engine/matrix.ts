import { open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { moduleNames } from '../cell/source.js';
import type { BuildContext, PlanContext } from '../model/context.js';
import type { KernelTarget } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { MatrixCell, MatrixRun } from '../model/matrix.js';
import { packageVersion } from '../lib/paths.js';
import { newRunId } from '../lib/run-id.js';
import { plain } from '../lib/text.js';
import { findRow, catalogueOf, type CatalogueRow } from '../distro/catalogue.js';
import type { Matrix } from '../options/config.js';
import {
  expectedOf,
  matrixPlan,
  notRun,
  outcomeOf,
  recordedSeconds,
  type MatrixInput,
  type MatrixPlan,
} from './plan/matrix.js';
import type { NamedSource } from './plan/refresh.js';
import { parseModuleSource, sourceOptions } from './plan/source.js';
import type { PlannedCell } from './plan/types.js';
import type { BuildRequest } from '../options/request.js';
import { filesOf, MatrixStore, type FinishedCell } from './matrix-store.js';
import { plannedIdentities } from './planned-identities.js';
import { writableFolder } from './cells.js';
import { attesterOf, fingerprintOf } from './signer.js';
import { cellLabel } from './plan/planned-cell.js';
import type { CellDone, Executor } from './executor.js';
import { localExecutor } from './local.js';
import { deepFreeze, planTargets } from './plan/plan.js';

/** The matrix beside the request: distros to look for kernels in, and the file's rules. */
export interface MatrixRules extends Pick<Matrix, 'include' | 'exclude' | 'expect-failure'> {
  /** Empty: the kernels tell, or this host's own. */
  distros?: readonly string[];
}

/** Turns a request into the frozen matrix. Reads package indexes, starts no VM, writes nothing but caches. */
export async function planMatrix(
  request: BuildRequest,
  rules: MatrixRules,
  context: PlanContext,
): Promise<MatrixPlan> {
  const { include = [], exclude = [], 'expect-failure': expectations = [], distros = [] } = rules;
  const { signal } = context;
  const sourcesOf = async (text: string): Promise<NamedSource[]> => {
    const sources = await parseModuleSource(text, sourceOptions(request, context));
    return Promise.all(sources.map(async (source) => ({ source, names: await moduleNames(source, signal) })));
  };
  if (request.dkms.length === 0 && include.length === 0) {
    throw new Dkms2binError(
      'usage',
      'No module for the matrix: neither --dkms nor the config file names one',
      {
        hint: 'For example: dkms2bin matrix --dkms acpi-call-dkms --dkms v4l2loopback-dkms --kernel "6.1.0-*-amd64"',
      },
    );
  }
  const rows = await catalogueOf(request);
  const input: MatrixInput = {
    sources: (await Promise.all(request.dkms.map(sourcesOf))).flat(),
    targets: request.dkms.length === 0 ? [] : await targetsOf(request, distros, rows, context),
    include: [],
    exclude,
    expectations,
  };
  const more: { source: NamedSource; target: KernelTarget }[] = [];
  for (const { module, kernel, distro } of include) {
    const targets = await targetsOf(
      { ...request, kernels: [kernel] },
      distro === undefined ? distros : [distro],
      rows,
      context,
    );
    for (const source of await sourcesOf(module)) for (const target of targets) more.push({ source, target });
  }
  return deepFreeze(matrixPlan(request, { ...input, include: more }));
}

/** Of several distros each kernel must be in one. */
async function targetsOf(
  request: BuildRequest,
  distros: readonly string[],
  rows: CatalogueRow[],
  context: PlanContext,
): Promise<KernelTarget[]> {
  if (distros.length < 2) {
    const [distro = request.distro] = distros;
    return planTargets({ ...request, ...(distro !== undefined && { distro }) }, rows, context);
  }
  const targets: KernelTarget[] = [];
  for (const kernel of request.kernels.length === 0 ? ['latest'] : request.kernels) {
    const missing: Dkms2binError[] = [];
    for (const distro of distros) {
      try {
        targets.push(...(await planTargets({ ...request, kernels: [kernel], distro }, rows, context)));
      } catch (error) {
        // Not there, or of another distro; a distro that does not exist is another mistake.
        if (!(error instanceof Dkms2binError) || !['not-found', 'usage'].includes(error.fault)) throw error;
        findRow(rows, distro);
        missing.push(error);
      }
    }
    const [first] = missing;
    if (first && missing.length === distros.length) throw first;
  }
  return targets;
}

export interface MatrixContext extends BuildContext {
  /** Goes on with an interrupted matrix of this out-dir, if there is one. */
  resume?: boolean;
  /** Ends everything at the first failure. */
  failFast?: boolean;
}

/** A run, and earlier ones of the same out-dir, the oldest first. */
export interface MatrixOutcome {
  run: MatrixRun;
  history: MatrixRun[];
}

/**
 * Builds a matrix. Each cell that ends is written to a journal at once, so that an interrupted matrix can be resumed;
 * interrupted by `signal`, it resolves all the same, with what is done.
 */
export async function matrix(
  plan: MatrixPlan,
  context: MatrixContext,
  executorOf: (run: string) => Executor = (run) => localExecutor(run, context),
): Promise<MatrixOutcome> {
  const { emit, signal } = context;
  const { request } = plan;
  const outDir = await writableFolder(resolve(request.cwd, request.outDir));
  const signedBy = await fingerprintOf(request);
  const attester = (await attesterOf(request))?.keyid ?? null;
  const ids = await plannedIdentities(plan, { signer: signedBy, attester }, context);
  await using store = await MatrixStore.open(outDir, emit);
  const history = await store.history();
  const before = await takenOver(store, plan, ids, context);
  const run = before?.run ?? newRunId();
  const startedAt = before?.startedAt ?? new Date().toISOString();
  const finished = new Map<PlannedCell, FinishedCell>(before?.finished);
  await store.begin({ schemaVersion: 1, run, startedAt, ids: [...ids.values()] }, [...finished.values()]);

  const expectedSeconds = recordedSeconds(history);
  emit({
    type: 'matrix',
    cells: plan.cells.map((cell) => ({
      ...{ cell: cellLabel(cell), source: cell.source, kernel: cell.kernel, distro: cell.distro },
      seconds: expectedSeconds(cell),
      outcomes: finished.get(cell)?.rows.map(({ outcome }) => outcome) ?? [],
    })),
  });
  const stop = new AbortController();
  const turns = new Map<PlannedCell, string>();
  /** Wall seconds of sources in this run: what no earlier run built is known from its first kernel. */
  const measured = new Map<string, number>();
  const ended = async (cell: PlannedCell, done: CellDone): Promise<void> => {
    // What needed no VM had no turn.
    const startedAt = turns.get(cell) ?? new Date(Date.now() - done.seconds * 1000).toISOString();
    const rows = await rowsOf(plan, cell, done, { startedAt, signedBy });
    const id = ids.get(cell);
    if (id === undefined) throw new Error(`${cellLabel(cell)} is not a cell of this matrix`);
    const entry = { id, rows, accelerator: done.accelerator, files: await filesOf(rows) };
    await store.append(entry);
    finished.set(cell, entry);
    if (turns.has(cell)) measured.set(cell.source, done.seconds);
    for (const { outcome, reason, package: file } of rows) {
      const more = { ...(reason !== null && { reason }), ...(file !== null && { package: file }) };
      emit({ type: 'cell', cell: cellLabel(cell), verdict: outcome, ...more });
    }
    if (context.failFast && rows.some(isBad)) stop.abort();
  };
  const cells = plan.cells.filter((cell) => !finished.has(cell));
  try {
    if (cells.length > 0)
      await executorOf(run).run(
        { ...plan, cells },
        {
          emit,
          signal: AbortSignal.any([signal, stop.signal]),
          expectedSeconds: (cell) => expectedSeconds(cell) ?? measured.get(cell.source) ?? null,
          begun: (cell, worker) => {
            turns.set(cell, new Date().toISOString());
            emit({ type: 'turn', cell: cellLabel(cell), worker });
          },
          ended,
        },
      );
  } catch (error) {
    // Ctrl-C reaches the children too, and what it ends may blame them.
    if (!signal.aborted) throw error;
  }
  const document: MatrixRun = {
    schemaVersion: 1,
    run,
    tool: packageVersion(),
    startedAt,
    endedAt: new Date().toISOString(),
    complete: plan.cells.every((cell) => finished.has(cell)),
    accelerators: [...new Set([...finished.values()].flatMap(({ accelerator }) => accelerator ?? []))].sort(),
    kernels: [...plan.kernels],
    sources: [...plan.sources],
    cells: plan.cells.flatMap((cell) => finished.get(cell)?.rows ?? [notRun(plan, cell)]),
  };
  await store.end(document);
  return { run: document, history: history.filter((each) => each.run !== run) };
}

/** What fail-fast ends a matrix for. */
const isBad = ({ outcome }: MatrixCell): boolean =>
  outcome === 'failed' || outcome === 'error' || outcome === 'unexpected-pass';

/** What of an interrupted matrix counts for this one, too. An `error` is no answer: such a cell has its turn again. */
async function takenOver(
  store: MatrixStore,
  plan: MatrixPlan,
  ids: ReadonlyMap<PlannedCell, string>,
  { resume, emit }: MatrixContext,
): Promise<{ run: string; startedAt: string; finished: [PlannedCell, FinishedCell][] } | null> {
  const before = await store.interrupted();
  const note = (level: 'info' | 'warn', message: string): void => emit({ type: 'note', level, message });
  if (!before) {
    if (resume) note('info', 'No interrupted matrix to resume; starting a new one');
    return null;
  }
  const { header } = before;
  const total = header.ids.length;
  if (!resume) {
    note(
      'info',
      `A matrix was interrupted after ${before.finished.length} of ${total} cells; --resume continues it`,
    );
    return null;
  }
  const known = new Map(before.finished.map((each) => [each.id, each]));
  const finished: [PlannedCell, FinishedCell][] = [];
  for (const [cell, id] of ids) {
    const entry = known.get(id);
    if (!entry || entry.rows.some(({ verdict }) => verdict === 'error')) continue;
    // What is expected may have been changed in between.
    const rows = entry.rows.flatMap((row) => {
      const { verdict } = row;
      if (verdict === null) return [];
      const expected = expectedOf(plan, cell, row.module);
      return { ...row, source: cell.source, expected, outcome: outcomeOf({ ...row, verdict }, expected) };
    });
    finished.push([cell, { ...entry, rows }]);
  }
  const now = [...ids.values()];
  const added = now.filter((id) => !header.ids.includes(id)).length;
  const gone = header.ids.filter((id) => !now.includes(id)).length;
  if (added + gone > 0) {
    const cells = (count: number): string => `${count} ${count === 1 ? 'cell' : 'cells'}`;
    note(
      'warn',
      `The matrix is not the one that was interrupted: ${cells(added)} new or changed, ${cells(gone)} gone`,
    );
  }
  note('info', `Resumed: ${finished.length} of ${now.length} cells are done`);
  return { run: header.run, startedAt: header.startedAt, finished };
}

async function rowsOf(
  plan: MatrixPlan,
  cell: PlannedCell,
  { results, worker, seconds }: CellDone,
  { startedAt, signedBy }: { startedAt: string; signedBy: string | null },
): Promise<MatrixCell[]> {
  return Promise.all(
    results.map(async (result): Promise<MatrixCell> => {
      const expected = expectedOf(plan, cell, result.module);
      const outcome = outcomeOf(result, expected);
      return {
        ...result,
        source: cell.source,
        outcome,
        expected,
        signedBy: result.package === null ? null : signedBy,
        logTail: result.log === null ? null : await tailOf(result.log),
        startedAt,
        seconds,
        worker: result.phases.boot === undefined ? null : worker,
      };
    }),
  );
}

const TAIL_BYTES = 16 * 1024;
/** Of a log in which make prints its commands: kilobytes each, of which nobody reads more than the beginning. */
const READ_BYTES = 8 * TAIL_BYTES;
const LINE_LENGTH = 300;

async function tailOf(path: string): Promise<string> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  const at = Math.max(0, size - READ_BYTES);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(Math.min(size, READ_BYTES)), 0, undefined, at);
  const lines = plain(buffer.subarray(0, bytesRead).toString('utf8'))
    .split('\n')
    // The first line is cut.
    .slice(at > 0 ? 1 : 0)
    .map((line) => (line.length > LINE_LENGTH ? `${line.slice(0, LINE_LENGTH)} …` : line));
  let from = lines.length;
  for (let bytes = 0; from > 0; from -= 1) {
    bytes += Buffer.byteLength(lines[from - 1] ?? '') + 1;
    if (bytes > TAIL_BYTES) break;
  }
  return lines.slice(from).join('\n');
}
