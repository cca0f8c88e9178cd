import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, createReadStream, createWriteStream, openSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Dkms2binError, GuestDeath, messageOf } from '../model/errors.js';
import { vmSandbox, type VmSandbox } from '../lib/sandbox.js';
import { socketFolder, type Scratch } from '../lib/scratch.js';
import { oneLine, plain } from '../lib/text.js';
import { childEnvironment } from '../lib/variables.js';
import { qemuArgs, type VmConfig } from './args.js';
import { ConsoleWatch } from './console.js';
import { ConsoleLog } from './console-log.js';
import { contentsOf, giveTo } from './contents.js';
import { cpuMsOf, unlessDead } from './in-vain.js';
import { findQemu } from './qemu-binary.js';
import { keepQemuLog } from './qemu-log.js';
import { Qmp } from './qmp.js';

export type VmSpec = Omit<
  VmConfig,
  'qmpSocket' | 'consoleSocket' | 'consolePipe' | 'channelSocket' | 'compilerSocket' | 'forwardSocket'
> & {
  /** What the disk builds on, nearest first, by who made it: its own word counts for nothing once a QEMU has written to it. */
  backings: readonly string[];
  /** Whether the guest has the address NET.management.forward. */
  forward: boolean;
  /** Whether the card that leads out has a link until `cutEgress`. */
  egress: boolean;
  /** What `save` wrote with the memory in it, for `resume`: QEMU reads it itself. */
  state?: string;
};

const PANIC = /Kernel panic - not syncing.*|VFS: Unable to mount root fs.*/;
/** How a kernel's own report of its trouble begins. */
const DYING =
  /^(?:BUG: |kernel BUG at |Oops|general protection fault|Internal error|Unable to handle|watchdog: |INFO: task .* blocked|INFO: rcu_|rcu: INFO: )/;

/**
 * A running QEMU. `died` rejects when QEMU exits, the guest panics or the host disk is full; race every wait against
 * it with `alive()`. Disposing it ends QEMU: quit, then TERM, then KILL.
 */
export class Vm implements AsyncDisposable {
  readonly died: Promise<never>;
  readonly socketDir: string;
  readonly consoleLog: string;
  readonly backings: readonly string[];
  /** Of 127.0.0.1: leads to the guest's sshd. Null without a network. */
  readonly sshPort: number | null;
  /** Set once QEMU's end is wanted: then it is no death. */
  #ending = false;
  /** Set once the guest itself has ended or reset the machine. */
  #byGuest = false;

