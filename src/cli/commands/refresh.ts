import { Option, type Command } from 'commander';
import { Dkms2binError, EXIT_CODE } from '../../model/errors.js';
import { plain } from '../../lib/text.js';
import type { RefreshPlan } from '../../engine/plan/refresh.js';
import { DEFAULTS } from '../../options/request.js';
import type { BuildRequest } from '../../options/request.js';
import { EXIT_ORDER, WORK_TO_DO } from '../../report/exit.js';
import { SCHEMA_VERSION, toJson } from '../../report/json.js';
import { oneLine, table } from '../../report/text.js';
import { createUi } from '../../ui/index.js';
import type { CliContext } from '../context.js';
import { mergeOptions, requestOf, type BuildOptions } from '../request.js';
import * as value from '../../options/values.js';
import { watch } from '../watch.js';
import {
  asksForRepository,
  buildContext,
  buildOption,
  buildOptions,
  levelOf,
  publishRepository,
  reportError,
  reportOutcome,
} from './build.js';

interface RefreshFlags extends BuildOptions {
  newest?: true;
  /** Seconds. */
  watch?: number;
  validate?: string[];
}

/** The repository says which kernels, of which distros and for which architecture. */
const NOT_OURS = [
  '--dkms',
  '--kernel',
  '--distro',
  '--arch',
  '--kernel-package',
  '--out-dir',
  '--dry-run',
  '--force',
];

const OWN = [
  new Option(
    '--out-dir <dir>',
    `the repository: a folder of packages that dkms2bin build made, with their provenance beside them (default: ${DEFAULTS.outDir})`,
  ).argParser(value.text('--out-dir')),
  new Option(
    '--dkms <source>',
    'where the source of a held module is now: needed for what was built from a file or folder; taken instead of the one that it was built from; repeatable (default: packages of the distro are looked up there)',
  ).argParser(value.repeated('--dkms')),
  new Option(
    '--newest',
    'build for the newest kernel of each line only (default: for all that are newer than the newest one held)',
  ),
  buildOption('--dry-run'),
  new Option(
    '--force',
    'try again what failed before, although nothing has changed since (default: leave it alone)',
  ),
  new Option(
    '--watch [interval]',
    'do it now and then again at this interval, such as 30m or 6h, until it is interrupted',
  )
    .preset('6h')
    .argParser(value.interval('--watch'))
    .conflicts(['dryRun', 'validate']),
  new Option(
    '--validate <what>',
    "build for coming kernels and only report; nothing is published or changed. proposed = what waits for the distro's next point release, backports = its newer kernels, next = the release that follows, or a distribution such as debian-forky; repeatable",
  ).argParser(value.repeated('--validate')),
];

export function addRefresh(program: Command, context: CliContext): void {
  const command = program
    .command('refresh')
    .summary('build what a repository lacks since new kernels came out')
    .description(
      'Looks at which modules a folder of packages holds and for which kernels, at the kernels and module sources that the distributions offer now, and builds what is missing: each module for the kernels that are newer than the newest one held, and for the newest one again when its source changed. Give the other options that the packages were built with (signing, --repo), best by the config file.',
    )
    .usage('[--out-dir <dir>] [options]');
  for (const each of OWN) command.addOption(each.helpGroup('What to refresh:'));
  for (const [heading, options] of buildOptions(NOT_OURS))
    for (const each of options) command.addOption(each.helpGroup(heading));
  command.addHelpText(
    'after',
    `
A module that failed is not built again until its source or the kernel changes; --force tries it all the same.
Exit codes are those of build; with --dry-run ${WORK_TO_DO} says that there is something to build, and 0 that there is nothing.

Examples:
  dkms2bin refresh --out-dir ./out --dry-run
  dkms2bin refresh --out-dir ./out --repo-key ~/repo-key.asc --watch 6h
  dkms2bin refresh --out-dir ./out --validate proposed --validate next
`,
  );
  command.action(async (typed: RefreshFlags) => {
    const { newest, watch: seconds, validate = [], ...build } = typed;
    const options = mergeOptions(build, await context.engine.loadConfig(build.config, context.cwd));
    const request = { ...requestOf(options, context.cwd), kernels: [], kernelPackages: [] };
    const round = (): Promise<void> =>
      refresh(request, options, { newest: newest === true, validate }, context);
    if (seconds === undefined) return round();
    if (options.dryRun)
      throw new Dkms2binError('usage', 'dry-run in the config file and --watch exclude each other');
    const tell = (error: Dkms2binError, next: Date): void => {
      const hint = error.hint === undefined ? '' : `\n${error.hint}`;
      context.stderr.write(`dkms2bin: ${plain(`${error.message}${hint}`).trim().replaceAll('\n', '\n  ')}\n`);
      context.stderr.write(`  the next round is at ${next.toISOString()}\n`);
    };
    await watch(round, { intervalMs: seconds * 1000, signal: context.signal, tell });
    // Interrupted while it waited: that is how it ends.
    context.exitCode = 0;
  });
}

