import { Option, type Command } from 'commander';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { dirname, extname, resolve } from 'node:path';
import { Dkms2binError, EXIT_CODE, messageOf } from '../../model/errors.js';
import type { MatrixRun } from '../../model/matrix.js';
import type { MatrixPlan } from '../../engine/plan/matrix.js';
import { exitCodeOf, EXIT_ORDER } from '../../report/exit.js';
import { errorDocument, toJson } from '../../report/json.js';
import { oneLine, table } from '../../report/text.js';
import { createUi, withNdjson } from '../../ui/index.js';
import type { CliContext } from '../context.js';
import { mergeOptions, requestOf, type BuildOptions } from '../request.js';
import type { MatrixOutcome, QueueOptions } from '../services.js';
import * as value from '../../options/values.js';
import { queueOption, storeOption } from './worker.js';
import {
  asksForRepository,
  buildContext,
  buildOption,
  buildOptions,
  levelOf,
  publishRepository,
} from './build.js';

interface MatrixFlags extends Omit<BuildOptions, 'distro'> {
  distro?: string[];
  failFast?: true;
  resume?: true;
  report?: string[];
  events?: string;
  queue?: string;
  store?: string;
  queueWait?: number;
}

const OWN = [
  buildOption('--dkms'),
  buildOption('--kernel'),
  new Option(
    '--distro <id>',
    'distribution to look for the kernels in, such as debian-12; repeatable, or several with commas (default: found from the kernel release)',
  ).argParser(value.list('--distro')),
  buildOption('--arch'),
  buildOption('--kernel-package'),
  new Option(
    '--fail-fast',
    'stop at the first failure: cells that run are ended, too, and a later --resume builds them (default: build all)',
  ),
  new Option(
    '--resume',
    'go on with the matrix of this --out-dir that was interrupted, if there is one: what it finished is not built again',
  ),
  new Option(
    '--report <file>',
    'write a report besides, in the form that the name ends with: .html (a page for people), .md (for a pull request), .xml (JUnit) or .json; repeatable',
  ).argParser(value.repeated('--report')),
  new Option(
    '--events <file>',
    'write what happens to this file as it happens, a JSON object a line, for programs; /dev/fd/3 is a file, too (default: do not)',
  ).argParser(value.text('--events')),
];

/** Only a matrix that ends pays for loading them. */
const writers = (): Promise<typeof import('../../report/index.js')> => import('../../report/index.js');
type Report = (write: Awaited<ReturnType<typeof writers>>, outcome: MatrixOutcome, folder: string) => string;

const QUEUE = [
  queueOption(),
  storeOption(),
  new Option(
    '--queue-wait <time>',
    'end cells as errors when for so long no worker is there that can build them, such as 10m (default: they wait)',
  ).argParser(value.duration('--queue-wait')),
];

/** Reports by the end of their file's name. */
const REPORTS: Readonly<Record<string, Report>> = {
  '.json': (_, { run }) => toJson(run),
  '.xml': (write, { run }) => write.matrixJunit(run),
  '.md': (write, { run, history }) => write.matrixMarkdown(run, history),
  '.html': (write, { run, history }, folder) => write.matrixHtml(run, history, { folder }),
};

export function addMatrix(program: Command, context: CliContext): void {
  const command = program
    .command('matrix')
    .summary('build many modules for many kernels, and report which fail')
    .description(
      'Builds every module for every kernel (of every distribution), as build does, and says how each ends: which are built, which do not apply, which fail, and which of those were expected to. The section matrix of the config file names modules, kernels and distributions, and what to include, exclude and expect to fail.',
    )
    .usage('[--dkms <source>...] [--kernel <release>...] [options]');
  for (const each of OWN) command.addOption(each.helpGroup('The matrix:'));
  for (const each of QUEUE) command.addOption(each.helpGroup('More than one machine:'));
  const ours = OWN.map(({ long }) => long ?? '');
  for (const [heading, options] of buildOptions(ours))
    for (const each of options) command.addOption(each.helpGroup(heading));
  command.addHelpText(
    'after',
    `
Exit codes are those of build; a failure that the config file expects counts as 0, and a module that is built although
its failure was expected as 1, so that the file stays true.

Examples:
  dkms2bin matrix --dkms modules.txt --kernel "6.1.0-*-amd64" --report matrix.json
  dkms2bin matrix --config matrix.yaml --resume
`,
  );
  command.action((typed: MatrixFlags) => matrix(typed, context));
}

