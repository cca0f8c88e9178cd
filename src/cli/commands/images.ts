import type { Command } from 'commander';
import { formatAge, formatBytes } from '../../core/units.js';
import { toJson } from '../../report/json.js';
import { table } from '../../report/text.js';
import type { CliContext } from '../context.js';

export function addImages(program: Command, context: CliContext): void {
  program
    .command('images')
    .description('List the disk images and layers in the cache; each is made again when it is missing.')
    .option('--json', 'print one JSON document instead of a table')
    .action(async (options: { json?: true }) => {
      const images = await context.engine.listImages();
      if (options.json) {
        context.stdout.write(toJson({ schemaVersion: 1, images }));
        return;
      }
      if (images.length === 0) {
        context.stderr.write('The cache is empty. The first build fills it.\n');
        return;
      }
      const rows = images.map((i) => [
        i.name,
        i.kind,
        formatBytes(i.bytes),
        formatAge(i.created),
        formatAge(i.lastUsed),
      ]);
      context.stdout.write(table([['NAME', 'KIND', 'SIZE', 'AGE', 'LAST USED'], ...rows]));
    });
}
