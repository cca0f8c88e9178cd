import { Option, type Command } from 'commander';
import { Dkms2binError } from '../../model/errors.js';
import type { BisectOutcome, BisectStep } from '../../engine/bisect.js';
import { exitCodeOf } from '../../report/exit.js';
import { bisectDocument, toJson } from '../../report/json.js';
import { oneLine, table } from '../../report/text.js';
import { createUi } from '../../ui/index.js';
import type { CliContext } from '../context.js';
import { mergeOptions, requestOf, type BuildOptions } from '../request.js';
import * as value from '../../options/values.js';
import { buildContext, buildOptions, levelOf, planDocument, planText } from './build.js';

type BisectFlags = BuildOptions & { good: string; bad: string };

const NOT_OURS = [
  '--kernel',
  '--kernel-package',
  '--check-reproducible',
  '--repo',
  '--repo-key',
  '--keep',
  '--jobs',
];

export function addBisect(program: Command, context: CliContext): void {
  const command = program
    .command('bisect')
    .summary('find the first kernel for which a module no longer builds')
    .description(
      "Builds one DKMS module for kernels between one that is good and one that is bad, halving the list each time, until it knows the first bad one. The list is that of the distro's archive, of the same flavour.",
    )
    .usage('--dkms <source> --good <release> --bad <release> [options]');
  const own = [
    new Option('--good <release>', 'kernel for which the module builds (required)')
      .argParser(value.text('--good'))
      .makeOptionMandatory(),
    new Option('--bad <release>', 'newer kernel for which it fails (required)')
      .argParser(value.text('--bad'))
      .makeOptionMandatory(),
    new Option(
      '--kernel <release>',
      "kernel to take into account, exact or a quoted pattern, also one that only an archive of old packages has; repeatable (default: all that the distro's archive has now)",
    ).argParser(value.repeated('--kernel')),
  ];
  for (const each of own) command.addOption(each.helpGroup('What to search:'));
  for (const [heading, options] of buildOptions(NOT_OURS))
    for (const each of options) command.addOption(each.helpGroup(heading));
  command.addHelpText(
    'after',
    `
Both ends are tried first. A kernel that the module skips, or that cannot be tried, is stepped over. Packages that are
built stay in the output folder and are not built again.
Exit codes: 0 found · 1 the module is not for kernels in between, so that more than one can be the first bad one; when those
could not be tried, the code of that fault · 2 also for a --good that fails and a --bad that builds · otherwise as build.

Example:
  dkms2bin bisect --dkms v4l2loopback-dkms --good 6.1.0-56-amd64 --bad 6.12.117+deb12-amd64
`,
  );
  command.action(({ good, bad, ...typed }: BisectFlags) => bisect({ good, bad }, typed, context));
}

async function bisect(
  ends: { good: string; bad: string },
  typed: BuildOptions,
  context: CliContext,
): Promise<void> {
  const { engine, stdout, stderr, signal } = context;
  const { kernel: _ofBuild, ...config } = await engine.loadConfig(typed.config, context.cwd);
  const options = mergeOptions(typed, config);
  const request = { ...requestOf(options, context.cwd), kernelPackages: [] };
  const ui = createUi(stderr, { level: levelOf(options) }, context.env);
  let outcome;
  try {
    const plan = await engine.planBisect(request, ends, { emit: ui.emit, signal });
    if (options.dryRun) {
      ui.close();
      stdout.write(options.json ? toJson(planDocument(plan)) : planText(plan));
      return;
    }
    const step = ({ kernel, answer }: BisectStep): void =>
      ui.emit({ type: 'note', level: 'info', message: `bisect: ${kernel} is ${answer}` });
    outcome = await engine.bisect(plan, { ...buildContext(request, options, ui, context), step });
  } catch (error) {
    if (options.json && error instanceof Dkms2binError)
      stdout.write(
        toJson(bisectDocument(signal.aborted ? new Dkms2binError('interrupted', 'Interrupted') : error)),
      );
    throw error;
  } finally {
    ui.close();
  }
  stdout.write(options.json ? toJson(bisectDocument(outcome)) : text(outcome));
  if (outcome.status === 'ambiguous') context.exitCode = ambiguousCode(outcome);
}

/** Kernels that could not be tried are worth another try; those that the module is not for stay as they are. */
function ambiguousCode({ steps, untested }: BisectOutcome): number {
  const cells = steps.filter(({ kernel }) => untested.includes(kernel)).flatMap((step) => step.cells);
  return exitCodeOf(cells) || 1;
}

function text({ status, lastGood, firstBad, untested, steps }: BisectOutcome): string {
  const rows = steps.map(({ kernel, answer, cells }) => {
    const reason = cells.find(({ verdict }) => verdict !== 'built')?.reason ?? '';
    return [answer, kernel, reason.split('\n')[0]!];
  });
  const end =
    status === 'found'
      ? `first bad kernel: ${firstBad} (${lastGood} is good)`
      : `first bad kernel: one of ${[...untested, firstBad].join(', ')} (${lastGood} is good)`;
  return `${table(rows)}${oneLine(end)}\n`;
}