async function refresh(
  request: BuildRequest,
  options: BuildOptions,
  what: { newest: boolean; validate: string[] },
  context: CliContext,
): Promise<void> {
  const { engine, stdout, stderr, signal } = context;
  const ui = createUi(stderr, { level: levelOf(options) }, context.env);
  let outcome;
  try {
    const plan = await engine.planRefresh(request, what, { emit: ui.emit, signal });
    if (options.dryRun) {
      ui.close();
      stdout.write(options.json ? toJson(planDocument(plan)) : planText(plan));
      if (!options.json) stderr.write(remarks(plan));
      if (plan.cells.length === 0 && !options.quiet) stderr.write('nothing to build\n');
      context.exitCode = dryRunCode(plan);
      return;
    }
    outcome = await engine.refresh(plan, buildContext(request, options, ui, context));
    // Also when nothing was built: an earlier run may have ended before it could publish.
    if (asksForRepository(options) && what.validate.length === 0)
      await publishRepository(request.outDir, options, ui, context);
  } catch (error) {
    reportError(error, options, context);
    throw error;
  } finally {
    ui.close();
  }
  reportOutcome(outcome, options, context);
}

/** What can be built comes first: the run that builds it says what cannot. */
function dryRunCode({ cells, blocked }: RefreshPlan): number {
  if (cells.length > 0) return WORK_TO_DO;
  return EXIT_ORDER.find((code) => blocked.some(({ fault }) => EXIT_CODE[fault] === code)) ?? 0;
}

function planDocument({ wanted, blocked }: RefreshPlan): Record<string, unknown> {
  return {
    schemaVersion: SCHEMA_VERSION,
    missing: wanted.map(({ modules, source, version, kernel, distro, arch, why }) => ({
      ...{ modules, source: source.text, version, kernel: kernel.release, distro, arch, reason: why },
    })),
    blocked,
  };
}

function planText({ wanted, blocked }: RefreshPlan): string {
  const rows = [
    ...wanted.map(({ modules, version, kernel, distro, why }) => [
      ...[modules.join(', '), version ?? '-', kernel.release, distro, why],
    ]),
    ...blocked.map(({ modules, kernel, distro, reason }) => [
      ...[modules.join(', '), '-', kernel, distro, `cannot be built: ${reason.split('\n')[0]!}`],
    ]),
  ];
  return rows.length === 0 ? '' : table([['MODULE', 'VERSION', 'KERNEL', 'DISTRO', 'REASON'], ...rows]);
}

/** What the table's lines have no room for: places looked in, the next step. */
function remarks({ blocked }: RefreshPlan): string {
  return blocked
    .filter(({ reason }) => reason.includes('\n'))
    .map(({ modules, kernel, reason }) => {
      const more = plain(reason).split('\n').slice(1);
      return `${oneLine(modules.join(', '))} on ${oneLine(kernel)}:\n${more.map((line) => `  ${line}\n`).join('')}`;
    })
    .join('');
}
