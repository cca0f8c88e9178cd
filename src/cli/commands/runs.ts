import type { Command } from 'commander';
import { formatAge, formatBytes } from '../../lib/units.js';
import { toJson } from '../../report/json.js';
import { table } from '../../report/text.js';
import type { CliContext } from '../context.js';

export function addRuns(program: Command, context: CliContext): void {
  program
    .command('runs')
    .description('List the VMs that are kept (or still running), with their size and age.')
    .option('--json', 'print one JSON document instead of a table')
    .action(async (options: { json?: true }) => {
      const runs = await context.engine.listRuns();
      if (options.json) {
        context.stdout.write(toJson({ schemaVersion: 1, runs }));
        return;
      }
      if (runs.length === 0) {
        context.stderr.write('No VM is kept. Build with --debug or --keep-failed to keep one.\n');
        return;
      }
      const rows = runs.map((r) => [
        r.id,
        r.state,
        r.cell,
        r.kernel,
        r.distro,
        formatAge(r.created),
        formatBytes(r.bytes),
      ]);
      context.stdout.write(table([['RUN', 'STATE', 'MODULE', 'KERNEL', 'DISTRO', 'AGE', 'SIZE'], ...rows]));
    });
}
