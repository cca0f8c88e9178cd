import { execa } from 'execa';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { Dkms2binError } from '../core/errors.js';
import { missingTool, run } from '../core/exec.js';
import { PACKAGE_ROOT } from '../core/paths.js';
import { plain } from '../core/text.js';

export const GUEST_USER = 'dkms2bin';
/** Where this tool keeps its things inside a guest. */
export const GUEST_DIR = '/var/lib/dkms2bin';

export interface Keys {
  userKeyPath: string;
  userPublicKey: string;
  hostPrivateKey: string;
  hostPublicKey: string;
  knownHosts: string;
}

/** Makes this VM's own key pair for login and the host key that it will be pinned to, in `dir`. */
export async function makeKeys(dir: string, signal?: AbortSignal): Promise<Keys> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const userKeyPath = join(dir, 'id');
  const hostKeyPath = join(dir, 'host');
  const options = signal ? { cancelSignal: signal } : {};
  for (const path of [userKeyPath, hostKeyPath]) {
    await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'dkms2bin', '-f', path], options);
  }
  const hostPublicKey = (await readFile(`${hostKeyPath}.pub`, 'utf8')).trim();
  const knownHosts = join(dir, 'known_hosts');
  await writeFile(knownHosts, `dkms2bin-guest ${hostPublicKey}\n`);
  return {
    userKeyPath,
    userPublicKey: (await readFile(`${userKeyPath}.pub`, 'utf8')).trim(),
    hostPrivateKey: await readFile(hostKeyPath, 'utf8'),
    hostPublicKey,
    knownHosts,
  };
}

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