  private constructor(
    private readonly parts: Parts,
    private readonly qemu: Qemu,
    private readonly qmp: Qmp,
    sshPort: number | null,
  ) {
    this.socketDir = parts.socketDir;
    this.consoleLog = parts.consoleLog;
    this.backings = parts.backings;
    this.sshPort = sshPort;
    this.died = new Promise<never>((_, reject) => {
      void qemu.exited.then((how) => {
        if (!this.#ending) reject(this.#deathError(`QEMU ${how}`));
      });
      qmp.on('event', (name: string, data: Record<string, unknown>) => {
        if (name === 'SHUTDOWN' && data.guest === true) this.#byGuest = true;
        if (name === 'GUEST_PANICKED') {
          this.#byGuest = true;
          reject(this.#deathError('The guest kernel panicked'));
        } else if (name === 'BLOCK_IO_ERROR' && data.nospace === true) {
          reject(
            new Dkms2binError('host', 'The host disk is full: QEMU stopped the VM', {
              hint: 'Free space where the runs are kept, then run it again.',
            }),
          );
        }
      });
    });
    this.died.catch(() => undefined);
  }

  /** Starts QEMU and reads back the port that it chose for ssh. With `spec.incoming` the guest waits for `resume`. */
  static async start(spec: VmSpec, dir: string, signal?: AbortSignal): Promise<Vm> {
    const parts = await partsOf(spec, dir);
    let qemu: Qemu | undefined;
    try {
      qemu = startQemu(await commandOf(parts), join(dir, 'qemu.log'), spec.state);
      const qmp = await Promise.race([Qmp.connect(parts.config.qmpSocket, 20_000, signal), qemu.failed]);
      const port = spec.network === 'none' ? null : await sshPortOf(qmp);
      if (!spec.egress) await setEgress(qmp, false);
      return new Vm(parts, qemu, qmp, port);
    } catch (error) {
      qemu?.child.kill('SIGKILL');
      await qemu?.exited;
      await closeParts(parts);
      throw error;
    }
  }

  /** Of the process that began as what confines QEMU and may have QEMU below it. */
  get pid(): number | undefined {
    return this.qemu.child.pid;
  }

  /** How long QEMU has had the processor, in all its threads. */
  async cpuMs(): Promise<number> {
    return this.pid === undefined ? 0 : cpuMsOf(this.pid);
  }

  get consoleSocket(): string {
    return join(this.socketDir, 'console');
  }

  get channelSocket(): string {
    return join(this.socketDir, 'channel');
  }

  get compilerSocket(): string {
    return join(this.socketDir, 'compiler');
  }

  get forwardSocket(): string {
    return join(this.socketDir, 'forward');
  }

  /**
   * Stops the guest and writes its device state to `file`, and its memory, unless that is the spec's file. Its disk is complete once
   * QEMU has ended; the guest does not go on.
   */
  async save(file: string): Promise<void> {
    await this.qmp.command('stop');
    await this.#prepareMigration();
    const socket = join(this.socketDir, 'save');
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(socket, resolve);
    });
    try {
      await giveTo(this.parts.sandbox.owner, [socket]);
      const received = new Promise<void>((resolve, reject) => {
        server.once('connection', (stream) => {
          pipeline(stream, createWriteStream(file, { flags: 'wx' })).then(resolve, (cause: unknown) =>
            reject(
              new Dkms2binError('host', `The VM's state could not be written: ${messageOf(cause)}`, {
                cause,
              }),
            ),
          );
        });
      });
      received.catch(() => undefined);
      await this.qmp.command('migrate', { uri: `unix:${socket}` });
      await this.alive(migrated(this.qmp));
      await this.alive(received);
    } finally {
      server.close();
    }
  }

  /** Loads the device state that `save` wrote and lets the guest run. Egress was cut when it was saved. */
  async resume(file: string, egress: boolean): Promise<void> {
    await this.#prepareMigration();
    if (this.parts.config.memory.kind === 'own') await this.#load();
    else await this.#send(file);
    // Loading set the link as it was saved.
    await setEgress(this.qmp, egress);
    await this.qmp.command('cont');
  }

