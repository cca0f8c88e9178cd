import { Option, type Command } from 'commander';
import { createUi } from '../../ui/index.js';
import type { CliContext } from '../context.js';
import { requestOf, type BuildOptions } from '../request.js';
import * as value from '../../options/values.js';
import { buildContext, buildOption, levelOf } from './build.js';

interface WorkerFlags extends Omit<BuildOptions, 'distro'> {
  queue: string;
  store: string;
  name?: string;
  distro?: string[];
}

export const queueOption = (): Option =>
  new Option(
    '--queue <url>',
    'Redis or Valkey that has the queue: redis://HOST:PORT, rediss:// for TLS, unix:/PATH; the password in the URL or in DKMS2BIN_QUEUE_PASSWORD',
  ).argParser(value.text('--queue'));

export const storeOption = (): Option =>
  new Option(
    '--store <where>',
    'what all machines share: a folder, or s3://BUCKET/PREFIX with the usual AWS variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL …)',
  ).argParser(value.text('--store'));

/** What of a build's options is a machine's own. */
const GROUPS: Record<string, string[]> = {
  'Signing:': ['--sign-key', '--sign-cert', '--passphrase-file', '--provenance-key'],
  'Virtual machine:': ['--arch', '--accel', '--cpus', '--memory', '--jobs', '--layer-cache'],
  'Network:': ['--mirror', '--archive', '--proxy', '--offline'],
  'Output:': ['--quiet', '--verbose'],
};

export function addWorker(program: Command, context: CliContext): void {
  const command = program
    .command('worker')
    .summary('build what `matrix --queue` hands out, on this machine')
    .description(
      'Takes cells of matrices from a queue, builds them as build does, and delivers packages and logs to the store that all machines share. Runs until it is stopped (Ctrl-C, SIGTERM); then its VMs end, and their cells go back to the queue for other workers.',
    )
    .addOption(queueOption().makeOptionMandatory())
    .addOption(storeOption().makeOptionMandatory())
    .addOption(
      new Option(
        '--name <name>',
        "this worker's name in reports (default: the name of this machine)",
      ).argParser(value.text('--name')),
    )
    .addOption(
      new Option(
        '--distro <id>',
        'distribution to build for, such as debian-12; repeatable, or several with commas (default: all)',
      ).argParser(value.list('--distro')),
    );
  for (const [heading, longs] of Object.entries(GROUPS))
    for (const long of longs) command.addOption(buildOption(long).helpGroup(heading));
  command.addHelpText(
    'after',
    `
Example:
  dkms2bin worker --queue redis://queue.example --store /srv/dkms2bin --jobs 4
`,
  );
  command.action(async ({ queue, store, name, distro, ...options }: WorkerFlags) => {
    const { engine, stderr, env, cwd } = context;
    const request = requestOf(options, cwd);
    const ui = createUi(stderr, { level: levelOf(options) }, env);
    try {
      await engine.work(
        request,
        { url: queue, store, distros: distro ?? [], ...(name !== undefined && { name }) },
        buildContext(request, options, ui, context),
      );
    } finally {
      ui.close();
    }
  });
}