/** Quotes for a POSIX shell. */
export function quote(value: string): string {
  return `'${value.replaceAll("'", `'\\''`)}'`;
}

export interface GuestOutput {
  code: number;
  /** Last lines of what was printed, control bytes removed. */
  tail: string;
  /** `@@dkms2bin KEY VALUE` lines of the guest's scripts, in order. */
  reports: { key: string; value: string }[];
}

export interface GuestOptions {
  port: number;
  keyDir: string;
  controlPath: string;
  /** Races a wait against the VM's death. */
  alive: <T>(work: Promise<T>) => Promise<T>;
  signal?: AbortSignal;
}

/**
 * The command that runs `cloud-init/guest/<name>` as root, and what goes to its standard input: the variables and the
 * script. The guest stores it as a file, because a child that reads stdin must not eat the script.
 */
async function rootScript(
  name: string,
  vars: Record<string, string>,
  redirect: '' | ' 2>&1',
): Promise<{ command: string; input: string }> {
  const text = await readFile(join(PACKAGE_ROOT, 'cloud-init', 'guest', name), 'utf8');
  const header = Object.entries(vars)
    .map(([key, value]) => `${key}=${quote(value)}\n`)
    .join('');
  const path = `${GUEST_DIR}/${name}`;
  const store = `mkdir -p ${GUEST_DIR} && cat > ${path} && exec bash ${path} </dev/null${redirect}`;
  return { command: `sudo -n sh -c ${quote(store)}`, input: header + text };
}

const MAX_REPORTS = 10_000;
const MAX_LINE = 16 * 1024;

/** A root shell in the guest over one multiplexed SSH connection. */
export class Guest {
  readonly #args: string[];

  constructor(private readonly options: GuestOptions) {
    this.#args = sshArgs(options.keyDir, options.port, options.controlPath);
  }

  /** Waits until ssh answers with the pinned key. `hint` names what to look at. */
  async waitForSsh(deadlineMs: number): Promise<void> {
    const end = Date.now() + deadlineMs;
    let last = '';
    while (Date.now() < end) {
      const probe = this.#spawn('true', undefined, Math.max(5000, end - Date.now()));
      const result = await this.options.alive(probe);
      if (result.exitCode === 0) return;
      if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted');
      if (result.code === 'ENOENT') throw missingTool('ssh');
      last = String(result.stderr).trim();
      if (/HOST IDENTIFICATION HAS CHANGED|Host key verification failed/.test(last)) {
        // Before cloud-init has put our host key in place sshd may answer with an older one: keep waiting.
        last = 'the guest shows another host key than the one this run made';
      }
      await this.options.alive(sleep(700));
    }
    throw new Dkms2binError('transient', `ssh did not answer within ${deadlineMs / 1000} s: ${plain(last)}`, {
      hint: 'Read the console log of the run, or give a slow host more time with --timeout.',
    });
  }

  #spawn(command: string, input: Readable | string | undefined, timeout: number) {
    return execa('ssh', [...this.#args, command], {
      ...(typeof input === 'string' ? { input } : input ? { stdin: input } : { stdin: 'ignore' as const }),
      reject: false,
      timeout,
      forceKillAfterDelay: 3000,
      maxBuffer: 4 * 1024 * 1024,
      ...(this.options.signal ? { cancelSignal: this.options.signal } : {}),
    });
  }

  /** Puts a local file, or bytes, at `path` in the guest. */
  async put(source: { file: string } | { bytes: Buffer }, path: string, timeoutMs = 600_000): Promise<void> {
    const result = await this.options.alive(
      execa('ssh', [...this.#args, `sudo -n sh -c ${quote(`umask 022; cat > ${quote(path)}`)}`], {
        ...('file' in source ? { inputFile: source.file } : { input: source.bytes }),
        reject: false,
        timeout: timeoutMs,
        ...(this.options.signal ? { cancelSignal: this.options.signal } : {}),
      }),
    );
    if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted');
    if (result.failed) {
      throw new Dkms2binError(
        'transient',
        `Could not send ${path} to the guest: ${plain(String(result.stderr))}`,
      );
    }
  }

  /**
   * Runs `cloud-init/guest/<name>` as root with `vars` set. Resolves whatever its exit code is; lines reach `onLine`
   * as they come. Rejects when ssh breaks, the VM dies or `timeoutMs` passes.
   */
  async script(
    name: string,
    vars: Record<string, string>,
    options: {
      timeoutMs: number;
      onLine?: (line: string) => void;
      onReport?: (key: string, value: string) => void;
    },
  ): Promise<GuestOutput> {
    const { command, input } = await rootScript(name, vars, ' 2>&1');
    const child = execa('ssh', [...this.#args, command], {
      input,
      reject: false,
      buffer: false,
      timeout: options.timeoutMs,
      forceKillAfterDelay: 3000,
      ...(this.options.signal ? { cancelSignal: this.options.signal } : {}),
    });
    const reports: GuestOutput['reports'] = [];
    const tail: string[] = [];
    const sink = (line: string): void => {
      const report = /^@@dkms2bin (\S{1,64}) ?(.*)$/.exec(line);
      if (report && reports.length < MAX_REPORTS) {
        const [key, value] = [report[1]!, plain(report[2]!)];
        reports.push({ key, value });
        options.onReport?.(key, value);
        return;
      }
      const clean = plain(line);
      tail.push(clean);
      if (tail.length > 40) tail.shift();
      options.onLine?.(clean);
    };
    const reading = Promise.all([eachLine(child.stdout, sink), eachLine(child.stderr, sink)]);
    const result = await this.options.alive(child);
    await reading.catch(() => undefined);
    if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted');
    if (result.timedOut) {
      throw new Dkms2binError(
        'transient',
        `${name} did not end within ${Math.round(options.timeoutMs / 1000)} s in the guest; it last said:\n${tail.slice(-5).join('\n')}`,
        { hint: 'Give it more time with --timeout.' },
      );
    }
    if (result.exitCode === undefined || result.exitCode === 255) {
      throw new Dkms2binError(
        'transient',
        `The ssh connection to the guest broke during ${name}:\n${tail.slice(-5).join('\n')}`,
      );
    }
    return { code: result.exitCode, tail: tail.join('\n'), reports };
  }

  /** Runs a guest script whose standard output is bytes, not lines. The caller reads it with limits. */
  async bytes(
    name: string,
    vars: Record<string, string>,
    timeoutMs: number,
  ): Promise<{ stdout: Readable; done: Promise<void> }> {
    const { command, input } = await rootScript(name, vars, '');
    const child = execa('ssh', [...this.#args, command], {
      input,
      reject: false,
      buffer: { stdout: false, stderr: true },
      timeout: timeoutMs,
      encoding: 'buffer',
      ...(this.options.signal ? { cancelSignal: this.options.signal } : {}),
    });
    const done = (async () => {
      const result = await this.options.alive(child);
      if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted');
      if (result.failed) {
        throw new Dkms2binError(
          'transient',
          `${name} exited with ${String(result.exitCode)} in the guest: ${plain(Buffer.from(result.stderr).toString('utf8')).slice(-500)}`,
        );
      }
    })();
    done.catch(() => undefined);
    return { stdout: child.stdout, done };
  }

  /** One short command as root; its standard output. Throws when it fails. */
  async text(command: string, timeoutMs = 120_000): Promise<string> {
    const result = await this.options.alive(
      this.#spawn(`sudo -n sh -c ${quote(command)}`, undefined, timeoutMs),
    );
    if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted');
    if (result.failed) {
      throw new Dkms2binError(
        'transient',
        `\`${command}\` failed in the guest (${String(result.exitCode ?? result.signal)}): ${plain(String(result.stderr)).slice(-500)}`,
      );
    }
    return String(result.stdout);
  }

  /** Copies a guest file to `to` on the host, at most `maxBytes`. */
  async fetch(path: string, to: string, maxBytes: number, timeoutMs = 600_000): Promise<void> {
    const child = execa('ssh', [...this.#args, `sudo -n head -c ${maxBytes + 1} ${quote(path)}`], {
      reject: false,
      stdin: 'ignore',
      stdout: { file: to },
      timeout: timeoutMs,
      ...(this.options.signal ? { cancelSignal: this.options.signal } : {}),
    });
    const result = await this.options.alive(child);
    if (result.isCanceled) throw new Dkms2binError('interrupted', 'Interrupted');
    if (result.failed) {
      throw new Dkms2binError(
        'transient',
        `Could not fetch ${path} from the guest: ${plain(String(result.stderr))}`,
      );
    }
  }

  /** Ends the multiplexed connection. */
  async close(): Promise<void> {
    await execa('ssh', ['-O', 'exit', ...this.#args], { reject: false, stdio: 'ignore', timeout: 5000 });
  }
}

/**
 * cloud-init may hang for ever, so ours is the deadline. Its result file is read instead of `cloud-init status`, which
 * costs seconds of emulated Python. Resolves with what went wrong inside cloud-init: ssh answers, so the run goes on.
 */
export async function waitForCloudInit(guest: Guest, deadlineMs: number): Promise<string[]> {
  const result = '/run/cloud-init/result.json';
  const tries = Math.ceil(deadlineMs / 500);
  const text = await guest.text(
    `i=0; while [ ! -s ${result} ] && [ $i -lt ${tries} ]; do sleep 0.5; i=$((i+1)); done; cat ${result} || true`,
    deadlineMs + 60_000,
  );
  if (text.trim() === '') {
    throw new Dkms2binError('transient', `cloud-init did not end within ${deadlineMs / 1000} s`, {
      hint: 'Read the console log of the run; is cloud-init switched off in this image?',
    });
  }
  const errors = /"errors":\s*\[([^\]]*)\]/.exec(text)?.[1]?.trim() ?? '';
  return errors === '' ? [] : [`cloud-init ended with errors: ${plain(errors).slice(0, 400)}`];
}

async function eachLine(stream: Readable, sink: (line: string) => void): Promise<void> {
  let rest = '';
  stream.setEncoding('utf8');
  for await (const chunk of stream) {
    rest += String(chunk);
    const lines = rest.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) sink(line.slice(0, MAX_LINE));
    // A guest that never ends its line must not fill our memory.
    if (rest.length > MAX_LINE) {
      sink(rest.slice(0, MAX_LINE));
      rest = '';
    }
  }
  if (rest !== '') sink(rest);
}
