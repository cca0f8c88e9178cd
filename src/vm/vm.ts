import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, createReadStream, createWriteStream, openSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Dkms2binError, GuestDeath, messageOf } from '../model/errors.js';
import { missingTool } from '../lib/exec.js';
import { socketParent } from '../lib/paths.js';
import { oneLine, plain } from '../lib/text.js';
import { childEnvironment } from '../lib/variables.js';
import { qemuArgs, type VmConfig } from './args.js';
import { Qmp } from './qmp.js';

export type VmSpec = Omit<
  VmConfig,
  'qmpSocket' | 'consoleSocket' | 'consoleLog' | 'channelSocket' | 'forwardSocket'
> & {
  /** Whether the guest has the address NET.management.forward. */
  forward: boolean;
  /** Whether the guest reaches the network until `cutEgress`. */
  egress: boolean;
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
  /** Of 127.0.0.1: leads to the guest's sshd. */
  readonly sshPort: number;
  /** Set once QEMU's end is wanted: then it is no death. */
  #ending = false;
  /** Set once the guest itself has ended or reset the machine. */
  #byGuest = false;

  private constructor(
    files: { socketDir: string; consoleLog: string },
    private readonly qemu: Qemu,
    private readonly qmp: Qmp,
    sshPort: number,
  ) {
    this.socketDir = files.socketDir;
    this.consoleLog = files.consoleLog;
    this.sshPort = sshPort;
    this.died = new Promise<never>((_, reject) => {
      void qemu.exited.then(async (how) => {
        if (!this.#ending) reject(await this.#deathError(`QEMU ${how}`));
      });
      qmp.on('event', (name: string, data: Record<string, unknown>) => {
        if (name === 'SHUTDOWN' && data.guest === true) this.#byGuest = true;
        if (name === 'GUEST_PANICKED') {
          this.#byGuest = true;
          void this.#deathError('The guest kernel panicked').then(reject);
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
    const socketDir = await mkdtemp(join(socketParent(), 'dk2b-'));
    const config: VmConfig = {
      ...spec,
      qmpSocket: join(socketDir, 'qmp'),
      consoleSocket: join(socketDir, 'console'),
      channelSocket: join(socketDir, 'channel'),
      forwardSocket: spec.forward ? join(socketDir, 'forward') : null,
      consoleLog: join(dir, 'console.log'),
    };
    const qemu = startQemu(config, join(dir, 'qemu.log'));
    try {
      const qmp = await Promise.race([Qmp.connect(config.qmpSocket, 20_000, signal), qemu.failed]);
      const usernet = await qmp.monitor('info usernet');
      const port = /TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)/.exec(usernet)?.[1];
      if (!port)
        throw new Dkms2binError('host', "QEMU did not report the port that leads to the guest's sshd");
      if (!spec.egress) await setEgress(qmp, false);
      return new Vm({ socketDir, consoleLog: config.consoleLog }, qemu, qmp, Number(port));
    } catch (error) {
      qemu.child.kill('SIGKILL');
      await qemu.exited;
      await rm(socketDir, { recursive: true, force: true });
      throw error;
    }
  }

  /** QEMU's. */
  get pid(): number | undefined {
    return this.qemu.child.pid;
  }

  get consoleSocket(): string {
    return join(this.socketDir, 'console');
  }

  get channelSocket(): string {
    return join(this.socketDir, 'channel');
  }

  get forwardSocket(): string {
    return join(this.socketDir, 'forward');
  }

  /**
   * Stops the guest and writes its device state to `file`. Its memory is the spec's shared file, its disk is complete
   * once QEMU has ended; the guest does not go on.
   */
  async save(file: string): Promise<void> {
    await this.qmp.command('stop');
    await shareMemory(this.qmp);
    const socket = join(this.socketDir, 'save');
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(socket, resolve);
    });
    try {
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
    await shareMemory(this.qmp);
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
    // Loading set the link as it was saved.
    await setEgress(this.qmp, egress);
    await this.qmp.command('cont');
  }

  /** Resolves or rejects with `work`, unless the VM dies first. */
  alive<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.died]);
  }

  /** Takes the network away from the guest: from here on only the management NIC has a link. */
  async cutEgress(): Promise<void> {
    await setEgress(this.qmp, false);
  }

  /** The guest has been told to power off: waits for QEMU's end. */
  async waitForPowerOff(deadlineMs: number): Promise<void> {
    this.#ending = true;
    const ended = await Promise.race([
      this.qemu.exited.then(() => true),
      sleep(deadlineMs, false, { ref: false }),
    ]);
    if (!ended) {
      throw new Dkms2binError('transient', `The guest did not power off within ${deadlineMs / 1000} s`);
    }
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
    await rm(this.socketDir, { recursive: true, force: true });
  }

  /** Last lines of the console, safe to print. */
  async consoleTail(lines = 12): Promise<string> {
    const text = await readFile(this.consoleLog, 'utf8').catch(() => '');
    return plain(text.replaceAll('\r', ''))
      .split('\n')
      .filter((l) => l.trim() !== '')
      .slice(-lines)
      .join('\n');
  }

  /** A panic that the console shows, when the guest has no pvpanic driver. */
  async panicLine(): Promise<string | undefined> {
    return PANIC.exec(await this.consoleTail(200))?.[0];
  }

  /** What the console says of the kernel's end: how it began, and the panic's own words; '' for nothing. */
  async lastWords(): Promise<string> {
    const lines = (await this.consoleTail(400))
      .split('\n')
      .map((line) => oneLine(line).replace(/^\[ *[\d.]+\] ?/, ''));
    const found = [lines.find((line) => DYING.test(line)), lines.find((line) => PANIC.test(line))];
    return [...new Set(found.filter((line) => line !== undefined))].join('; ').slice(0, 500);
  }

  async #deathError(what: string): Promise<Dkms2binError> {
    const panic = await this.panicLine();
    const message = `${panic ? `The guest kernel panicked (${panic})` : what}; its console ends:\n${await this.consoleTail()}`;
    const options = { hint: `The whole console is in ${this.consoleLog}` };
    return this.#byGuest || panic
      ? new GuestDeath('died', message, await this.lastWords(), options)
      : new Dkms2binError('transient', message, options);
  }
}

