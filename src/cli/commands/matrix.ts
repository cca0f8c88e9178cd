import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { dirname, extname, resolve, sep } from 'node:path';
import { Dkms2binError, EXIT_CODE, EXIT_ORDER, messageOf } from '../../model/errors.js';
import type { MatrixRun } from '../../model/matrix.js';
import { oneLine, plural } from '../../lib/text.js';
import type { MatrixOutcome } from '../../engine/matrix.js';
import type { MatrixPlan } from '../../engine/plan/matrix.js';
import type { QueueOptions } from '../../engine/queue/executor.js';
import { requestOf, requirePair } from '../../options/request.js';
import type { OptionsOf } from '../../options/table.js';
import { exitCodeOf } from '../../report/exit.js';
import { SCHEMA_VERSION, toJson } from '../../report/json.js';
import { withNdjson } from '../../ui/index.js';
import { command, type Asked, type CommandContext } from '../frame.js';
import { asksForRepository, buildContext, planText, publishRepository } from './build.js';
import { makeFolder } from '../../lib/make-folder.js';

/** Only a matrix that ends pays for loading them. */
const writers = (): Promise<typeof import('../../report/index.js')> => import('../../report/index.js');
type Report = (write: Awaited<ReturnType<typeof writers>>, outcome: MatrixOutcome, folder: string) => string;

/** Reports by the end of their file's name. */
const REPORTS: Readonly<Record<string, Report>> = {
  '.json': (_, { run }) => toJson(run),
  '.xml': (write, { run }) => write.matrixJunit(run),
  '.md': (write, { run, history }) => write.matrixMarkdown(run, history),
  '.html': (write, { run, history }, folder) => write.matrixHtml(run, history, { folder }),
};

export const matrix = command({
  name: 'matrix',
  summary: 'build many modules for many kernels, and report which fail',
  description:
    'Builds every module for every kernel (of every distribution), as build does, and says how each ends: which are built, which do not apply, which fail, and which of those were expected to. The section matrix of the config file names modules, kernels and distributions, and what to include, exclude and expect to fail.',
  usage: '[--dkms <source>...] [--kernel <release>...] [options]',
  heading: 'The matrix:',
  notes: `Exit codes are those of build; a failure that the config file expects counts as 0, and a module that is built although
its failure was expected as 1, so that the file stays true.`,
  examples: [
    'dkms2bin matrix --dkms modules.txt --kernel "6.1.0-*-amd64" --report matrix.json',
    'dkms2bin matrix --config matrix.yaml --resume',
  ],
  // The section's words for what other commands find under dkms, kernel and distro.
  file: ({ matrix: section = {}, ...config }) => ({
    ...config,
    dkms: section.modules ?? config.dkms,
    kernel: section.kernels ?? config.kernel,
    distro: section.distros ?? config.distro,
    'fail-fast': section['fail-fast'],
  }),
  run: async (asked, context) => {
    const { options } = asked;
    const { cwd, signal } = context;
    const queue = queueOf(options);
    const files = options.reports.map((file) => ({ file: resolve(cwd, file), form: reportForm(file) }));
    const stream =
      options.events === undefined
        ? null
        : await openEvents(resolve(cwd, options.events), resolve(cwd, options.outDir));
    const ui = stream ? withNdjson(context.ui, (line) => stream.write(line)) : context.ui;
    let outcome: MatrixOutcome | null;
    try {
      outcome = await runMatrix(asked, queue, { ...context, ui });
    } finally {
      context.ui.close();
      await stream?.close();
    }
    if (outcome === null) return;
    await tell(outcome, options, context);
    // Last: one that cannot be written must not cost the result.
    const write = await writers();
    for (const { file, form } of files) await writeReport(file, form(write, outcome, dirname(file)));
    return signal.aborted ? EXIT_CODE.interrupted : matrixExitCode(outcome.run);
  },
});

/** Null after --dry-run. */
async function runMatrix(
  { options, config }: Asked<'matrix'>,
  queue: QueueOptions | null,
  context: CommandContext,
): Promise<MatrixOutcome | null> {
  const { engine, ui, signal } = context;
  // Its distros are a rule of the matrix, not one for all.
  const { distros, resume, failFast } = options;
  const request = requestOf(options, context.cwd);
  const plan = await engine.planMatrix(request, { ...config.matrix, distros }, { emit: ui.emit, signal });
  for (const message of plan.idle) ui.emit({ type: 'note', level: 'warn', message });
  if (options.dryRun) {
    // With workers the certificate alone says which of them may build.
    if (queue === null) requirePair(request);
    context.answer(
      () => ({ schemaVersion: SCHEMA_VERSION, plan }),
      () => `${planText(plan)}${sizeOf(plan)}\n`,
    );
    return null;
  }
  const building = { ...buildContext(request, options, context), resume, failFast };
  const outcome = await engine.matrix(plan, { ...building, ...(queue && { queue }) });
  // What an interrupted matrix has built is published by the run that resumes it.
  const built = outcome.run.cells.some((cell) => cell.package !== null);
  if (!signal.aborted && asksForRepository(options) && built)
    await publishRepository(request.outDir, options, context);
  return outcome;
}

