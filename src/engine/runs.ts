import { createConnection } from 'node:net';
import { join } from 'node:path';
import { bootExisting, type DiskSpec } from '../environment/boot.js';
import { listRunDirs, RunDir, type RunRecord, type RunState } from '../cell/run-dir.js';
import { Dkms2binError } from '../model/errors.js';
import { sshArgs } from '../guest/ssh.js';
import type { Vm } from '../vm/vm.js';
import { joinConsole, joinProgram } from '../guest/login.js';

export interface RunInfo {
  id: string;
  cell: string;
  kernel: string;
  distro: string;
  created: string;
  bytes: number;
  state: 'running' | 'kept';
}

export async function listRuns(): Promise<RunInfo[]> {
  return (await listRunDirs()).map(({ record, state, bytes }) => ({
    id: record.id,
    cell: record.cell,
    kernel: record.kernel,
    distro: record.distro,
    created: record.created,
    bytes,
    state,
  }));
}

/** Removes a kept run; a running one is refused. */
export async function removeRun(id: string): Promise<void> {
  const found = await find(id);
  const run = found.state === 'kept' ? await RunDir.open(found.record.id) : null;
  if (!run) {
    throw new Dkms2binError('usage', `Run ${id} is in use`, {
      hint: 'Wait until it has ended, or interrupt it.',
    });
  }
  // A run that is not kept goes when it is closed.
  await run.save({ kept: false });
  await run.close();
}

/**
 * Opens a shell in a run's VM: attaches to it while it runs, else boots the kept disk for the time of the login.
 * Without `id` the newest run is meant.
 */
export async function login(
  id: string | undefined,
  options: { serial: boolean; signal: AbortSignal },
): Promise<void> {
  const found = await find(id);
  if (found.state === 'running') return loginToRun(found.record, found.dir, options);
  const run = await RunDir.open(found.record.id);
  if (!run?.record.vm) {
    throw new Dkms2binError('usage', `Run ${found.record.id} has no disk to boot`);
  }
  try {
    process.stderr.write(`Booting the disk of ${run.record.id} …\n`);
    const emit = (): void => undefined;
    const spec = run.record.vm as unknown as DiskSpec;
    requireRecord(spec, run.record);
    await using booted = await bootExisting(run.dir, spec, { signal: options.signal, emit });
    const live = { socketDir: booted.vm.socketDir, sshPort: booted.vm.sshPort };
    await run.save({ live });
    await whileAlive(booted.vm, options.signal, (signal) =>
      loginToRun(run.record, run.dir, { serial: options.serial, signal }),
    );
    await booted.guest.text('sync', 60_000).catch(() => undefined);
  } finally {
    await run.close();
  }
}

/** What the disk itself says that it builds on counts for nothing: the VM's QEMU could write to it. */
function requireRecord({ backings }: Partial<DiskSpec>, { id }: RunRecord): void {
  if (backings !== undefined) return;
  throw new Dkms2binError('usage', `Run ${id} does not say what its disk builds on`, {
    hint: `An older dkms2bin kept it. Remove it (dkms2bin rm ${id}), and build again with --debug.`,
  });
}

/** A session in `vm`, ended by `signal` and by the VM's death; not before it has let go of the terminal is that told. */
async function whileAlive(
  vm: Pick<Vm, 'alive'>,
  signal: AbortSignal,
  session: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const dead = new AbortController();
  const held = session(AbortSignal.any([signal, dead.signal]));
  try {
    await vm.alive(held);
  } catch (error) {
    dead.abort(error);
    await held.catch(() => undefined);
    throw error;
  }
}

/** A shell in the running VM of `record`, or its console. Resolves when the user leaves it, rejects when `signal` aborts. */
export async function loginToRun(
  record: RunRecord,
  dir: string,
  { serial = false, signal }: { serial?: boolean; signal: AbortSignal },
): Promise<void> {
  if (!record.live) throw new Dkms2binError('usage', `Run ${record.id} has no running VM yet`);
  if (serial) {
    await joinConsole(createConnection(join(record.live.socketDir, 'console')), signal);
    return;
  }
  if (record.live.sshPort === null) {
    throw new Dkms2binError('usage', `The VM of run ${record.id} has no network, so there is no way in`, {
      hint: 'Build with --debug or --keep-failed to log in.',
    });
  }
  const args = sshArgs(dir, record.live.sshPort);
  if (process.stdin.isTTY)
    process.stderr.write('exit or Ctrl-D ends the shell; if it does not answer: Enter, then ~.\n');
  await joinProgram('ssh', ['-tt', ...args, 'sudo -i'], signal);
}

async function find(id: string | undefined): Promise<RunState> {
  const runs = await listRunDirs();
  if (id === undefined) {
    const newest = runs.at(-1);
    if (newest) return newest;
    throw new Dkms2binError('usage', 'No VM is kept', {
      hint: 'Build with --debug to keep the VM of a run.',
    });
  }
  const [match, ...others] = runs.filter(({ record }) => record.id.startsWith(id));
  if (match && others.length === 0) return match;
  throw new Dkms2binError('usage', match ? `${id} matches several runs` : `No run ${id}`, {
    hint: `Runs: ${runs.map(({ record }) => record.id).join(', ') || 'none'}`,
  });
}