  /** From the file that it was started with: hundreds of megabytes, which this process need not carry. */
  async #load(): Promise<void> {
    await this.qmp.command('migrate-incoming', { uri: 'fd:3' });
    await this.alive(migrated(this.qmp));
  }

  async #send(file: string): Promise<void> {
    const socket = join(this.socketDir, 'resume');
    await this.qmp.command('migrate-incoming', { uri: `unix:${socket}` });
    const loading = migrated(this.qmp);
    loading.catch(() => undefined);
    const sent = pipeline(createReadStream(file), createConnection(socket)).catch(
      (cause: NodeJS.ErrnoException) => {
        // QEMU knows where the state ends and may hang up before this end does; whether it likes it is its own to say.
        if (['ERR_STREAM_PREMATURE_CLOSE', 'EPIPE', 'ECONNRESET'].includes(cause.code ?? '')) return;
        throw new Dkms2binError('host', `The saved state cannot be loaded: ${messageOf(cause)}`, { cause });
      },
    );
    await this.alive(Promise.all([sent, loading]));
  }

  /** Resolves or rejects with `work`, unless the VM dies first. */
  alive<T>(work: Promise<T>): Promise<T> {
    return unlessDead(work, this.died);
  }

  /** Takes the network away from the guest: from here on only the management NIC has a link. */
  async cutEgress(): Promise<void> {
    await setEgress(this.qmp, false);
  }

  /** The guest has been told to power off: waits for QEMU's end, as long as the console is not silent for `silenceMs`. */
  async waitForPowerOff(silenceMs: number): Promise<void> {
    this.#ending = true;
    using watch = this.watchConsole(() => undefined);
    const said = `The guest has said nothing for ${silenceMs / 1000} s and has not powered off`;
    using silent = watch.silent(silenceMs, () => new Dkms2binError('transient', said));
    await Promise.race([this.qemu.exited, silent]);
  }

  /** Asks the guest to power off through ACPI, waits, and ends QEMU. The disk stays consistent. */
  async powerOff(deadlineMs: number): Promise<void> {
    this.#ending = true;
    await this.qmp.command('system_powerdown').catch(() => undefined);
    await Promise.race([this.qemu.exited, sleep(deadlineMs, undefined, { ref: false })]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending = true;
    const ends = (ms: number): Promise<boolean> =>
      Promise.race([this.qemu.exited.then(() => true), sleep(ms, false, { ref: false })]);
    if (this.qemu.child.exitCode === null && this.qemu.child.signalCode === null) {
      void this.qmp.command('quit').catch(() => undefined);
      if (!(await ends(5000))) {
        this.qemu.child.kill('SIGTERM');
        if (!(await ends(3000))) this.qemu.child.kill('SIGKILL');
      }
      await this.qemu.exited;
    }
    this.qmp.close();
    await closeParts(this.parts);
  }

  /** Hears the console from now on. */
  watchConsole(onLine: (line: string) => void): ConsoleWatch {
    return new ConsoleWatch((onBytes) => this.parts.console.subscribe(onBytes), onLine);
  }

  /** Last lines of the console, safe to print. */
  consoleTail(lines = 12): string {
    return this.parts.console.tail(lines);
  }

  /** A panic that the console shows, when the guest has no pvpanic driver. */
  panicLine(): string | undefined {
    return PANIC.exec(this.consoleTail(200))?.[0];
  }

  /** What the console says of the kernel's end: how it began, and the panic's own words; '' for nothing. */
  lastWords(): string {
    const lines = this.consoleTail(400)
      .split('\n')
      .map((line) => oneLine(line).replace(/^\[ *[\d.]+\] ?/, ''));
    const found = [lines.find((line) => DYING.test(line)), lines.find((line) => PANIC.test(line))];
    return [...new Set(found.filter((line) => line !== undefined))].join('; ').slice(0, 500);
  }

  /** Memory that lies in a file is not in the state that is moved; what is, goes as fast as it can. */
  async #prepareMigration(): Promise<void> {
    if (this.parts.config.memory.kind === 'file') {
      const capabilities = [{ capability: 'x-ignore-shared', state: true }];
      await this.qmp.command('migrate-set-capabilities', { capabilities });
    } else {
      await this.qmp.command('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
    }
  }

  #deathError(what: string): Dkms2binError {
    const panic = this.panicLine();
    const message = `${panic ? `The guest kernel panicked (${panic})` : what}; its console ends:\n${this.consoleTail()}`;
    const options = { hint: `The whole console is in ${this.consoleLog}` };
    return this.#byGuest || panic
      ? new GuestDeath('died', message, this.lastWords(), options)
      : new Dkms2binError('transient', message, options);
  }
}

/** What a VM has beside its process. */
interface Parts {
  config: VmConfig;
  backings: readonly string[];
  folder: Scratch;
  socketDir: string;
  consoleLog: string;
  console: ConsoleLog;
  sandbox: VmSandbox;
}

