import { resolve } from 'node:path';
import { Dkms2binError } from '../../model/errors.js';
import { oneLine, plural } from '../../lib/text.js';
import { variable } from '../../lib/variables.js';
import type { MetapackageOptions } from '../../engine/metapackages.js';
import type { RepositoryResult } from '../../repo/index.js';
import { SCHEMA_VERSION } from '../../report/json.js';
import { table } from '../../report/text.js';
import { askSecret } from '../ask.js';
import { command, type CommandContext } from '../frame.js';
import type { PublishResult } from '../services.js';

/** What a repository is published with, by the options' names. */
export interface PublishingOptions extends MetapackageOptions {
  repoKey?: string;
  keep?: number;
  origin?: string;
  enrol?: string;
}

const metapackageOptions = ({
  hold,
  offline,
  mirror,
  proxy,
  kernelRepos,
}: MetapackageOptions): MetapackageOptions => ({
  ...{ hold, offline, mirror, proxy, kernelRepos },
});

/** Publishes a folder, relative to the current one; the key's passphrase comes from the environment or the terminal. */
export function publishFolder(
  dir: string,
  { repoKey, keep, origin, enrol, ...asking }: PublishingOptions,
  context: CommandContext,
): Promise<PublishResult> {
  const { engine, env, cwd, signal, ui } = context;
  return engine.publishRepository(resolve(cwd, dir), {
    keyFile: repoKey === undefined ? undefined : resolve(cwd, repoKey),
    passphrase: variable('DKMS2BIN_REPO_PASSPHRASE', env),
    ask: async (question) => (context.stdin.isTTY === true ? askSecret(question, context) : null),
    keep,
    origin,
    enrol: enrol === undefined ? undefined : resolve(cwd, enrol),
    ...metapackageOptions(asking),
    cwd,
    emit: ui.emit,
    signal,
  });
}

const FOLDER = { name: '<dir>', help: 'the folder of packages', completes: 'files' } as const;

export const repoPublish = command({
  name: 'repo publish',
  summary: 'write the indexes of a repository (the default)',
  isDefault: true,
  description:
    'Writes the indexes of the packages in a folder and the folders in it. A damaged or foreign file is named and left out, and the exit code is 2. Two different files that are the same package by name, version and architecture are an error, and nothing is changed.',
  arguments: [FOLDER],
  run: async ({ words: [dir = ''], options }, context) => {
    const result = await publishFolder(dir, options, context);
    context.answer(
      () => ({ schemaVersion: SCHEMA_VERSION, repository: result }),
      () => resultText(result),
    );
    if (!options.json && result.kinds.length > 0) context.stderr.write(`${newsOf(result)}\n`);
    if (!options.json) context.stderr.write(heldText(result));
    if (result.leftOut.length > 0) {
      const lines = result.leftOut.map(({ path, reason }) => `${oneLine(path)}: ${oneLine(reason)}`);
      throw new Dkms2binError('usage', `Left out of the repository:\n${lines.join('\n')}`, {
        hint: 'The other packages are published. Replace or remove these files and run it again.',
      });
    }
    if (result.kinds.length === 0) {
      throw new Dkms2binError('not-found', `No .deb or .rpm file in ${oneLine(dir)}`, {
        hint: 'Give the folder that the packages were built into (--out-dir).',
      });
    }
  },
});

function resultText({ packages, removed }: RepositoryResult): string {
  return table([
    ...packages.map((p) => [p.format, p.name, p.version, p.architecture, p.path]),
    ...removed.map((path) => ['removed', '', '', '', path]),
  ]);
}

function newsOf({ packages, signedBy, changed, kinds }: RepositoryResult): string {
  const count = plural(packages.length, 'package');
  const signed = signedBy === null ? 'not signed' : `signed by ${signedBy}`;
  return `${changed ? 'published' : 'up to date'}: ${count} for ${kinds.join(' and ')}, ${signed}`;
}

/** A line for each kernel that machines have to wait for. */
export function heldText({ metapackages }: PublishResult): string {
  return metapackages
    .flatMap(({ name, held }) =>
      held ? [`${name} waits for ${held.release} (${held.meta} ${held.packageVersion}): ${held.why}`] : [],
    )
    .map((line) => `${oneLine(line)}\n`)
    .join('');
}

export const repoServe = command({
  name: 'repo serve',
  summary: 'serve a repository on 127.0.0.1, to try it out',
  description:
    'Serves a repository over HTTP to this machine alone until it is interrupted, and prints what a client needs. For other machines, let a web server serve the folder.',
  arguments: [FOLDER],
  run: async ({ words: [dir = ''], options: { port } }, { engine, stdout, stderr, signal, cwd }) => {
    const served = await engine.serveRepository(resolve(cwd, dir), {
      ...(port !== undefined && { port }),
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
  },
});
