import type { Command } from 'commander';
import type { CliContext } from '../context.js';

export function addLogin(program: Command, context: CliContext): void {
  program
    .command('login')
    .description(
      'Open a shell in a kept VM, in the build tree of the module. It is booted again if it does not run.',
    )
    .argument('[run]', 'name of the kept VM, as `dkms2bin runs` lists it (default: the newest)')
    .option(
      '--serial',
      'use the serial console instead of SSH, for a VM without a working network (default: SSH)',
    )
    .addHelpText(
      'after',
      `
In the shell, dkms2bin-rebuild runs the very build command again. Leave it with exit or Ctrl-D.
`,
    )
    .action(async (run: string | undefined, options: { serial?: true }) => {
      await context.engine.login(run, { serial: options.serial === true, signal: context.signal });
    });
}