async function matrix(typed: MatrixFlags, context: CliContext): Promise<void> {
  const { engine, stdout, stderr, signal, cwd } = context;
  const { distro, failFast, resume, report = [], events, queue, store, queueWait, ...build } = typed;
  const queued = queueOf(queue, store, queueWait);
  const config = await engine.loadConfig(build.config, cwd);
  const section = config.matrix ?? {};
  const of = <T>(value: T | T[] | undefined): T[] => (value === undefined ? [] : ([value].flat() as T[]));
  const options = mergeOptions(build, {
    ...config,
    ...(section.modules !== undefined && { dkms: section.modules }),
    ...(section.kernels !== undefined && { kernel: section.kernels }),
    distro: undefined,
  });
  const request = requestOf(options, cwd);
  const distros = distro ?? of(section.distros ?? config.distro);
  const files = report.map((file) => ({ file: resolve(cwd, file), form: reportForm(file) }));

  const shown = createUi(stderr, { level: levelOf(options) }, context.env);
  const stream = events === undefined ? null : await openEvents(resolve(cwd, events));
  const ui = stream ? withNdjson(shown, (line) => stream.write(line)) : shown;
  let outcome: MatrixOutcome;
  try {
    const plan = await engine.planMatrix(request, { ...section, distros }, { emit: ui.emit, signal });
    for (const message of plan.idle) ui.emit({ type: 'note', level: 'warn', message });
    if (options.dryRun) {
      ui.close();
      stdout.write(options.json ? toJson({ schemaVersion: 1, plan }) : planText(plan));
      return;
    }
    outcome = await engine.matrix(plan, {
      ...buildContext(request, options, ui, context),
      resume: resume === true,
      failFast: failFast ?? section['fail-fast'] ?? false,
      ...(queued && { queue: queued }),
    });
    // What an interrupted matrix has built is published by the run that resumes it.
    if (
      !signal.aborted &&
      asksForRepository(options) &&
      outcome.run.cells.some((cell) => cell.package !== null)
    )
      await publishRepository(request.outDir, options, ui, context);
  } catch (error) {
    if (options.json && error instanceof Dkms2binError) stdout.write(toJson(errorDocument(error)));
    throw error;
  } finally {
    ui.close();
    await stream?.close();
  }
  const { run, history } = outcome;
  const write = await writers();
  stdout.write(options.json ? toJson(run) : write.matrixText(run, history));
  if (!options.json && !options.quiet) stderr.write(remarks(run));
  // The runner reads both streams; a document on stdout must stay one.
  if (context.env['GITHUB_ACTIONS'] === 'true') stderr.write(write.matrixAnnotations(run, history));
  // Last: one that cannot be written must not cost the result.
  for (const { file, form } of files) await writeReport(file, form(write, outcome, dirname(file)));
  context.exitCode = signal.aborted ? EXIT_CODE.interrupted : matrixExitCode(run);
}

/** Where to look next. */
function remarks({ cells, complete }: MatrixRun): string {
  const lines = cells
    .filter(({ outcome }) => outcome === 'failed' || outcome === 'error')
    .flatMap(({ module, kernel, log, kept }) => [
      ...(log === null ? [] : [`log of ${module} on ${kernel}: ${log}`]),
      ...(kept === null ? [] : [`log in to ${module} on ${kernel}: dkms2bin login ${kept}`]),
    ]);
  if (!complete) lines.push('--resume goes on with it');
  return lines.map((line) => `${oneLine(line)}\n`).join('');
}

function queueOf(
  url: string | undefined,
  store: string | undefined,
  waitSeconds: number | undefined,
): QueueOptions | null {
  if (url !== undefined && store !== undefined)
    return { url, store, ...(waitSeconds !== undefined && { waitSeconds }) };
  if (url === undefined && store === undefined && waitSeconds === undefined) return null;
  throw new Dkms2binError('usage', `--${url === undefined ? 'queue' : 'store'} is missing`, {
    hint: 'Workers are reached with both --queue and --store; without them this machine builds.',
  });
}

/** Failures as for build; an expectation that is not met is a failure of the matrix. */
export function matrixExitCode({ cells }: MatrixRun): number {
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
  throw new Dkms2binError('usage', `--report ${oneLine(file)}: no report has this form`, {
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
): Promise<{ write: (line: string) => void; close: () => Promise<void> }> {
  const stream = createWriteStream(path);
  await once(stream, 'open').catch((error: unknown) => {
    throw new Dkms2binError('usage', `--events ${path} cannot be written: ${messageOf(error)}`);
  });
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

function planText({ cells, kernels, sources }: MatrixPlan): string {
  const rows = cells.map((c) => [c.source, c.kernel, c.distro, c.arch, c.packageVersion ?? '-', c.image]);
  const head = ['SOURCE', 'KERNEL', 'DISTRO', 'ARCH', 'KERNEL PACKAGE', 'IMAGE'];
  return `${table([head, ...rows])}${cells.length} cells: ${sources.length} sources, ${kernels.length} kernels\n`;
}
