import type { BisectOutcome, BisectStep } from '../../engine/bisect.js';
import { oneLine } from '../../lib/text.js';
import { EXIT, EXIT_CODE } from '../../model/errors.js';
import { requestOf } from '../../options/request.js';
import { exitCodeOf } from '../../report/exit.js';
import { bisectDocument } from '../../report/json.js';
import { table } from '../../report/text.js';
import { command } from '../frame.js';
import { buildContext, planDocument, planText } from './build.js';

export const bisect = command({
  name: 'bisect',
  summary: 'find the first kernel for which a module no longer builds',
  description:
    "Builds one DKMS module for kernels between a good one and a bad one, halving the list each time, until it knows the first bad one. The list holds the kernels of the same flavour in the distro's archive.",
  usage: '--dkms <source> --good <release> --bad <release> [options]',
  heading: 'What to search:',
  notes: `Both ends are tried first. A kernel that the module skips, or that cannot be tried, is left out. Packages that are
built stay in the output folder and are not built again.
Exit codes: 0 found · 1 the module is not for kernels in between, so that more than one can be the first bad one; when those
could not be tried, the code of that fault · 2 also for a --good that fails and a --bad that builds · otherwise as build.`,
  examples: ['dkms2bin bisect --dkms v4l2loopback-dkms --good 6.1.0-56-amd64 --bad 6.12.117+deb12-amd64'],
  run: async ({ options: { good, bad, ...options } }, context) => {
    const { engine, ui, signal, answer } = context;
    const request = requestOf(options, context.cwd);
    const plan = await engine.planBisect(request, { good, bad }, { emit: ui.emit, signal });
    if (options.dryRun) {
      await engine.checkPlan(plan, { emit: ui.emit, signal });
      answer(
        () => planDocument(plan),
        () => planText(plan),
      );
      return;
    }
    const step = ({ kernel, answer: is }: BisectStep): void =>
      ui.emit({ type: 'note', level: 'info', message: `bisect: ${kernel} is ${is}` });
    const outcome = await engine.bisect(plan, { ...buildContext(request, options, context), step });
    answer(
      () => bisectDocument(outcome),
      () => text(outcome),
    );
    return outcome.status === 'ambiguous' ? ambiguousCode(outcome) : EXIT.ok;
  },
});

/** Kernels that could not be tried are worth another try; those that the module is not for stay as they are. */
function ambiguousCode({ steps, untested }: BisectOutcome): number {
  const cells = steps.filter(({ kernel }) => untested.includes(kernel)).flatMap((step) => step.cells);
  return exitCodeOf(cells) || EXIT_CODE.module;
}

function text({ status, lastGood, firstBad, untested, steps }: BisectOutcome): string {
  const rows = steps.map(({ kernel, answer, cells }) => {
    const [reason = ''] = (cells.find(({ verdict }) => verdict !== 'built')?.reason ?? '').split('\n');
    return [answer, kernel, reason];
  });
  const end =
    status === 'found'
      ? `first bad kernel: ${firstBad} (${lastGood} is good)`
      : `first bad kernel: one of ${[...untested, firstBad].join(', ')} (${lastGood} is good)`;
  return `${table(rows)}${oneLine(end)}\n`;
}
