import { resolve } from 'node:path';
import type { Command } from 'commander';
import { Option } from 'commander';
import { Dkms2binError, EXIT_CODE } from '../../model/errors.js';
import type { Proof } from '../../model/proof.js';
import { proofDocument, toJson } from '../../report/json.js';
import { proofText } from '../../report/proof.js';
import { createUi } from '../../ui/index.js';
import type { CliContext } from '../context.js';
import { requestOf, type BuildOptions } from '../request.js';
import * as value from '../../options/values.js';
import { buildOption } from './build.js';

/** What of a build's options decides which machine it is. */
const MACHINE_OPTIONS = [
  '--distro',
  '--image',
  '--accel',
  '--cpus',
  '--memory',
  '--mirror',
  '--archive',
  '--proxy',
  '--offline',
  '--json',
  '--quiet',
  '--verbose',
];

type ProveFlags = Omit<BuildOptions, 'kernel'> & { kernel: string; module?: string[] };

export function addProve(program: Command, context: CliContext): void {
  const command = program
    .command('prove')
    .summary('install packages from a repository on a machine without compiler, and load the modules')
    .description(
      'Boots a clean machine of the distro that runs the kernel and has no compiler, no headers and no dkms; adds the repository with its key, installs the packages with apt or dnf and loads their modules. The machine reaches nothing but the repository. Says how much was saved against installing the DKMS package and its toolchain there. Exits with 1 when a package does not install or a module does not load.',
    )
    .argument('<dir>', 'the repository: a folder that --repo or dkms2bin repo made one')
    .requiredOption(
      '--kernel <release>',
      'kernel of the machine, as `uname -r` prints it (required)',
      value.text('--kernel'),
    )
    .addOption(
      new Option(
        '--module <name>',
        'module whose package to install, such as acpi_call; repeatable (default: all that the repository has for this kernel)',
      ).argParser(value.repeated('--module')),
    );
  command.addOption(
    new Option(
      '--sign-cert <file>',
      'certificate that the modules are signed with: the machine trusts it (by its UEFI firmware) and its kernel takes no module without a signature, as with Secure Boot (default: unsigned modules load, too)',
    ).argParser(value.text('--sign-cert')),
  );
  for (const long of MACHINE_OPTIONS) command.addOption(buildOption(long));
  command.action(async (dir: string, flags: ProveFlags) => {
    const { engine, stdout, stderr, env, cwd, signal } = context;
    const { kernel, module: modules = [], ...options } = flags;
    const request = requestOf({ ...options, kernel: [kernel] }, cwd);
    const level = flags.quiet ? 'quiet' : flags.verbose ? 'verbose' : 'normal';
    const ui = createUi(stderr, { level }, env);
    let proof: Proof;
    try {
      proof = await engine.prove(request, { dir: resolve(cwd, dir), modules }, { emit: ui.emit, signal });
    } catch (error) {
      // A program that reads stdout gets a document however it ended.
      if (flags.json && error instanceof Dkms2binError) stdout.write(toJson(proofDocument(error)));
      throw error;
    } finally {
      ui.close();
    }
    stdout.write(flags.json ? toJson(proofDocument(proof)) : proofText(proof));
    if (proof.modules.some(({ verdict }) => verdict === 'failed')) context.exitCode = EXIT_CODE.module;
  });
}
