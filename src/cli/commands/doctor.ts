import type { Command } from 'commander';
import type { Arch } from '../../model/cell.js';
import { EXIT_CODE } from '../../model/errors.js';
import { toJson } from '../../report/json.js';
import { oneLine, table } from '../../report/text.js';
import type { CliContext } from '../context.js';
import { ARCH_NAMES } from '../request.js';
import * as value from '../../options/values.js';

export function addDoctor(program: Command, context: CliContext): void {
  program
    .command('doctor')
    .description('Check this machine: tools, QEMU, measured speed of KVM and TCG, free space, folders.')
    .option(
      '--arch <arch>',
      'what VMs of this architecture need: x86_64 (amd64) or aarch64 (arm64) (default: x86_64)',
      value.oneOf('--arch', ARCH_NAMES),
    )
    .option('--json', 'print one JSON document instead of a table')
    .addHelpText('after', '\nExit code: 0 all that is needed is there, 4 something is missing.\n')
    .action(async (options: { arch?: Arch; json?: true }) => {
      const { collectChecks } = await import('../checks.js');
      const checks = await collectChecks(context, options.arch ?? 'x86_64');
      const missing = checks.filter((check) => check.status === 'missing');
      if (options.json) context.stdout.write(toJson({ schemaVersion: 1, ok: missing.length === 0, checks }));
      else {
        const label = { ok: 'ok', warn: 'warning', missing: 'MISSING' };
        context.stdout.write(
          table([
            ['CHECK', 'STATUS', 'DETAIL'],
            ...checks.map((check) => [check.name, label[check.status], check.detail]),
          ]),
        );
        for (const check of checks)
          if (check.remedy !== null) context.stderr.write(`${check.name}: ${oneLine(check.remedy)}\n`);
      }
      if (missing.length > 0) context.exitCode = EXIT_CODE.host;
    });
}
