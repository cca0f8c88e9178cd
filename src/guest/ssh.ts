import { execa } from 'execa';
import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Dkms2binError } from '../model/errors.js';
import { missingTool } from '../lib/exec.js';
import { plain, quote } from '../lib/text.js';
import { childEnvironment } from '../lib/variables.js';
import { GUEST_USER } from './keys.js';
import { endOf, type Command, type Ended, type ExecIo, type Transport } from './transport.js';

/** Arguments of `ssh` up to and including the destination; the host key is pinned under an alias. */
export function sshArgs(keyDir: string, port: number, controlPath?: string): string[] {
  const options = [
    'BatchMode=yes',
    'StrictHostKeyChecking=yes',
    `UserKnownHostsFile="${join(keyDir, 'known_hosts')}"`,
    'GlobalKnownHostsFile=none',
    'HostKeyAlias=dkms2bin-guest',
    'IdentitiesOnly=yes',
    'ConnectTimeout=40',
    'ServerAliveInterval=30',
    'ServerAliveCountMax=10',
    'LogLevel=ERROR',
    'HostKeyAlgorithms=ssh-ed25519',
    // Cheapest in software, which is what an emulated CPU has.
    'Ciphers=chacha20-poly1305@openssh.com,aes128-ctr',
    'KexAlgorithms=curve25519-sha256,curve25519-sha256@libssh.org',
    ...(controlPath ? ['ControlMaster=auto', `ControlPath="${controlPath}"`, 'ControlPersist=600'] : []),
  ];
  return [
    '-F',
    'none',
    ...options.flatMap((o) => ['-o', o]),
    '-i',
    join(keyDir, 'id'),
    '-p',
    String(port),
    `${GUEST_USER}@127.0.0.1`,
  ];
}

/** How every ssh is started. */
const settings = () => ({ reject: false, env: childEnvironment(), extendEnv: false }) as const;

export interface SshOptions {
  port: number;
  /** Holds `id` and `known_hosts`, see `makeKeys`. */
  keyDir: string;
  controlPath: string;
  signal?: AbortSignal;
}

/** One multiplexed connection to sshd, for cloud images that have no agent of ours. */
export class SshTransport implements Transport {
  readonly #args: string[];
  readonly #cancel: { cancelSignal?: AbortSignal };

  constructor(options: SshOptions) {
    this.#args = sshArgs(options.keyDir, options.port, options.controlPath);
    this.#cancel = options.signal ? { cancelSignal: options.signal } : {};
  }

  /** Waits until sshd answers with the pinned key; `alive` races the wait against the VM's death. */
  async waitForSsh(deadlineMs: number, alive: <T>(work: Promise<T>) => Promise<T>): Promise<void> {
    const end = Date.now() + deadlineMs;
    let last = '';
    while (Date.now() < end) {
      const result = await alive(
        execa('ssh', [...this.#args, 'true'], {
          ...settings(),
          stdin: 'ignore',
          timeout: Math.max(5000, end - Date.now()),
          forceKillAfterDelay: 3000,
          ...this.#cancel,
        }),
      );
      if (result.exitCode === 0) return;
      if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted');
      if (result.code === 'ENOENT') throw missingTool('ssh');
      last = String(result.stderr).trim();
      if (/HOST IDENTIFICATION HAS CHANGED|Host key verification failed/.test(last)) {
        // Before cloud-init has put our host key in place sshd may answer with an older one: keep waiting.
        last = "the guest's host key is not the one that this run made";
      }
      await alive(sleep(700));
    }
    throw new Dkms2binError('transient', `ssh did not answer within ${deadlineMs / 1000} s: ${plain(last)}`, {
      hint: 'Read the console log of the run.',
    });
  }

  async exec(command: Command, io: ExecIo): Promise<Ended> {
    const { giveUp } = io;
    const words = 'sh' in command ? `sh -c ${quote(command.sh)}` : `python3 -I -c ${quote(command.python)}`;
    const child = execa('ssh', [...this.#args, `sudo -n ${words}`], {
      ...settings(),
      buffer: false,
      timeout: io.timeoutMs,
      forceKillAfterDelay: 3000,
      ...stdinOf(io),
      cancelSignal: AbortSignal.any([giveUp, this.#cancel.cancelSignal].filter((each) => each !== undefined)),
    });
    child.stdout.pipe(io.stdout, { end: false });
    child.stderr.pipe(io.stderr, { end: false });
    const result = await child;
    await Promise.all([endOf(io.stdout), endOf(io.stderr)]);
    if (result.isCanceled && !giveUp?.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
    if (result.timedOut || giveUp?.aborted) return { code: null, timedOut: true };
    if (result.failed && result.exitCode === 0) {
      throw new Dkms2binError(
        'host',
        `What is sent to the guest cannot be read: ${result.originalMessage ?? result.shortMessage}`,
      );
    }
    if (result.exitCode === undefined || result.exitCode === 255) {
      throw new Dkms2binError('transient', 'The ssh connection to the guest broke');
    }
    return { code: result.exitCode, timedOut: false };
  }

  /** Ends the multiplexed connection. */
  async close(): Promise<void> {
    await execa('ssh', ['-O', 'exit', ...this.#args], { ...settings(), stdio: 'ignore', timeout: 5000 });
  }
}

function stdinOf({ input, onInput }: ExecIo): { stdin: 'ignore' } | { input: string | Buffer | Readable } {
  if (input === undefined) return { stdin: 'ignore' };
  if (typeof input !== 'object' || !('file' in input)) return { input };
  const stream = createReadStream(input.file);
  // ssh takes what it can send.
  if (onInput) stream.on('data', onInput);
  return { input: stream };
}