async function tell(
  { run, history }: MatrixOutcome,
  { json, quiet }: { json: boolean; quiet: boolean },
  { stderr, env, answer }: CommandContext,
): Promise<void> {
  const write = await writers();
  answer(
    () => run,
    () => write.matrixText(run, history),
  );
  if (!json && !quiet) stderr.write(remarks(run));
  // The runner reads both streams; a document on stdout must stay one.
  if (env['GITHUB_ACTIONS'] === 'true') stderr.write(write.matrixAnnotations(run, history));
}

const sizeOf = ({ cells, kernels, sources }: MatrixPlan): string =>
  `${plural(cells.length, 'cell')}: ${plural(sources.length, 'source')}, ${plural(kernels.length, 'kernel')}`;

/** Where to look next. */
function remarks({ cells, complete }: MatrixRun): string {
  const lines = cells
    .filter(({ outcome }) => outcome === 'failed' || outcome === 'error')
    .flatMap(({ module, kernel, log, kept }) => [
      ...(log === null ? [] : [`log of ${module} on ${kernel}: ${log}`]),
      ...(kept === null ? [] : [`log in to ${module} on ${kernel}: dkms2bin login ${kept}`]),
    ]);
  if (!complete) lines.push('--resume continues it');
  return lines.map((line) => `${oneLine(line)}\n`).join('');
}

function queueOf({
  queue: url,
  store,
  queueWaitSeconds: waitSeconds,
}: OptionsOf<'matrix'>): QueueOptions | null {
  if (url !== undefined && store !== undefined)
    return { url, store, ...(waitSeconds !== undefined && { waitSeconds }) };
  if (url === undefined && store === undefined && waitSeconds === undefined) return null;
  throw new Dkms2binError('usage', `--${url === undefined ? 'queue' : 'store'} is missing`, {
    hint: 'To use workers, give both --queue and --store; without them this machine builds.',
  });
}

/** Failures as for build; an expectation that is not met is a failure of the matrix. */
function matrixExitCode({ cells }: MatrixRun): number {
  const bad = cells.filter(({ outcome }) => outcome === 'failed' || outcome === 'error');
  const codes = [
    exitCodeOf(bad.flatMap(({ verdict, ...cell }) => (verdict === null ? [] : [{ ...cell, verdict }]))),
    ...(cells.some(({ outcome }) => outcome === 'unexpected-pass') ? [EXIT_CODE.module] : []),
  ];
  return EXIT_ORDER.find((code) => codes.includes(code)) ?? 0;
}

function reportForm(file: string): Report {
  const form = REPORTS[extname(file).toLowerCase()];
  if (form) return form;
  throw new Dkms2binError('usage', `--report ${oneLine(file)}: unknown kind of report`, {
    hint: `The name must end with ${Object.keys(REPORTS).join(', ')}.`,
  });
}

async function writeReport(file: string, text: string): Promise<void> {
  try {
    await writeFile(file, text);
  } catch (error) {
    throw new Dkms2binError('usage', `The report ${file} cannot be written: ${(error as Error).message}`);
  }
}

/** A file for events. A reader that goes away, or a full disk, ends the events and not the matrix. */
async function openEvents(
  path: string,
  outDir: string,
): Promise<{ write: (line: string) => void; close: () => Promise<void> }> {
  const refuse = (error: unknown): never => {
    throw new Dkms2binError('usage', `--events ${path} cannot be written: ${messageOf(error)}`, {
      hint: 'Name a file in a folder that you may write to.',
    });
  };
  // The out-dir is made later. A folder elsewhere that is missing is rather a typing error.
  const inside = dirname(path) === outDir || path.startsWith(`${outDir}${sep}`);
  if (inside) await makeFolder(dirname(path)).catch(refuse);
  const stream = createWriteStream(path);
  await once(stream, 'open').catch(refuse);
  let broken = false;
  stream.on('error', () => (broken = true));
  return {
    write: (line) => {
      if (!broken) stream.write(line);
    },
    close: async () => {
      stream.end();
      if (!broken) await once(stream, 'close').catch(() => undefined);
    },
  };
}
