import type { CellResult } from '../model/cell.js';
import type { BuildContext, PlanContext } from '../model/context.js';
import { Dkms2binError } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { cacheDir } from '../lib/paths.js';
import { availableKernels } from '../distro/kernels.js';
import { kindOf } from '../distro/nearest.js';
import { compareReleases } from '../formats/versions.js';
import { findRow, catalogueOf } from '../distro/catalogue.js';
import { answerOf, bisectKernels, endError, type Answer, type BisectResult } from './plan/bisect.js';
import type { BuildPlan } from './plan/types.js';
import type { BuildRequest } from '../options/request.js';
import { build } from './local.js';
import { deepFreeze, plan } from './plan/plan.js';

/** One kernel that was asked. */
export interface BisectStep {
  kernel: string;
  answer: Answer;
  cells: CellResult[];
}

export interface BisectContext extends BuildContext {
  /** Called after each kernel. */
  step: (step: BisectStep) => void;
}

export interface BisectOutcome extends BisectResult {
  /** In the order asked. */
  steps: BisectStep[];
}

/**
 * One cell for each kernel from `good` to `bad`, the oldest first: those of the distro's archive that are of the same kind
 * (flavour), or those that the request names. Throws `usage` for ends of two distros or kinds, in the wrong order, and for
 * more than one source.
 */
export async function planBisect(
  request: BuildRequest,
  { good, bad }: { good: string; bad: string },
  context: PlanContext,
): Promise<BuildPlan> {
  const wrong = wrongEnds(good, bad);
  if (wrong !== null) throw new Dkms2binError('usage', wrong);
  const ends = await plan({ ...request, kernels: [good, bad] }, context);
  const sources = new Set(ends.cells.map(({ source }) => source));
  const [end] = ends.cells;
  if (!end || sources.size !== 1)
    throw new Dkms2binError('usage', `bisect takes one module, but --dkms names ${sources.size}`);
  const [distro = '', other = distro] = [...new Set(ends.cells.map((cell) => cell.distro))];
  if (other !== distro)
    throw new Dkms2binError('usage', `${good} is a kernel of ${distro}, but ${bad} is one of ${other}`, {
      hint: 'Give two kernels of one distro.',
    });
  const between = (await candidates({ ...request, arch: end.arch }, distro, context)).filter(
    (release) =>
      kindOf(release) === kindOf(good) &&
      compareReleases(good, release) < 0 &&
      compareReleases(release, bad) < 0,
  );
  const kernels = [good, ...[...new Set(between)].sort(compareReleases), bad];
  const all = await plan({ ...request, distro, kernels }, context);
  return deepFreeze({ ...all, request: { ...request, distro, kernels } });
}

function wrongEnds(good: string, bad: string): string | null {
  const pattern = [good, bad].find((each) => each === 'latest' || /[*?[\]]/.test(each));
  if (pattern !== undefined) return `--good and --bad are exact releases, not ${pattern}`;
  if (kindOf(good) !== kindOf(bad)) return `${good} and ${bad} are kernels of different kinds`;
  return compareReleases(good, bad) < 0 ? null : `--good ${good} is not older than --bad ${bad}`;
}

async function candidates(request: BuildRequest, distro: string, context: PlanContext): Promise<string[]> {
  if (request.kernels.length > 0)
    return (await plan({ ...request, distro }, context)).cells.map(({ kernel }) => kernel);
  const kernels = await availableKernels(findRow(await catalogueOf({ ...request, distro }), distro), {
    cacheDir: cacheDir(),
    arch: request.arch,
    offline: request.offline,
    mirror: request.mirror,
    proxy: request.proxy,
    signal: context.signal,
    warn: (message) => context.emit({ type: 'note', level: 'warn', message }),
  });
  return kernels.map(({ release }) => release);
}

/** Builds one kernel after the other until the first bad one is found; what the out-dir has already is not built again. */
export async function bisect(plan: BuildPlan, context: BisectContext): Promise<BisectOutcome> {
  const steps: BisectStep[] = [];
  // Each kernel is a build of its own, and would say again what the one before said of this machine.
  const said = new Set<string>();
  const emit: Emit = (event) => {
    if (event.type === 'note' && event.cell === undefined) {
      if (said.has(event.message)) return;
      said.add(event.message);
    }
    context.emit(event);
  };
  const ask = async (kernel: string): Promise<Answer> => {
    const cells = plan.cells.filter((cell) => cell.kernel === kernel);
    const outcome = await build({ ...plan, cells }, { ...context, emit });
    const step = { kernel, answer: answerOf(outcome.cells), cells: outcome.cells };
    steps.push(step);
    context.step(step);
    return step.answer;
  };
  const kernels = plan.cells.map(({ kernel }) => kernel);
  const found = await bisectKernels(kernels, ask, (end, kernel, answer) =>
    endError(end, kernel, answer, steps.at(-1)?.cells ?? []),
  );
  return { ...found, steps };
}
