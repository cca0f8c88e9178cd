import { createInterface } from 'node:readline';
import { execa, type Options, type Result } from 'execa';
import { Dkms2binError, type Fault } from '../model/errors.js';
import { childEnvironment } from './variables.js';

/** Debian package that brings a host tool, for the error's remedy. */
const PACKAGE_OF: Record<string, string> = {
  'qemu-system-x86_64': 'qemu-system-x86',
  // All that guests of that architecture need.
  'qemu-system-aarch64': 'qemu-system-arm qemu-efi-aarch64 qemu-user-static',
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  mmdebstrap: 'mmdebstrap',
  xorriso: 'xorriso',
  'mkfs.ext4': 'e2fsprogs',
  mke2fs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  debugfs: 'e2fsprogs',
  'mkfs.vfat': 'dosfstools',
  mformat: 'mtools',
  mcopy: 'mtools',
  mmd: 'mtools',
  fakeroot: 'fakeroot',
  bwrap: 'bubblewrap',
  ssh: 'openssh-client',
  'ssh-keygen': 'openssh-client',
  sfdisk: 'fdisk',
  xz: 'xz-utils',
  zstd: 'zstd',
  openssl: 'openssl',
  flock: 'util-linux',
  setpriv: 'util-linux',
  unshare: 'util-linux',
  prlimit: 'util-linux',
  git: 'git',
  'dpkg-source': 'dpkg-dev',
  bzip2: 'bzip2',
};

export interface ExecResult {
  stdout: string;
  stderr: string;
}

export type RunOptions = Pick<Options, 'cwd' | 'input' | 'cancelSignal' | 'timeout'> & {
  /** Beside the few variables that every child gets. */
  env?: Readonly<Record<string, string | undefined>>;
  /** It downloads: it gets the proxies that the environment names. */
  network?: boolean;
  /** Ends the command when this process is killed: for commands that run for minutes and clean up on SIGTERM. */
  dieWithParent?: boolean;
  /** The command's file descriptors 3, 4, …: bytes it can read there once, or an open file. For what must not be an argument. */
  fds?: readonly (Uint8Array | number)[];
  /** Hears what it writes on standard error, line by line, as it comes. */
  onLine?: (line: string) => void;
  /** Whose fault a non-zero exit is; default `host`. */
  fault?: Fault;
};

/**
 * Runs a host command to its end: the one door to child processes that end by themselves.
 * Throws fault `host` when the tool is missing or exits non-zero, quoting its last lines.
 */
