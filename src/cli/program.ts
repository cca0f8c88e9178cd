import { Command } from 'commander';
import { packageVersion } from '../lib/paths.js';
import { plain } from '../lib/text.js';
import { addBoard } from './commands/board.js';
import { addBisect } from './commands/bisect.js';
import { addBuild } from './commands/build.js';
import { addDoctor } from './commands/doctor.js';
import { addImages } from './commands/images.js';
import { addInspect } from './commands/inspect.js';
import { addKernels } from './commands/kernels.js';
import { addKeygen } from './commands/keygen.js';
import { addLogin } from './commands/login.js';
import { addMatrix } from './commands/matrix.js';
import { addProve } from './commands/prove.js';
import { addRefresh } from './commands/refresh.js';
import { addRepo } from './commands/repo.js';
import { addRm } from './commands/rm.js';
import { addRuns } from './commands/runs.js';
import { addWorker } from './commands/worker.js';
import type { CliContext } from './context.js';

const EXIT_CODES = `
Exit codes:
  0    all packages built, or the module itself says that it is not for this kernel (skipped)
  1    a module failed: it does not compile or does not load; inspect: file and provenance do not fit;
       prove: a package does not install from the repository; bisect: more than one kernel can be the first bad one
  2    wrong usage or input
  3    kernel, image or package not found
  4    this machine cannot do it: a tool is missing, no space (see dkms2bin doctor)
  5    a fault of the VM or the network, worth another try
  6    refresh --dry-run: there is something to build
  70   a bug in dkms2bin
  130  interrupted
  Several at once: the first of 130, 4, 3, 2, 5, 1.

Environment:
  DKMS2BIN_CACHE   folder of images and layers (default: ~/.cache/dkms2bin)
  DKMS2BIN_STATE   folder of runs and kept VMs (default: ~/.local/state/dkms2bin)
  DKMS2BIN_QUEUE_PASSWORD
                   password of the Redis or Valkey that --queue names
  DKMS2BIN_REPO_PASSPHRASE
                   passphrase of the key that --repo-key names (default: asked for)
  DKMS2BIN_SIGN_PASSPHRASE
                   passphrase of the signing key, or PIN of its token (default: asked for on a terminal)
  DKMS2BIN_TRACE   1 shows the stack of a bug in dkms2bin (default: not shown)
`;

/** The commander program. It throws instead of exiting; `runCli` turns that into an exit code. */
export function createProgram(context: CliContext): Command {
  const program = new Command('dkms2bin')
    .description(
      'Turns DKMS packages into binary kernel-module packages for exact kernels, built in a throw-away virtual machine that runs that very kernel. Needs no root.',
    )
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show this help')
    .helpCommand('help [command]', 'show the help of a command')
    .usage(
      '[build] --dkms <source>... [--kernel <release>...] [options]\n       dkms2bin <command> [options]',
    )
    .enablePositionalOptions()
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureOutput({
      writeOut: (text) => void context.stdout.write(text),
      writeErr: (text) => void context.stderr.write(text),
      getOutHelpWidth: () => Math.min(context.stdout.columns ?? 100, 110),
      getErrHelpWidth: () => Math.min(context.stderr.columns ?? 100, 110),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      outputError: (text, write) => {
        const [first = '', ...more] = plain(text)
          .replace(/^error: /, '')
          .trim()
          .split('\n');
        const hint = more.join(' ').replace(/^\((.*)\)$/, '$1');
        write(`dkms2bin: ${first}\n  hint: ${hint === '' ? 'See dkms2bin --help' : hint}\n`);
      },
    });

  addBuild(program, context);
  addBisect(program, context);
  addLogin(program, context);
  addRuns(program, context);
  addRm(program, context);
  addImages(program, context);
  addInspect(program, context);
  addKernels(program, context);
  addMatrix(program, context);
  addWorker(program, context);
  addBoard(program, context);
  addRefresh(program, context);
  addRepo(program, context);
  addProve(program, context);
  addKeygen(program, context);
  addDoctor(program, context);

  // Somebody who types --help wants build's options, not the advice to type another command.
  program.addHelpText('after', () => {
    const build = program.commands.find((command) => command.name() === 'build');
    const text = build?.helpInformation() ?? '';
    return `\nOptions of build\n\n${text.slice(text.indexOf('What to build:'), text.lastIndexOf('\nOptions:')).trimEnd()}\n${EXIT_CODES}`;
  });
  return program;
}
