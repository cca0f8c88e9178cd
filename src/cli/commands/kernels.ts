import type { Command } from 'commander';
import type { Arch } from '../../model/cell.js';
import { toJson } from '../../report/json.js';
import { table } from '../../report/text.js';
import { createUi } from '../../ui/index.js';
import type { CliContext } from '../context.js';
import { ARCH_NAMES } from '../request.js';
import * as value from '../../options/values.js';

interface KernelsOptions {
  distro?: string;
  arch?: Arch;
  mirror?: string;
  proxy?: string;
  offline?: true;
  json?: true;
}

export function addKernels(program: Command, context: CliContext): void {
  program
    .command('kernels')
    .description(
      "List the kernels that the distro's archive has with their headers, newest first, as --kernel takes them.",
    )
    .option(
      '--distro <id>',
      'only this distribution, such as debian-12 (default: all that are known)',
      value.text('--distro'),
    )
    .option(
      '--arch <arch>',
      'kernels for this architecture: x86_64 (amd64) or aarch64 (arm64) (default: x86_64)',
      value.oneOf('--arch', ARCH_NAMES),
    )
    .option('--mirror <url>', 'read the archive from this mirror', value.url('--mirror'))
    .option(
      '--proxy <url>',
      "HTTP proxy (default: the one of this host's apt, else the environment's)",
      value.url('--proxy'),
    )
    .option('--offline', 'list what was last read of the archive')
    .option('--json', 'print one JSON document instead of a table')
    .action(async (options: KernelsOptions) => {
      const { distro, arch, mirror, proxy, offline } = options;
      const ui = createUi(context.stderr, { level: 'normal' }, context.env);
      const asked = { emit: ui.emit, signal: context.signal, arch, mirror, proxy, offline };
      let kernels;
      try {
        kernels = await context.engine.listKernels(distro, asked);
      } finally {
        ui.close();
      }
      if (options.json) context.stdout.write(toJson({ schemaVersion: 1, kernels }));
      else
        context.stdout.write(
          table([
            ['KERNEL', 'DISTRO', 'PACKAGE VERSION', 'SUITE'],
            ...kernels.map((k) => [k.release, k.distro, k.packageVersion, k.suite]),
          ]),
        );
    });
}