export async function run(
  file: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<ExecResult> {
  const { stdout, stderr } = await finish(file, args, options);
  return { stdout: String(stdout), stderr: String(stderr) };
}

/** As `run`, for a command whose output is bytes. More than `maxBytes` of them count as a non-zero exit. */
export async function runBytes(
  file: string,
  args: readonly string[],
  { maxBytes, ...options }: RunOptions & { maxBytes: number },
): Promise<Buffer> {
  const output = new Capped(maxBytes);
  await finish(file, args, options, output);
  return Buffer.concat(output.chunks);
}

/** As `runBytes`, for output that is too much to hold: `onChunk` gets it piece by piece. What it throws ends the command. */
export async function runChunks(
  file: string,
  args: readonly string[],
  { maxBytes, onChunk, ...options }: RunOptions & { maxBytes: number; onChunk: (chunk: Buffer) => void },
): Promise<void> {
  const output = new Capped(maxBytes, onChunk);
  try {
    await finish(file, args, options, output);
  } catch (error) {
    throw output.failure ?? error;
  }
}

/** What a command writes, up to a limit. */
class Capped {
  readonly chunks: Buffer[] = [];
  failure: Error | undefined;
  #left: number;

  constructor(
    readonly maxBytes: number,
    private readonly onChunk = (chunk: Buffer): void => void this.chunks.push(chunk),
  ) {
    this.#left = maxBytes;
  }

  get full(): boolean {
    return this.#left < 0;
  }

  add(chunk: Buffer): void {
    this.#left -= chunk.length;
    if (this.full) return;
    try {
      this.onChunk(chunk);
    } catch (error) {
      // Thrown out of a stream's listener it would end the process.
      this.failure = error as Error;
      this.#left = -1;
    }
  }
}

/** The one place that starts a command. */
function start(
  [file = '', ...args]: readonly string[],
  { dieWithParent, fds = [], fault: _, onLine: _hears, cancelSignal, env, network, ...rest }: RunOptions,
  asBytes: boolean,
) {
  const [command, ...words] = dieWithParent
    ? ['setpriv', '--pdeathsig', 'TERM', '--', file, ...args]
    : [file, ...args];
  return execa(command, words, {
    ...rest,
    env: childEnvironment(env, network),
    extendEnv: false,
    // Not through execa: in its error it would quote all of it as text, which for 64 MiB of zeros ends the process.
    ...(asBytes && { buffer: { stdout: false } }),
    reject: false,
    // execa's types want to know which entry is which; one cast says that all of these go in.
    stdio: [rest.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe', ...(fds as Uint8Array[])],
    forceKillAfterDelay: 5000,
    // A group of its own, so that all of it can be ended.
    ...(dieWithParent ? { detached: true } : cancelSignal && { cancelSignal }),
  });
}

/** The one place that reads how a command ended. Its output goes to `bytes` when that is given. */
async function finish(
  file: string,
  args: readonly string[],
  options: RunOptions,
  bytes?: Capped,
): Promise<{ stdout: unknown; stderr: unknown }> {
  const { dieWithParent, cancelSignal } = options;
  const child = start([file, ...args], options, bytes !== undefined);
  const release = dieWithParent ? endGroupOn(cancelSignal, child.pid) : undefined;
  if (bytes) {
    child.stdout.on('data', (chunk: Buffer) => {
      bytes.add(chunk);
      if (bytes.full) child.kill();
    });
  }
  if (options.onLine) createInterface({ input: child.stderr }).on('line', options.onLine);
  const result = await child;
  release?.();
  if (dieWithParent && cancelSignal?.aborted)
    throw new Dkms2binError('interrupted', 'Interrupted', { cause: result });
  // The limit can be passed by a command that has ended well before it could be killed.
  if (!result.failed && !bytes?.full) return { stdout: result.stdout, stderr: result.stderr };
  if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted', { cause: result });
  if (result.code === 'ENOENT') throw missingTool(dieWithParent ? 'setpriv' : file);
  throw failureOf([file, ...args], result, options.fault ?? 'host', bytes);
}

/** Why a command that was started did not succeed, with the last lines that it wrote. */
function failureOf(
  [file = '', ...args]: readonly string[],
  result: Result,
  fault: Fault,
  bytes: Capped | undefined,
): Dkms2binError {
  const stderr = String(result.stderr ?? '');
  if (/^setpriv: failed to execute/m.test(stderr)) return missingTool(file);
  const [, lacking] = /^bwrap: execvp (\S+): No such file/m.exec(stderr) ?? [];
  if (lacking !== undefined) return missingTool(lacking);
  const tail = (stderr || String(result.stdout ?? '')).trim().split('\n').slice(-20).join('\n');
  let how = `exited with ${String(result.exitCode ?? result.signal)}`;
  if (bytes?.full) how = `wrote more than ${bytes.maxBytes} bytes`;
  if (result.timedOut) how = 'ran out of time';
  return new Dkms2binError(fault, `${file} ${args.slice(0, 2).join(' ')} ${how}${tail ? `:\n${tail}` : ''}`);
}

/** How long a group may clean up after itself: mmdebstrap has a whole root folder to delete. */
const GROUP_GRACE_MS = 20_000;

/**
 * Ends a process group when `signal` aborts. mmdebstrap hands no signal on to its children, who ignore SIGINT, hold its
 * output open and would wait for ever for somebody to read theirs. The result takes the watch away again.
 */
function endGroupOn(signal: AbortSignal | undefined, pid: number | undefined): () => void {
  let timer: NodeJS.Timeout | undefined;
  const strike = (name: NodeJS.Signals): void => {
    try {
      if (pid !== undefined) process.kill(-pid, name);
    } catch {
      // It has ended.
    }
  };
  const end = (): void => {
    strike('SIGTERM');
    timer = setTimeout(() => strike('SIGKILL'), GROUP_GRACE_MS);
  };
  if (signal?.aborted) end();
  signal?.addEventListener('abort', end, { once: true });
  return () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', end);
    if (signal?.aborted) strike('SIGKILL');
  };
}

export function missingTool(file: string): Dkms2binError {
  const pkg = PACKAGE_OF[file] ?? file;
  return new Dkms2binError('host', `${file} is not installed on this host`, {
    hint: `Install it: sudo apt-get install ${pkg}`,
  });
}
