import { chown, mkdir, open, readdir, rm, writeFile } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { run } from '../lib/exec.js';
import { vmSandbox, type VmSandbox } from '../lib/sandbox.js';
import { seccompProgram } from './seccomp.js';

/** What one compilation may take. */
const LIMITS = {
  seconds: 300,
  memory: 2 * 2 ** 30,
  output: 64 * 2 ** 20,
  processes: 64,
  scratch: 512 * 2 ** 20,
};

export interface Order {
  /** Working folder, a path of the guest's. */
  folder: string;
  /** The compiler, a path of the guest's, and its arguments. */
  command: readonly [string, ...string[]];
  env: Readonly<Record<string, string>>;
  /** The build folder's path in the guest, and files in it, relative, that the compiler is to write. */
  tree: string;
  outputs: readonly string[];
}

/** Runs compilers of one cell. */
export class CompilerSandbox {
  readonly #root: string;
  readonly #tree: string;
  readonly #out: string;
  readonly #sandbox: VmSandbox;
  /** In `root`, leading into its /usr. */
  readonly #links: readonly string[];
  readonly #filter = seccompProgram();

  private constructor(root: string, dir: string, sandbox: VmSandbox, links: readonly string[]) {
    this.#root = root;
    this.#tree = join(dir, 'tree');
    this.#out = join(dir, 'out');
    this.#sandbox = sandbox;
    this.#links = links;
  }

  /**
   * `root` holds the compiler's files; `dir` is this cell's own: the build folder is its `tree`. Throws fault `host` where there
   * can be no sandbox.
   */
  static async create(root: string, dir: string): Promise<CompilerSandbox> {
    for (const name of ['tree', 'out']) await mkdir(join(dir, name), { recursive: true, mode: 0o755 });
    const sandbox = await vmSandbox({
      readable: [root, join(dir, 'tree')],
      writable: [join(dir, 'out')],
      network: false,
    });
    const entries = await readdir(root, { withFileTypes: true });
    const links = entries.filter((entry) => entry.isSymbolicLink()).map(({ name }) => name);
    return new CompilerSandbox(root, dir, sandbox, links);
  }

  get tree(): string {
    return this.#tree;
  }

  /** Throws what ended it: another exit code than 0, or a limit. */
  async run(
    order: Order,
    signal: AbortSignal,
  ): Promise<{ outputs: Buffer[]; stdout: string; stderr: string }> {
    const files = order.outputs.map((_, index) => join(this.#out, String(index)));
    const { owner } = this.#sandbox;
    for (const file of files) {
      await rm(file, { force: true });
      await writeFile(file, '', { flag: 'wx', mode: 0o600 });
      if (owner !== null) await chown(file, owner, owner);
    }
    const [program, ...args] = [...this.#sandbox.command, ...this.#inner(order, files)];
    const { stdout, stderr } = await run(program ?? '', args, {
      fds: [this.#filter],
      timeout: LIMITS.seconds * 1000,
      cancelSignal: signal,
    });
    return { outputs: await Promise.all(files.map(readOutput)), stdout, stderr };
  }

  #inner({ folder, command, env, tree, outputs }: Order, files: readonly string[]): string[] {
    return [
      ...[
        'prlimit',
        '--core=0',
        `--cpu=${LIMITS.seconds}`,
        `--fsize=${LIMITS.output}`,
        `--as=${LIMITS.memory}`,
      ],
      ...[
        `--nproc=${LIMITS.processes}`,
        '--',
        'bwrap',
        '--unshare-all',
        '--die-with-parent',
        '--new-session',
      ],
      ...['--cap-drop', 'ALL', '--seccomp', '3', '--clearenv', '--setenv', 'PATH', '/usr/bin:/bin'],
      ...Object.entries(env).flatMap(([name, value]) => ['--setenv', name, value]),
      ...['--ro-bind', join(this.#root, 'usr'), '/usr'],
      ...this.#links.flatMap((name) => ['--symlink', `usr/${name}`, `/${name}`]),
      ...[
        '--dir',
        '/dev',
        '--dev-bind',
        '/dev/null',
        '/dev/null',
        '--size',
        String(LIMITS.scratch),
        '--tmpfs',
        '/tmp',
        '--ro-bind',
        this.#tree,
        tree,
      ],
      ...outputs.flatMap((path, index) => ['--bind', files[index] ?? '', `${tree}/${path}`]),
      ...['--chdir', folder, '--', ...command],
    ];
  }
}

async function readOutput(path: string): Promise<Buffer> {
  await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  const info = await file.stat();
  if (!info.isFile() || info.size > LIMITS.output) throw new Error('no file came of it');
  return file.readFile();
}
