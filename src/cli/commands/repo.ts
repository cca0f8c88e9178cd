import { resolve } from 'node:path';
import type { Command } from 'commander';
import { Dkms2binError } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';
import type { RepositoryResult } from '../../repo/index.js';
import { toJson } from '../../report/json.js';
import { oneLine, table } from '../../report/text.js';
import { createUi } from '../../ui/index.js';
import { askSecret } from '../ask.js';
import type { CliContext } from '../context.js';
import * as value from '../../options/values.js';

/** Publishes a folder, relative to the current one; the key's passphrase comes from the environment or the terminal. */
export function publishFolder(
  dir: string,
  { repoKey, keep, origin }: Pick<PublishFlags, 'repoKey' | 'keep' | 'origin'>,
  emit: Emit,
  context: CliContext,
): Promise<RepositoryResult> {
  const { engine, env, cwd, signal } = context;
  return engine.publishRepository(resolve(cwd, dir), {
    keyFile: repoKey === undefined ? undefined : resolve(cwd, repoKey),
    passphrase: env['DKMS2BIN_REPO_PASSPHRASE'],
    ask: async (question) => (context.stdin.isTTY === true ? askSecret(question, context) : null),
    keep,
    origin,
    emit,
    signal,
  });
}

export function addRepo(program: Command, context: CliContext): void {
  const repo = program
    .command('repo')
    .summary('make a folder of packages a repository for apt and dnf, or serve it for a try')
    .usage('<dir> [options]\n       dkms2bin repo serve <dir> [--port N]')
    .description(
      'Makes a folder of .deb and .rpm files a package repository that any web server can serve: an apt repository (flat: the packages stay where they are) when it has .deb files, a dnf repository when it has .rpm files. Run it again after each change of the folder; clients may read meanwhile.',
    );
  addPublish(repo, context);
  addServe(repo, context);
}

interface PublishFlags {
  repoKey?: string;
  keep?: number;
  origin?: string;
  json?: true;
}

function addPublish(repo: Command, context: CliContext): void {
  repo
    .command('publish', { isDefault: true })
    .summary('write the indexes of a repository (the default)')
    .description(
      'Writes the indexes of the packages in a folder and the folders in it. A damaged or foreign file is named and left out, and the exit code is 2. Two different files that are the same package by name, version and architecture are an error, and nothing is changed.',
    )
    .argument('<dir>', 'the folder of packages')
    .option(
      '--repo-key <file>',
      'sign with this OpenPGP secret key, as gpg --export-secret-keys writes it; its passphrase is taken from DKMS2BIN_REPO_PASSPHRASE or asked for (default: not signed)',
      value.text('--repo-key'),
    )
    .option(
      '--keep <n>',
      'keep the newest n versions of each package and DELETE the files of older ones (default: all stay)',
      value.count('--keep'),
    )
    .option(
      '--origin <name>',
      'Origin and Label that apt shows and pins by; apt asks before it takes another (default: dkms2bin)',
      value.text('--origin'),
    )
    .option('--json', 'print one JSON document instead of lines')
    .action(async (dir: string, flags: PublishFlags) => {
      const { stdout, stderr, env } = context;
      const ui = createUi(stderr, { level: 'normal' }, env);
      let result;
      try {
        result = await publishFolder(dir, flags, ui.emit, context);
      } finally {
        ui.close();
      }
      if (flags.json) stdout.write(toJson({ schemaVersion: 1, repository: result }));
      else {
        stdout.write(
          table([
            ...result.packages.map((p) => [p.format, p.name, p.version, p.architecture, p.path]),
            ...result.removed.map((path) => ['removed', '', '', '', path]),
          ]),
        );
        const count = `${result.packages.length} package${result.packages.length === 1 ? '' : 's'}`;
        const signed = result.signedBy === null ? 'not signed' : `signed by ${result.signedBy}`;
        const news = result.changed ? 'published' : 'up to date';
        if (result.kinds.length > 0) {
          stderr.write(`${news}: ${count} for ${result.kinds.join(' and ')}, ${signed}\n`);
        }
      }
      if (result.leftOut.length > 0) {
        const lines = result.leftOut.map(({ path, reason }) => `${oneLine(path)}: ${oneLine(reason)}`);
        throw new Dkms2binError('usage', `Left out of the repository:\n${lines.join('\n')}`, {
          hint: 'The other packages are published. Replace or remove these files and run it again.',
        });
      }
      if (result.kinds.length === 0) {
        throw new Dkms2binError('not-found', `No .deb and no .rpm file in ${oneLine(dir)}`, {
          hint: 'Give the folder that --out-dir named when they were built.',
        });
      }
    });
}

function addServe(repo: Command, context: CliContext): void {
  repo
    .command('serve')
    .summary('serve a repository on 127.0.0.1, for a try')
    .description(
      'Serves a repository over HTTP to this machine alone until it is interrupted, and prints what a client needs. For other machines, let a web server serve the folder.',
    )
    .argument('<dir>', 'the folder of packages')
    .option('--port <n>', 'port to listen on (default: a free one)', value.port('--port'))
    .action(async (dir: string, flags: { port?: number }) => {
      const { engine, stdout, stderr, signal, cwd } = context;
      const served = await engine.serveRepository(resolve(cwd, dir), {
        ...(flags.port === undefined ? {} : { port: flags.port }),
      });
      try {
        const { apt, dnf, keyUrl, keyring } = served.sources;
        if (apt && keyUrl !== null) {
          stdout.write(`# The key, for apt:\n#   sudo curl -fo ${keyring} ${keyUrl}\n`);
        }
        if (apt) {
          stdout.write(`# /etc/apt/sources.list.d/dkms2bin.list\n${apt.line}`);
          stdout.write(`\n# or /etc/apt/sources.list.d/dkms2bin.sources\n${apt.deb822}`);
        }
        if (dnf !== null) stdout.write(`${apt ? '\n' : ''}# /etc/yum.repos.d/dkms2bin.repo\n${dnf}`);
        stderr.write(`serving ${served.url} (Ctrl-C ends it)\n`);
        await new Promise<void>((stop) => {
          if (signal.aborted) stop();
          signal.addEventListener('abort', () => stop(), { once: true });
        });
      } finally {
        await served.close();
      }
    });
}
