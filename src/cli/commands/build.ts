import type { Command } from 'commander';
import { Option } from 'commander';
import { Dkms2binError, EXIT_CODE, messageOf } from '../../model/errors.js';
import { exitCodeOf } from '../../report/exit.js';
import { resultDocument, toJson } from '../../report/json.js';
import { failureText, oneLine, resultLines, summary, table } from '../../report/text.js';
import { DEFAULTS } from '../../options/request.js';
import type { BuildPlan } from '../../engine/plan/types.js';
import type { BuildRequest } from '../../options/request.js';
import { createUi, type Level, type Ui } from '../../ui/index.js';
import { askSecret, askYes } from '../ask.js';
import type { CliContext } from '../context.js';
import { ARCH_NAMES, mergeOptions, NAME_STYLES, requestOf, type BuildOptions } from '../request.js';
import { publishFolder } from './repo.js';
import type { BuildContext, BuildOutcome, FailedRun } from '../services.js';
import * as value from '../../options/values.js';

const option = (
  flags: string,
  description: string,
  parse?: (text: string, before: never) => unknown,
): Option => {
  const made = new Option(flags, description);
  return parse ? made.argParser(parse as (text: string, before: unknown) => unknown) : made;
};

// Defaults stand in the text and in DEFAULTS, not in commander: a config file comes between option and default.
const GROUPS: Record<string, Option[]> = {
  'What to build:': [
    option(
      '--dkms <source>',
      'DKMS module to build: a package name of the distro (acpi-call-dkms, name=version), a .deb or .rpm file, a source folder or tarball with dkms.conf, or a text file that lists these one per line; repeatable (required)',
      value.repeated('--dkms'),
    ),
    option(
      '--kernel <release>',
      'kernel to build for, as `uname -r` prints it (6.1.0-56-amd64), a quoted pattern ("6.1.0-*-amd64") or latest; repeatable (default: latest)',
      value.repeated('--kernel'),
    ),
    option(
      '--distro <id>',
      'distribution that the kernel belongs to, such as debian-12 (default: found from the kernel release)',
      value.text('--distro'),
    ),
    option(
      '--arch <arch>',
      'architecture of the kernel: x86_64 (amd64) or aarch64 (arm64), which is always emulated (default: found from the kernel release, else x86_64)',
      value.oneOf('--arch', ARCH_NAMES),
    ),
    option(
      '--kernel-package <file|url>',
      'kernel image or headers package to install when no archive has that kernel any more; repeatable (default: none)',
      value.repeated('--kernel-package'),
    ),
  ],
  'Result:': [
    option(
      '--out-dir <dir>',
      `folder for the packages and build logs, made if missing (default: ${DEFAULTS.outDir})`,
      value.text('--out-dir'),
    ),
    option(
      '--name-style <style>',
      `package file names: seed = NAME_VERSION-KERNEL_x86_64.deb (or _aarch64), dkms = NAME-modules-KERNEL_VERSION_amd64.deb (or _arm64) (default: ${DEFAULTS.nameStyle})`,
      value.oneOf('--name-style', NAME_STYLES),
    ),
    option('--force', 'build again although the package is there already (default: leave it alone)'),
    option(
      '--debug-symbols',
      "put the modules' debug symbols, for gdb, crash, drgn and perf, into a second package NAME-modules-KERNEL-dbgsym (default: they are thrown away, as by dkms)",
    ),
    option(
      '--check-reproducible',
      'build everything twice, the second time on another date and in a freshly booted VM, and fail a module whose packages are not the same to the byte (default: build once)',
    ),
    option('--no-verify', 'do not install and load the package in a second, clean VM (default: do)'),
    option('--dry-run', 'print what would be built, and build nothing'),
  ],
  'Signing and repository:': [
    option(
      '--sign-key <key>',
      'private key to sign the modules with, on this host: a PEM file or a pkcs11: URI; needs --sign-cert (default: modules are not signed)',
      value.text('--sign-key'),
    ),
    option(
      '--sign-cert <file>',
      'certificate of that key, PEM or DER; `dkms2bin keygen` makes both',
      value.text('--sign-cert'),
    ),
    option(
      '--passphrase-file <file>',
      "file whose first line is the key's passphrase or the token's PIN (default: DKMS2BIN_SIGN_PASSPHRASE, or asked for)",
      value.text('--passphrase-file'),
    ),
    option(
      '--provenance-key <file>',
      'private key (PEM, without a passphrase) to sign the provenance beside the packages with (default: it is not signed)',
      value.text('--provenance-key'),
    ),
    option('--repo', 'make the output folder a repository for apt and dnf, as `dkms2bin repo` does'),
    option(
      '--repo-key <file>',
      'OpenPGP secret key to sign the repository with; implies --repo (default: it is not signed)',
      value.text('--repo-key'),
    ),
    option(
      '--keep <n>',
      'keep the newest N versions of each package in the repository; implies --repo (default: all)',
      value.count('--keep'),
    ),
  ],
  'Virtual machine:': [
    option(
      '--image <image>',
      `disk image to start from: official = the distro's cloud image, bootstrap = made here from the distro's packages, auto = official or else bootstrap, or the path of an image file (default: ${DEFAULTS.image})`,
      value.text('--image'),
    ),
    option(
      '--layer-cache <where>',
      'where machines share base images and kernel layers: a folder, s3://BUCKET/PREFIX or an http(s) URL; what it has is fetched, and what is made here is put there, where that is allowed (default: made here)',
      value.text('--layer-cache'),
    ),
    option(
      '--accel <how>',
      `processor emulation: kvm = hardware, tcg = software, auto = the faster one as measured (default: ${DEFAULTS.accel})`,
      value.oneOf('--accel', { auto: 'auto', kvm: 'kvm', tcg: 'tcg' }),
    ),
    option('--cpus <n>', 'processors of each VM (default: fitted to this machine)', value.count('--cpus')),
    option(
      '--memory <size>',
      'memory of each VM, such as 512M or 2G (default: fitted to this machine)',
      value.size('--memory'),
    ),
    option(
      '--jobs <n>',
      'VMs to run at the same time (default: fitted to this machine)',
      value.count('--jobs'),
    ),
    option(
      '--timeout <time>',
      'longest time for one module on one kernel, such as 90s, 45m or 2h (default: 2h)',
      value.duration('--timeout'),
    ),
    option(
      '--debug',
      'always keep the VM; on a terminal, offer to log in when a build fails (default: remove it)',
    ),
    option('--keep-failed', 'keep the VM of a failed build for `dkms2bin login` (default: remove it)'),
  ],
  'Network:': [
    option('--mirror <url>', "package mirror to use (default: the distro's own)", value.url('--mirror')),
    option(
      '--archive <url>',
      "archive of old packages, for kernels that left the mirror (default: the distro's own)",
      value.url('--archive'),
    ),
    option(
      '--proxy <url>',
      'HTTP proxy for all downloads, here and in the VM (default: none)',
      value.url('--proxy'),
    ),
    option(
      '--offline',
      'download nothing, use only what the cache holds (default: download what is missing)',
    ),
  ],
  'Output:': [
    option('--json', 'print one JSON document instead of text on standard output'),
    option('--quiet', 'show no progress, only warnings, errors and the result').conflicts('verbose'),
    option('--verbose', 'show every line that the build prints, and debug notes'),
    option(
      '--config <file>',
      'YAML file with these options; an option typed here wins over it (default: dkms2bin.yaml in this folder, if there)',
      value.text('--config'),
    ),
  ],
};

