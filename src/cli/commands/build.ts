import { Dkms2binError, EXIT_CODE, messageOf } from '../../model/errors.js';
import { oneLine } from '../../lib/text.js';
import type { BuildContext } from '../../model/context.js';
import type { BuildPlan } from '../../engine/plan/types.js';
import { requestOf, type BuildRequest } from '../../options/request.js';
import { exitCodeOf } from '../../report/exit.js';
import { resultDocument, SCHEMA_VERSION } from '../../report/json.js';
import { failureText, resultLines, summary, table } from '../../report/text.js';
import type { Ui } from '../../ui/index.js';
import { askSecret, askYes } from '../ask.js';
import type { CliContext } from '../context.js';
import { command, type CommandContext } from '../frame.js';
import type { PublishResult } from '../services.js';
import { heldText, publishFolder, type PublishingOptions } from './repo.js';

/** What a build, and what builds as it does, comes to. */
type Outcome = Parameters<typeof resultDocument>[0];

export const build = command({
  name: 'build',
  summary: 'build DKMS modules for exact kernels (the default command)',
  isDefault: true,
  description:
    'Builds each DKMS module for each kernel in a disposable virtual machine that runs that very kernel, and puts one binary package per module and kernel into the output folder.',
  usage: '--dkms <source>... [--kernel <release>...] [options]',
  examples: [
    'dkms2bin --dkms acpi-call-dkms --kernel latest --out-dir ./out',
    'dkms2bin --dkms ./v4l2loopback-dkms_0.12.7-2_all.deb --kernel 6.1.0-56-amd64 --debug',
  ],
  errorDocument: noResult,
  run: async ({ options }, context) => {
    const { engine, ui, signal } = context;
    const request = requestOf(options, context.cwd);
    if (request.dkms.length === 0)
      throw new Dkms2binError('usage', 'No module given: --dkms is missing', {
        hint: 'Example: dkms2bin --dkms acpi-call-dkms --kernel latest   (all options: dkms2bin --help)',
      });
    const plan = await engine.plan(request, { emit: ui.emit, signal });
    if (options.dryRun) {
      await engine.checkPlan(plan, { emit: ui.emit, signal });
      context.answer(
        () => planDocument(plan),
        () => planText(plan),
      );
      return;
    }
    const outcome = await engine.build(plan, buildContext(request, options, context));
    // Packages that were built are a repository at once; without any there is nothing to publish.
    if (asksForRepository(options) && outcome.cells.some((cell) => cell.package !== null))
      await publishRepository(request.outDir, options, context);
    return reportOutcome(outcome, options, context);
  },
});

/** The document of a run that ended before it had cells to report. */
export function noResult(error: Dkms2binError): unknown {
  return resultDocument({ run: null, accelerator: null, cells: [] }, error);
}

/** What building asks of the person at the terminal, if one is there. */
export function buildContext(
  request: BuildRequest,
  { json }: { json: boolean },
  context: CommandContext,
): BuildContext {
  const { stdin, stderr, signal, ui } = context;
  const asks = stdin.isTTY === true;
  const offers = request.debug && !json && stdin.isTTY === true && stderr.isTTY === true;
  return {
    emit: ui.emit,
    signal,
    ...(offers ? { onFailure: offerLogin(ui, context) } : {}),
    ...(asks ? { askPassphrase: (question: string) => askSecret(question, context) } : {}),
  };
}

interface RepositoryOptions extends PublishingOptions {
  repo: boolean;
}

export const asksForRepository = ({ repo, repoKey, keep }: RepositoryOptions): boolean =>
  repo || repoKey !== undefined || keep !== undefined;

export async function publishRepository(
  outDir: string,
  options: RepositoryOptions,
  context: CommandContext,
): Promise<PublishResult> {
  const result = await publishFolder(outDir, options, context);
  context.stderr.write(heldText(result));
  for (const { path, reason } of result.leftOut)
    context.ui.emit({ type: 'note', level: 'warn', message: `Not in the repository: ${path}: ${reason}` });
  return result;
}

/** Prints the result; the exit code. */
export function reportOutcome(
  outcome: Outcome,
  { json, quiet }: { json: boolean; quiet: boolean },
  context: CommandContext,
): number {
  const { stderr, signal, answer } = context;
  answer(
    () => resultDocument(outcome),
    () => resultLines(outcome.cells),
  );
  for (const cell of outcome.cells) stderr.write(failureText(cell, { headline: json }));
  if (!quiet && !json) stderr.write(`${summary(outcome.cells)}\n`);
  const code = exitCodeOf(outcome.cells);
  // Ctrl-C reaches the children too, and a cell may then blame the tool that died.
  return code !== 0 && signal.aborted ? EXIT_CODE.interrupted : code;
}

/** Asks one question at a time, however many cells fail at once; the live lines stand still meanwhile. */
function offerLogin(ui: Ui, context: CliContext): NonNullable<BuildContext['onFailure']> {
  let last = Promise.resolve();
  return (run) => {
    const mine = last.then(async () => {
      if (context.signal.aborted) return;
      ui.pause();
      try {
        context.stderr.write(`The build failed; its VM is kept as ${oneLine(run.id)}.\n`);
        if (await askYes('Log in to the VM now? [Y/n] ', context)) await run.login();
      } catch (error) {
        if (context.signal.aborted) return;
        // Ctrl-C at the question, or a closed terminal.
        if (error instanceof Dkms2binError && error.fault === 'interrupted') return context.interrupt();
        // A login that fails must not turn a failed module into something else.
        context.stderr.write(`dkms2bin: could not log in: ${oneLine(messageOf(error))}\n`);
      } finally {
        ui.resume();
      }
    });
    last = mine;
    return mine;
  };
}

export function planDocument(plan: BuildPlan): Record<string, unknown> {
  return { schemaVersion: SCHEMA_VERSION, plan };
}

export function planText({ cells, accelerator }: Pick<BuildPlan, 'cells' | 'accelerator'>): string {
  const head = ['SOURCE', 'KERNEL', 'DISTRO', 'ARCH', 'KERNEL PACKAGE', 'IMAGE'];
  const rows = cells.map((c) => [c.source, c.kernel, c.distro, c.arch, c.packageVersion ?? '-', c.image]);
  const by = accelerator === undefined ? '' : `accelerator: ${oneLine(accelerator)}\n`;
  return table([head, ...rows]) + by;
}
