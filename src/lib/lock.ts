import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { missingTool } from './exec.js';

export interface Lock extends AsyncDisposable {
  release(): Promise<void>;
}

type LockMode = 'exclusive' | 'shared';

interface LockOptions {
  /** Whether to wait while another process holds it. */
  wait: boolean;
  signal?: AbortSignal | undefined;
}

/**
 * A flock(2) on `path`, held by a `flock … cat` child: the kernel releases it when this process dies, however it
 * dies, because the child then reads end of file. Resolves null when `wait` is false and the lock is taken.
 */
export function lock(path: string, mode: LockMode, options: LockOptions & { wait: true }): Promise<Lock>;
export function lock(path: string, mode: LockMode, options: LockOptions): Promise<Lock | null>;
export async function lock(path: string, mode: LockMode, options: LockOptions): Promise<Lock | null> {
  await mkdir(dirname(path), { recursive: true });
  const args = [mode === 'exclusive' ? '-x' : '-s', ...(options.wait ? [] : ['-n']), path];
  const child = spawn('flock', [...args, 'sh', '-c', 'echo locked; exec cat >/dev/null'], {
    stdio: ['pipe', 'pipe', 'ignore'],
    // Its own process group: a Ctrl-C on the terminal must not drop the lock before the work it guards has ended.
    detached: true,
  });
  const gone = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const abort = (): void => void child.kill('SIGKILL');
  options.signal?.addEventListener('abort', abort, { once: true });
  const got = await new Promise<boolean>((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'ENOENT' ? missingTool('flock') : error),
    );
    child.stdout.once('data', () => resolve(true));
    child.once('close', () => resolve(false));
  });
  options.signal?.removeEventListener('abort', abort);
  if (!got) {
    if (options.signal?.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
    if (!options.wait) return null;
    throw new Dkms2binError('host', `Could not lock ${path}`);
  }
  const release = async (): Promise<void> => {
    child.stdin.end();
    await gone;
  };
  return { release, [Symbol.asyncDispose]: release };
}