/** The option of build with this long name, for commands that take it too under a heading of their own. */
export function buildOption(long: string): Option {
  const found = Object.values(GROUPS)
    .flat()
    .find((each) => each.long === long)!;
  // The heading is kept in the option itself.
  return Object.assign(new Option(found.flags, found.description), found);
}

/** The options of build but for these, by their headings, for a command that builds as well. */
export function buildOptions(without: readonly string[]): [heading: string, options: Option[]][] {
  return Object.entries(GROUPS).map(([heading, options]) => [
    heading,
    options.filter(({ long }) => !without.includes(long ?? '')),
  ]);
}

export function addBuild(program: Command, context: CliContext): void {
  const command = program
    .command('build', { isDefault: true })
    .summary('build DKMS modules for exact kernels (the default command)')
    .description(
      'Builds each DKMS module for each kernel in a throw-away virtual machine that runs that very kernel, and puts one binary package per module and kernel into the output folder.',
    )
    .usage('--dkms <source>... [--kernel <release>...] [options]')
    // Only to say more than "too many arguments" when a command's name is misspelt.
    .allowExcessArguments(true);
  for (const [heading, options] of buildOptions([]))
    for (const each of options) command.addOption(each.helpGroup(heading));
  command.addHelpText(
    'after',
    `
Examples:
  dkms2bin --dkms acpi-call-dkms --kernel latest --out-dir ./out
  dkms2bin --dkms ./v4l2loopback-dkms_0.12.7-2_all.deb --kernel 6.1.0-56-amd64 --debug
`,
  );
  command.action(async (options: BuildOptions, self: Command) => {
    const stray = self.args[0];
    if (stray !== undefined) throw strayWord(stray, program);
    await build(options, context);
  });
}

function strayWord(word: string, program: Command): Dkms2binError {
  const close = program.commands.map((c) => c.name()).find((name) => distance(name, word) <= 2);
  return new Dkms2binError('usage', `"${oneLine(word)}" is not a command`, {
    hint: close
      ? `Did you mean "dkms2bin ${close}"?`
      : `Modules are given with --dkms: dkms2bin --dkms ${oneLine(word)}. Commands: dkms2bin --help`,
  });
}

