import type { Command } from 'commander';
import { Dkms2binError } from '../../model/errors.js';
import { formatAge, formatBytes } from '../../lib/units.js';
import { toJson } from '../../report/json.js';
import { table } from '../../report/text.js';
import { createUi } from '../../ui/index.js';
import type { CliContext } from '../context.js';
import { mergeOptions, requestOf, type BuildOptions } from '../request.js';
import * as value from '../../options/values.js';
import { buildOption } from './build.js';

export function addImages(program: Command, context: CliContext): void {
  const images = program
    .command('images')
    .summary('list, shrink, check or fill the cache of disk images')
    .description(
      'The cache holds disk images, kernel layers on top of them (an exact kernel with its compiler) and memory snapshots of booted layers. Builds make and share them; whatever is removed is made again when a build needs it.',
    );
  addList(images, context);
  addPrune(images, context);
  addVerify(images, context);
  addWarm(images, context);
}

function addList(images: Command, context: CliContext): void {
  images
    .command('list', { isDefault: true })
    .description(
      'List what the cache holds, the last used first: what it is built on, what it takes on the disk, and whether a build or a kept VM uses it now (the default).',
    )
    .option('--json', 'print one JSON document instead of a table')
    .action(async (options: { json?: true }) => {
      const rows = await context.engine.listImages();
      if (options.json) {
        context.stdout.write(toJson({ schemaVersion: 1, images: rows }));
        return;
      }
      if (rows.length === 0) {
        context.stderr.write('The cache is empty. The first build fills it, or dkms2bin images warm.\n');
        return;
      }
      const lines = rows.map((i) => [
        i.name,
        i.kind,
        i.on ?? '-',
        formatBytes(i.bytes),
        formatAge(i.created),
        formatAge(i.lastUsed),
        i.damaged ? 'damaged' : i.inUse ? 'in use' : '-',
      ]);
      context.stdout.write(table([['NAME', 'KIND', 'ON', 'SIZE', 'AGE', 'LAST USED', 'STATE'], ...lines]));
    });
}

interface PruneFlags {
  maxSize?: number;
  maxAge?: number;
  dryRun?: true;
}

function addPrune(images: Command, context: CliContext): void {
  images
    .command('prune')
    .summary('remove what is unfinished, damaged, too old or too much')
    .description(
      'Removes what interrupted runs left unfinished, what is damaged, and old records of indexes and builds. Whole images, layers and snapshots go only with --max-size or --max-age: the least recently used first, never one that a build or a kept VM uses, never one that another is built on.',
    )
    .option(
      '--max-size <size>',
      'remove until images, layers and snapshots take no more than this on the disk, such as 10G; 0 means all that is not in use (default: no limit)',
      value.diskSize('--max-size'),
    )
    .option(
      '--max-age <age>',
      'remove what was not used for this long, such as 12h, 30d or 4w (default: no limit; 30d for records)',
      value.age('--max-age'),
    )
    .option('--dry-run', 'print what would be removed, and remove nothing')
    .action(async ({ maxSize, maxAge, ...flags }: PruneFlags) => {
      const { stdout, stderr } = context;
      const dryRun = flags.dryRun ?? false;
      const { removed, freed, left } = await context.engine.pruneImages({
        dryRun,
        signal: context.signal,
        ...(maxSize === undefined ? {} : { maxBytes: maxSize }),
        ...(maxAge === undefined ? {} : { maxAgeSeconds: maxAge }),
      });
      const verb = dryRun ? 'would remove' : 'removed';
      stdout.write(table(removed.map((r) => [verb, r.name, r.kind, formatBytes(r.bytes)])));
      stderr.write(`${dryRun ? 'would free' : 'freed'} ${formatBytes(freed)}; ${formatBytes(left)} stay\n`);
      if (maxSize !== undefined && left > maxSize)
        stderr.write(
          `More than ${formatBytes(maxSize)} stay: the rest is in use (dkms2bin images, dkms2bin runs).\n`,
        );
    });
}

function addVerify(images: Command, context: CliContext): void {
  images
    .command('verify')
    .summary('read everything in the cache and find what is damaged')
    .description(
      'Reads every file in the cache and compares it with the SHA-256 that was recorded when it was made (official images: with the digest that the distro publishes). Exits with 4 while something is damaged.',
    )
    .option('--remove', 'remove what is damaged, and what is built on it; the next build makes it again')
    .action(async ({ remove }: { remove?: true }) => {
      const ui = createUi(context.stderr, { level: 'normal' }, context.env);
      let rows;
      try {
        rows = await context.engine.verifyImages({
          remove: remove ?? false,
          emit: ui.emit,
          signal: context.signal,
        });
      } finally {
        ui.close();
      }
      const state = (row: (typeof rows)[number]): string =>
        row.removed ? 'damaged, removed' : row.state === 'busy' ? 'being made' : row.state;
      const lines = rows.map((r) => [r.name, r.kind, formatBytes(r.bytes), state(r), r.problem ?? '']);
      if (lines.length > 0)
        context.stdout.write(table([['NAME', 'KIND', 'SIZE', 'STATE', 'PROBLEM'], ...lines]));
      const damaged = rows.filter((r) => r.state === 'damaged' && !r.removed);
      if (damaged.length === 0) return;
      throw new Dkms2binError('host', `Damaged in the cache: ${damaged.map((r) => r.name).join(', ')}`, {
        hint: remove
          ? 'They are in use: try again when no build runs, and remove kept VMs with dkms2bin rm.'
          : 'Remove them with dkms2bin images verify --remove; the next build makes them again. Damage that comes back means a failing disk or memory.',
      });
    });
}

/** What of a build decides which image, layer and snapshot it needs. */
const WARM_OPTIONS = [
  '--kernel',
  '--distro',
  '--arch',
  '--kernel-package',
  '--image',
  '--accel',
  '--cpus',
  '--memory',
  '--mirror',
  '--archive',
  '--proxy',
  '--verbose',
  '--config',
];

function addWarm(images: Command, context: CliContext): void {
  const warm = images
    .command('warm')
    .summary('make ready what builds for these kernels will need')
    .description(
      'Makes the disk image, the kernel layer and the memory snapshot of each kernel ahead of time, so that the first build for it is as fast as the later ones. Give the options that the builds will be given: another --memory, for one, needs another snapshot.',
    );
  for (const long of WARM_OPTIONS) warm.addOption(buildOption(long));
  warm.action(async (typed: BuildOptions) => {
    const { engine, stdout, stderr, signal } = context;
    const options = mergeOptions(typed, await engine.loadConfig(typed.config, context.cwd));
    const ui = createUi(stderr, { level: options.verbose ? 'verbose' : 'normal' }, context.env);
    const ready: string[][] = [];
    try {
      await engine.warmImages(requestOf(options, context.cwd), {
        emit: ui.emit,
        signal,
        report: (k) => ready.push(['ready', k.kernel, k.distro, k.snapshot ? 'with snapshot' : 'boots cold']),
      });
    } finally {
      ui.close();
      stdout.write(table(ready));
    }
  });
}
