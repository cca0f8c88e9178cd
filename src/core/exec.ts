import { execa, type Options } from 'execa';
import { Dkms2binError } from './errors.js';

/** Debian package that brings a host tool, for the error's remedy. */
const PACKAGE_OF: Record<string, string> = {
  'qemu-system-x86_64': 'qemu-system-x86',
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
  ssh: 'openssh-client',
  'ssh-keygen': 'openssh-client',
  sfdisk: 'fdisk',
  xz: 'xz-utils',
  zstd: 'zstd',
  flock: 'util-linux',
  setpriv: 'util-linux',
  unshare: 'util-linux',
};

export interface ExecResult {
  stdout: string;
  stderr: string;
}

/**
 * Runs a host command to its end: the one door to child processes that end by themselves.
 * Throws fault `host` when the tool is missing or exits non-zero, quoting its last lines.
 */
export async function run(
  file: string,
  args: readonly string[],
  options: Pick<Options, 'cwd' | 'env' | 'input' | 'cancelSignal' | 'timeout'> & {
    /** Ends the command when this process is killed: for commands that run for minutes and clean up on SIGTERM. */
    dieWithParent?: boolean;
  } = {},
): Promise<ExecResult> {
  const { dieWithParent, ...rest } = options;
  const [command, ...words] = dieWithParent
    ? ['setpriv', '--pdeathsig', 'TERM', '--', file, ...args]
    : [file, ...args];
  const result = await execa(command, words, {
    ...rest,
    reject: false,
    stdin: options.input === undefined ? 'ignore' : 'pipe',
    forceKillAfterDelay: 5000,
  });
  if (!result.failed) return { stdout: String(result.stdout), stderr: String(result.stderr) };
  if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted', { cause: result });
  if (result.code === 'ENOENT') throw missingTool(command);
  if (/^setpriv: failed to execute/m.test(String(result.stderr))) throw missingTool(file);
  const tail = String(result.stderr || result.stdout || '')
    .trim()
    .split('\n')
    .slice(-20)
    .join('\n');
  const how = result.timedOut ? 'ran out of time' : `exited with ${String(result.exitCode ?? result.signal)}`;
  throw new Dkms2binError('host', `${file} ${args.slice(0, 2).join(' ')} ${how}${tail ? `:\n${tail}` : ''}`);
}

/**
 * Pipes bytes through a host command: a decompressor. Null when it refuses its input; throws fault `host` when the
 * tool is missing or was killed, and `usage` when more than `maxBytes` come out.
 */
export async function filter(
  file: string,
  args: readonly string[],
  input: Buffer,
  maxBytes: number,
): Promise<Buffer | null> {
  const result = await execa(file, args, {
    input,
    encoding: 'buffer',
    maxBuffer: maxBytes,
    reject: false,
    stripFinalNewline: false,
    forceKillAfterDelay: 5000,
  });
  if (!result.failed)
    return Buffer.from(result.stdout.buffer, result.stdout.byteOffset, result.stdout.length);
  if (result.code === 'ENOENT') throw missingTool(file);
  if (result.isMaxBuffer) {
    throw new Dkms2binError('usage', `More than ${maxBytes} bytes come out of ${file}`);
  }
  if (result.exitCode === undefined) {
    throw new Dkms2binError('host', `${file} was ended by ${result.signal ?? 'an error'}`, { cause: result });
  }
  return null;
}

export function missingTool(file: string): Dkms2binError {
  const pkg = PACKAGE_OF[file] ?? file;
  return new Dkms2binError('host', `${file} is not installed on this host`, {
    hint: `Install it: sudo apt-get install ${pkg}`,
  });
}
