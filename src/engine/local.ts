import type { CellResult } from '../model/cell.js';
import type { BuildContext } from '../model/context.js';
import { Dkms2binError } from '../model/errors.js';
import { sameModulesOf } from '../repo/index.js';
import { newRunId } from '../lib/run-id.js';
import { vmsAtOnce } from './budget.js';
import { CellRunner } from './cells.js';
import type { CellDone, Executor } from './executor.js';
import { catalogueOf } from '../distro/catalogue.js';
import { reckon, type Undertaking } from './course.js';
import { tidyImages } from './images.js';
import { cellLabel } from './plan/planned-cell.js';
import type { BuildPlan, PlannedCell } from './plan/types.js';
import { Schedule } from './schedule.js';

/**
 * Builds every cell of a plan, all of one architecture: image, layers, build, package, proof. Cells never stop each other.
 */
export async function build(
  plan: BuildPlan,
  context: BuildContext,
): Promise<{ run: string; accelerator: string | null; cells: CellResult[] }> {
  const { emit, signal } = context;
  const run = newRunId();
  const done = new Map<PlannedCell, CellDone>();
  await localExecutor(run, context).run(plan, {
    emit,
    signal,
    expectedSeconds: () => null,
    begun: () => undefined,
    ended: (cell, result) => {
      done.set(cell, result);
      for (const { verdict, reason, package: file } of result.results) {
        const more = { ...(reason !== null && { reason }), ...(file !== null && { package: file }) };
        emit({ type: 'cell', cell: cellLabel(cell), verdict, ...more });
      }
      return Promise.resolve();
    },
  });
  if (signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
  const results = plan.cells.flatMap((cell) => done.get(cell) ?? []);
  const packages = results.flatMap((each) => each.results.flatMap(({ package: file }) => file ?? []));
  for (const message of await sameModulesOf(packages)) emit({ type: 'note', level: 'warn', message });
  return {
    run,
    accelerator: results.find(({ accelerator }) => accelerator !== null)?.accelerator ?? null,
    cells: results.flatMap((each) => each.results),
  };
}

function undertakingOf({ request, cells }: BuildPlan): Omit<Undertaking, 'jobs'> {
  return {
    request,
    targets: [...new Map(cells.map(({ target }) => [`${target.distro} ${target.release}`, target])).values()],
    cells: cells.map((cell) => ({ label: cellLabel(cell), source: cell.source })),
  };
}

/** Builds cells here, in as many VMs at once as fit. */
export function localExecutor(run: string, context: BuildContext): Executor {
  return {
    run: async (plan, turn) => {
      const stop = new AbortController();
      const signal = AbortSignal.any([turn.signal, stop.signal]);
      const jobs = await vmsAtOnce(plan.request, plan.cells.length);
      const reckoning = reckon(turn.emit);
      await using runner = await CellRunner.open(plan, run, { ...context, emit: reckoning.emit, signal });
      await reckoning.begin(
        { ...undertakingOf(plan), jobs },
        await catalogueOf(plan.request),
        runner.machine,
      );
      const ended = async (cell: PlannedCell, done: CellDone): Promise<void> => {
        reckoning.built(cellLabel(cell), done);
        await turn.ended(cell, done);
      };
      const told = { ...turn, ended, emit: reckoning.emit, signal };
      await new Schedule(plan.cells, { jobs, runner, stop }, told).done();
      await reckoning.end();
      await tidyImages({ emit: turn.emit, signal });
    },
  };
}