interface Qemu {
  child: ChildProcess;
  /** How it ended, in words. */
  exited: Promise<string>;
  /** Rejects with what QEMU wrote when it ends: for the time until the VM runs. */
  failed: Promise<never>;
}

/** Starts QEMU; what it complains of goes to the file `log`. */
function startQemu(config: VmConfig, log: string): Qemu {
  const program = `qemu-system-${config.arch}`;
  const stderr = openSync(log, 'a');
  // pdeathsig ends QEMU even when this process is killed with SIGKILL; the parent is node's main thread.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', program, ...qemuArgs(config)], {
    stdio: ['ignore', 'ignore', stderr],
    env: childEnvironment(),
    detached: true,
  });
  closeSync(stderr);
  const exited = new Promise<string>((resolve) => {
    child.once('error', () => resolve('could not be started'));
    child.once('exit', (code, sig) => resolve(`exited (${code === null ? sig : `code ${code}`})`));
  });
  const failed = exited.then(async (how) => {
    const text = await readFile(log, 'utf8').catch(() => '');
    if (/setpriv: failed to execute/.test(text)) throw missingTool(program);
    throw new Dkms2binError('host', `QEMU ${how} before the VM ran:\n${plain(text).trim().slice(-1500)}`);
  });
  failed.catch(() => undefined);
  return { child, exited, failed };
}

async function setEgress(qmp: Qmp, up: boolean): Promise<void> {
  await qmp.command('set_link', { name: 'egressnic', up });
}

/** Leaves guest memory out of the device state: it lies in a file already. */
async function shareMemory(qmp: Qmp): Promise<void> {
  await qmp.command('migrate-set-capabilities', {
    capabilities: [{ capability: 'x-ignore-shared', state: true }],
  });
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
