import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { Dkms2binError } from '../model/errors.js';
import { missingTool } from '../lib/exec.js';
import { idOfVm, isRoot, kvmGroup, withoutPrivilege } from '../lib/sandbox.js';
import { plain } from '../lib/text.js';
import { PROBE_EXIT, probeRom } from './probe-guest.js';
import { childEnvironment } from '../lib/variables.js';

export type AccelName = 'kvm' | 'tcg';

export type ProbeRun =
  | { outcome: 'right'; seconds: number }
  | { outcome: 'wrong' }
  | { outcome: 'slow'; afterSeconds: number; started: boolean }
  /** QEMU ended by itself without a result; `started` says whether the guest had reached long mode. */
  | { outcome: 'failed'; started: boolean; error: string };

/** Runs the probe guest once. Throws fault `interrupted` when `signal` aborts, `host` without setpriv. */
export async function runProbeGuest(options: {
  signal: AbortSignal;
  qemu: string;
  accel: AccelName;
  cpu: string;
  deadlineMs: number;
  rom?: Buffer;
}): Promise<ProbeRun> {
  // QEMU's working directory too, so that the core file of an abort goes with it.
  const folder = await mkdtemp(join(tmpdir(), 'dkms2bin-probe-'));
  try {
    await writeFile(join(folder, 'probe.bin'), options.rom ?? probeRom());
    const owner = isRoot() ? await idOfVm() : null;
    if (owner !== null) await chown(folder, owner, owner);
    const [command = '', ...args] = withoutPrivilege(owner, await kvmGroup());
    const begun = performance.now();
    const child = execa(
      command,
      [
        ...[...args, options.qemu],
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-m', '16', '-no-reboot'],
        ...['-machine', `q35,accel=${options.accel}`, '-cpu', options.cpu, '-bios', 'probe.bin'],
        ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=0x04', '-debugcon', 'stdio'],
      ],
      {
        cwd: folder,
        env: childEnvironment({ LC_ALL: 'C' }),
        extendEnv: false,
        stdin: 'ignore',
        reject: false,
        cancelSignal: options.signal,
        timeout: options.deadlineMs,
        killSignal: 'SIGKILL',
      },
    );
    // The guest's own time runs from 'S' to 'E'. Should both come at once (this process was busy), the whole counts.
    let start: number | null = null;
    let end: number | null = null;
    child.stdout.on('data', (chunk: Buffer) => {
      const text = chunk.toString('latin1');
      if (text.includes('S')) start = text.includes('E') ? begun : performance.now();
      if (text.includes('E')) end = performance.now();
    });
    const result = await child;
    const started = start !== null;
    if (options.signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
    if (result.code === 'ENOENT') throw missingTool('setpriv');
    if (result.exitCode === PROBE_EXIT.right && start !== null && end !== null) {
      return { outcome: 'right', seconds: Math.round(end - start) / 1000 };
    }
    if (result.exitCode === PROBE_EXIT.wrong) return { outcome: 'wrong' };
    if (result.timedOut) return { outcome: 'slow', started, afterSeconds: options.deadlineMs / 1000 };
    const lines = plain(result.stderr)
      .split('\n')
      .filter((line) => line.trim() !== '' && !line.includes('warning:'));
    const how = `QEMU ended with ${String(result.exitCode ?? result.signal)}`;
    return { outcome: 'failed', started, error: lines[0] === undefined ? how : `${how}: ${lines[0].trim()}` };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A run that gave no result, in words. */
export function describeFailure(run: Exclude<ProbeRun, { outcome: 'right' }>): string {
  switch (run.outcome) {
    case 'wrong':
      return 'the probe guest computed a wrong result';
    case 'slow':
      return `the probe guest ${run.started ? 'was not done' : 'had not begun'} after ${run.afterSeconds.toFixed(1)} s and was stopped`;
    case 'failed':
      return run.error;
  }
}
