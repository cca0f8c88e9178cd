import type { Command } from 'commander';
import { oneLine } from '../../report/text.js';
import type { CliContext } from '../context.js';

export function addRm(program: Command, context: CliContext): void {
  program
    .command('rm')
    .description('Remove kept VMs: disk, logs and all.')
    .argument('<run...>', 'names of kept VMs, as `dkms2bin runs` lists them')
    .action(async (ids: string[]) => {
      const errors: unknown[] = [];
      for (const id of new Set(ids)) {
        try {
          await context.engine.removeRun(id);
          context.stderr.write(`removed ${oneLine(id)}\n`);
        } catch (error) {
          errors.push(error);
        }
      }
      // The others are removed all the same; the caller prints each error and takes the first one's exit code.
      if (errors.length === 1) throw errors[0];
      if (errors.length > 1) throw new AggregateError(errors);
    });
}
