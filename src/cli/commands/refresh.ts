import { resolve } from 'node:path';
import { Dkms2binError, EXIT, EXIT_CODE, EXIT_ORDER } from '../../model/errors.js';
import { oneLine, plain } from '../../lib/text.js';
import type { RefreshPlan } from '../../engine/plan/refresh.js';
import { requestOf } from '../../options/request.js';
import type { OptionsOf } from '../../options/table.js';
import { SCHEMA_VERSION } from '../../report/json.js';
import { table } from '../../report/text.js';
import { command, type CommandContext } from '../frame.js';
import { watch } from '../watch.js';
import { asksForRepository, buildContext, noResult, publishRepository, reportOutcome } from './build.js';

export const refresh = command({
  name: 'refresh',
  summary: 'build what a repository lacks since new kernels came out',
  description:
    'Compares the packages in a folder with the kernels and module sources that the distributions offer now, and builds what is missing: each module for the kernels that are newer than the newest one it was built for, and for that one again when its source has changed. Give the other options that the packages were built with (signing, --repo), preferably in the config file.',
  usage: '[--out-dir <dir>] [options]',
  heading: 'What to refresh:',
  notes: `A module that failed is not built again until its source or the kernel changes; --force tries it anyway.
Exit codes are those of build; with --dry-run ${EXIT['work-to-do']} says that there is something to build, and 0 that there is nothing.`,
  examples: [
    'dkms2bin refresh --out-dir ./out --dry-run',
    'dkms2bin refresh --out-dir ./out --repo-key ~/repo-key.asc --watch 6h',
    'dkms2bin refresh --out-dir ./out --repo --watch 6h --notify https://chat.example.org/hooks/KEY',
    'dkms2bin refresh --out-dir ./out --validate proposed --validate next',
  ],
  errorDocument: noResult,
  repeat: async (once, { options: { watchSeconds, dryRun } }, { stderr, signal }) => {
    if (watchSeconds === undefined) return once();
    if (dryRun)
      throw new Dkms2binError('usage', 'dry-run in the config file cannot be used with --watch', {
        hint: 'Remove dry-run from the file, or leave out --watch.',
      });
    const tell = (error: Dkms2binError, next: Date): void => {
      const hint = error.hint === undefined ? '' : `\n${error.hint}`;
      stderr.write(`dkms2bin: ${plain(`${error.message}${hint}`).trim().replaceAll('\n', '\n  ')}\n`);
      stderr.write(`  the next round is at ${next.toISOString()}\n`);
    };
    await watch(once, { intervalMs: watchSeconds * 1000, signal, tell });
    // Interrupted while it waited: that is how it ends.
    return EXIT.ok;
  },
  run: async ({ options }, context) => {
    const { signal, stderr } = context;
    const { json, quiet } = options;
    if (!options.dryRun) return round(options, context);
    const plan = await planOf(options, context);
    await context.engine.checkPlan(plan, { emit: context.ui.emit, signal });
    context.answer(
      () => planDocument(plan),
      () => planText(plan),
    );
    if (!json) stderr.write(remarks(plan));
    if (plan.cells.length === 0 && !quiet) stderr.write('nothing to build\n');
    return dryRunCode(plan);
  },
});

type Options = OptionsOf<'refresh'>;

function planOf(options: Options, { engine, ui, signal, cwd }: CommandContext): Promise<RefreshPlan> {
  const { newest, validate } = options;
  return engine.planRefresh(requestOf(options, cwd), { newest, validate }, { emit: ui.emit, signal });
}

/** Builds, publishes, and tells whoever is to be told, also of what ended it. */
async function round(options: Options, context: CommandContext): Promise<number> {
  const { engine, ui, signal, cwd } = context;
  const { notify: url, outDir, proxy } = options;
  const tell = async (what: Parameters<typeof engine.notify>[2]): Promise<void> => {
    if (url !== undefined)
      await engine.notify(resolve(cwd, outDir), url, what, { emit: ui.emit, signal, proxy });
  };
  try {
    const plan = await planOf(options, context);
    const request = requestOf(options, cwd);
    const outcome = await engine.refresh(plan, buildContext(request, options, context));
    // Also when nothing was built: an earlier run may have ended before it could publish.
    const published =
      asksForRepository(options) && options.validate.length === 0
        ? await publishRepository(request.outDir, options, context)
        : null;
    if (!signal.aborted) await tell({ cells: outcome.cells, metapackages: published?.metapackages ?? null });
    return reportOutcome(outcome, options, context);
  } catch (error) {
    if (error instanceof Dkms2binError && !signal.aborted) await tell({ error });
    throw error;
  }
}

/** What can be built comes first: the run that builds it says what cannot. */
function dryRunCode({ cells, blocked }: RefreshPlan): number {
  if (cells.length > 0) return EXIT['work-to-do'];
  return EXIT_ORDER.find((code) => blocked.some(({ fault }) => EXIT_CODE[fault] === code)) ?? 0;
}

const firstLine = (text: string): string => text.split('\n')[0] ?? '';

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
      ...[modules.join(', '), '-', kernel, distro, `cannot be built: ${firstLine(reason)}`],
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