/** Levenshtein. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1)
      next[j] = Math.min(
        (row[j] ?? 0) + 1,
        (next[j - 1] ?? 0) + 1,
        (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    row = next;
  }
  return row[b.length] ?? 0;
}

async function build(typed: BuildOptions, context: CliContext): Promise<void> {
  const { engine, stdout, stderr, signal } = context;
  const options = mergeOptions(typed, await engine.loadConfig(typed.config, context.cwd));
  const request = requestOf(options, context.cwd);
  if (request.dkms.length === 0)
    throw new Dkms2binError('usage', 'No module given: --dkms is missing', {
      hint: 'Example: dkms2bin --dkms acpi-call-dkms --kernel latest   (all options: dkms2bin --help)',
    });

  const ui = createUi(stderr, { level: levelOf(options) }, context.env);
  let outcome;
  try {
    const plan = await engine.plan(request, { emit: ui.emit, signal });
    if (options.dryRun) {
      ui.close();
      stdout.write(options.json ? toJson(planDocument(plan)) : planText(plan));
      return;
    }
    outcome = await engine.build(plan, buildContext(request, options, ui, context));
    // Packages that were built are a repository at once; without any there is nothing to publish.
    if (asksForRepository(options) && outcome.cells.some((cell) => cell.package !== null))
      await publishRepository(request.outDir, options, ui, context);
  } catch (error) {
    reportError(error, options, context);
    throw error;
  } finally {
    ui.close();
  }
  reportOutcome(outcome, options, context);
}

export const levelOf = ({ quiet, verbose }: BuildOptions): Level =>
  quiet ? 'quiet' : verbose ? 'verbose' : 'normal';

/** What building asks of the person at the terminal, if one is there. */
export function buildContext(
  request: BuildRequest,
  options: BuildOptions,
  ui: Ui,
  context: CliContext,
): BuildContext {
  const { stdin, stderr, signal } = context;
  const asks = stdin.isTTY === true;
  const offers = request.debug && !options.json && stdin.isTTY === true && stderr.isTTY === true;
  return {
    emit: ui.emit,
    signal,
    ...(offers ? { onFailure: offerLogin(ui, context) } : {}),
    ...(asks ? { askPassphrase: (question: string) => askSecret(question, context) } : {}),
  };
}

export const asksForRepository = ({ repo, repoKey, keep }: BuildOptions): boolean =>
  repo === true || repoKey !== undefined || keep !== undefined;

export async function publishRepository(
  outDir: string,
  options: BuildOptions,
  ui: Ui,
  context: CliContext,
): Promise<void> {
  const { leftOut } = await publishFolder(outDir, options, ui.emit, context);
  for (const { path, reason } of leftOut)
    ui.emit({ type: 'note', level: 'warn', message: `Not in the repository: ${path}: ${reason}` });
}

/** A program that reads stdout gets a document however the run ended; a person's text goes to stderr as ever. */
export function reportError(error: unknown, options: BuildOptions, { stdout, signal }: CliContext): void {
  if (!options.json || !(error instanceof Dkms2binError)) return;
  const none = { run: null, accelerator: null, cells: [] };
  stdout.write(toJson(resultDocument(none, signal.aborted ? interrupted() : error)));
}

/** Prints the result and sets the exit code. */
export function reportOutcome(outcome: BuildOutcome, options: BuildOptions, context: CliContext): void {
  const { stdout, stderr, signal } = context;
  if (options.json) stdout.write(toJson(resultDocument(outcome)));
  else stdout.write(resultLines(outcome.cells));
  for (const cell of outcome.cells) stderr.write(failureText(cell));
  if (!options.quiet && !options.json) stderr.write(`${summary(outcome.cells)}\n`);
  const code = exitCodeOf(outcome.cells);
  // Ctrl-C reaches the children too, and a cell may then blame the tool that died.
  context.exitCode = code !== 0 && signal.aborted ? EXIT_CODE.interrupted : code;
}

const interrupted = (): Dkms2binError => new Dkms2binError('interrupted', 'Interrupted');

/** Asks one question at a time, however many cells fail at once; the live lines stand still meanwhile. */
function offerLogin(ui: Ui, context: CliContext): (run: FailedRun) => Promise<void> {
  let last = Promise.resolve();
  return (run) => {
    const mine = last.then(async () => {
      if (context.signal.aborted) return;
      ui.pause();
      try {
        context.stderr.write(`The build failed; its VM is kept as ${oneLine(run.id)}.\n`);
        if (await askYes('Log in to the VM now? [Y/n] ', context)) await run.login();
      } catch (error) {
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
  return { schemaVersion: 1, plan };
}

export function planText(plan: BuildPlan): string {
  const head = ['SOURCE', 'KERNEL', 'DISTRO', 'ARCH', 'KERNEL PACKAGE', 'IMAGE'];
  const rows = plan.cells.map((c) => [
    c.source,
    c.kernel,
    c.distro,
    c.arch,
    c.packageVersion ?? '-',
    c.image,
  ]);
  const accelerator = plan.accelerator === undefined ? '' : `accelerator: ${oneLine(plan.accelerator)}\n`;
  return table([head, ...rows]) + accelerator;
}