async function partsOf(spec: VmSpec, dir: string): Promise<Parts> {
  const folder = await socketFolder();
  let console: ConsoleLog | undefined;
  try {
    // QEMU may own this one: whoever it may be then, the lock above is out of its reach.
    const socketDir = join(folder.dir, 's');
    await mkdir(socketDir, { mode: 0o700 });
    const config: VmConfig = {
      ...spec,
      qmpSocket: join(socketDir, 'qmp'),
      consoleSocket: join(socketDir, 'console'),
      consolePipe: join(socketDir, 'log'),
      channelSocket: join(socketDir, 'channel'),
      compilerSocket: join(socketDir, 'compiler'),
      forwardSocket: spec.forward ? join(socketDir, 'forward') : null,
    };
    const consoleLog = join(dir, 'console.log');
    console = await ConsoleLog.open(config.consolePipe, consoleLog);
    const contents = await contentsOf(config, { backings: spec.backings, socketDir });
    const sandbox = await vmSandbox(contents);
    await giveTo(sandbox.owner, [...contents.writable, config.consolePipe]);
    return { config, backings: spec.backings, folder, socketDir, consoleLog, console, sandbox };
  } catch (error) {
    console?.[Symbol.dispose]();
    await folder[Symbol.asyncDispose]();
    throw error;
  }
}

async function closeParts({ console, folder }: Parts): Promise<void> {
  console[Symbol.dispose]();
  await folder[Symbol.asyncDispose]();
}

async function commandOf({ config, sandbox }: Parts): Promise<string[]> {
  return [...sandbox.command, await findQemu(`qemu-system-${config.arch}`), ...qemuArgs(config)];
}

async function sshPortOf(qmp: Qmp): Promise<number> {
  const usernet = await qmp.monitor('info usernet');
  const port = /TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)/.exec(usernet)?.[1];
  if (port) return Number(port);
  throw new Dkms2binError('host', "QEMU did not report the port that leads to the guest's sshd");
}

interface Qemu {
  child: ChildProcess;
  /** How it ended, in words. */
  exited: Promise<string>;
  /** Rejects with what QEMU wrote when it ends: for the time until the VM runs. */
  failed: Promise<never>;
}

/** Starts QEMU; what it complains of goes to the file `log`. It ends with this process, whose main thread is its parent. */
function startQemu([file = '', ...args]: readonly string[], log: string, state: string | undefined): Qemu {
  const given = state === undefined ? [] : [openSync(state, 'r')];
  const child = spawn(file, args, {
    stdio: ['ignore', 'ignore', 'pipe', ...given],
    env: childEnvironment(),
    detached: true,
  });
  for (const fd of given) closeSync(fd);
  const said = child.stderr ? keepQemuLog(child.stderr, log) : undefined;
  const exited = new Promise<string>((resolve) => {
    child.once('error', () => resolve('could not be started'));
    child.once('exit', (code, sig) => resolve(`exited (${code === null ? sig : `code ${code}`})`));
  });
  const failed = exited.then(async (how) => {
    await Promise.race([said, sleep(1000, undefined, { ref: false })]);
    const text = await readFile(log, 'utf8').catch(() => '');
    throw new Dkms2binError('host', `QEMU ${how} before the VM ran:\n${plain(text).trim().slice(-1500)}`);
  });
  failed.catch(() => undefined);
  return { child, exited, failed };
}

async function setEgress(qmp: Qmp, up: boolean): Promise<void> {
  await qmp.command('set_link', { name: 'egressnic', up });
}

const Migration = z.object({ status: z.string().optional(), 'error-desc': z.string().optional() });

/** Waits for the end of a migration in either direction. */
async function migrated(qmp: Qmp): Promise<void> {
  for (;;) {
    const { status, 'error-desc': why } = Migration.parse(await qmp.command('query-migrate'));
    if (status === 'completed') return;
    if (status === 'failed' || status === 'cancelled') {
      throw new Dkms2binError('host', `QEMU could not move the VM's state: ${why ?? status}`);
    }
    await sleep(10);
  }
}
