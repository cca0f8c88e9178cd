#!/usr/bin/env node
import { delimiter } from 'node:path';
import { errorText, runCli } from './cli/run.js';
import { engine } from './cli/services.js';
import { onSignals, outliveTerminal } from './cli/signals.js';
import { EXIT, EXIT_CODE, withoutPasswords } from './model/errors.js';
import { passphraseFromEnv } from './lib/passphrase.js';

// An ordinary user's PATH on Debian lacks the folders of mke2fs and sfdisk.
process.env.PATH = [process.env.PATH ?? '', '/usr/sbin', '/sbin'].filter((p) => p !== '').join(delimiter);

// Before any process is started: none shall inherit it.
passphraseFromEnv();

// What anybody on this machine sees of this process. Node writes over the arguments that it was started with.
const shown = process.argv.slice(2).map(withoutPasswords);
if (shown.some((word, at) => word !== process.argv[at + 2])) process.title = ['dkms2bin', ...shown].join(' ');

// `dkms2bin … | head` or a closed terminal: the reader is gone, the work and its exit code are not. Progress that cannot
// be shown (a full disk behind 2>log) is no reason to stop either; a result that cannot be written is.
process.stderr.on('error', () => undefined);
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE' || error.code === 'EIO') return;
  process.stderr.write(`dkms2bin: cannot write to standard output: ${error.message}\n`);
  process.exit(EXIT_CODE.host);
});

const bug = (error: unknown): void => {
  process.stderr.write(errorText(error, process.env));
  process.exit(EXIT.bug);
};
process.on('uncaughtException', bug);
process.on('unhandledRejection', bug);

outliveTerminal();
const controller = new AbortController();
onSignals(process, controller);

const code = await runCli(process.argv.slice(2), {
  engine,
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  cwd: process.cwd(),
  signal: controller.signal,
  interrupt: () => process.emit('SIGINT', 'SIGINT'),
});
// Not by running dry: a forgotten handle must not hang the shell. The empty writes wait for a slow pipe.
await new Promise((resolve) => process.stdout.write('', resolve));
await new Promise((resolve) => process.stderr.write('', resolve));
process.exit(code);
