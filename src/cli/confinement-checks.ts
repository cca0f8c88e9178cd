import { stat } from 'node:fs/promises';
import { HOST_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { oneLine } from '../lib/text.js';
import type { Check } from './check.js';
import type { CliContext } from './context.js';

type Found = Omit<Check, 'name'>;

const fine = (detail: string): Found => ({ status: 'ok', detail, remedy: null });
const lacking = (detail: string, remedy: string): Found => ({ status: 'warn', detail, remedy });

const INSTALL = 'sudo apt-get install bubblewrap uidmap';
const ALLOW =
  'Allow user namespaces (sudo sysctl kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)';

/** Why it does not work, in a line, and what to do. */
function failure(error: unknown): { why: string; remedy: string } {
  const hint = error instanceof Dkms2binError ? error.hint : undefined;
  const why = oneLine(messageOf(error));
  return { why, remedy: hint ?? (/namespace|not permitted|denied/i.test(why) ? ALLOW : INSTALL) };
}

/** What packages' scripts run in on this host. */
async function packageScripts({ signal }: CliContext): Promise<Found> {
  const [{ nativeSandbox }, { scratch }] = await Promise.all([
    import('../lib/sandbox.js'),
    import('../lib/scratch.js'),
  ]);
  try {
    await using place = await scratch();
    const contents = { readable: [], writable: [], network: false };
    const { ids } = await nativeSandbox({ arch: HOST_ARCH, scratch: place.dir, ...contents }, signal);
    return fine(`user, mount, PID, IPC, UTS and network namespaces; ids ${ids}`);
  } catch (error) {
    if (signal.aborted) throw error;
    const { why, remedy } = failure(error);
    return lacking(`no sandbox: kernel layers are made in VMs, no image is bootstrapped (${why})`, remedy);
  }
}

/** What a process sees of this host that as root does not run without the sandbox. */
async function seen(inside: string, asRoot: string): Promise<Found> {
  const { isRoot, sandboxWorks } = await import('../lib/sandbox.js');
  try {
    await sandboxWorks();
    return fine(inside);
  } catch (error) {
    const { why, remedy } = failure(error);
    if (!isRoot()) return lacking(`all that this user may see (${why})`, remedy);
    return { status: 'missing', detail: `${asRoot} without a sandbox (${why})`, remedy };
  }
}

const qemuSees = (): Promise<Found> =>
  seen("its VM's files, no process, no network unless its VM has one", 'QEMU does not start as root');

/** Programs of this host that read disks and archives from elsewhere. */
const readers = (): Promise<Found> =>
  seen(
    'a disk or archive from elsewhere, programs of this host, no network, no capability',
    'as root they do not read',
  );

/** Where compilations run beside an emulated VM. */
async function compiler(): Promise<Found> {
  const { sandboxWorks } = await import('../lib/sandbox.js');
  try {
    await sandboxWorks();
    return fine(
      'beside emulated VMs on this machine: user, mount, PID, IPC and network namespaces, seccomp, limits, its own files alone',
    );
  } catch (error) {
    const { why, remedy } = failure(error);
    return lacking(`in the VM only, which takes an emulated one some three times as long (${why})`, remedy);
  }
}

async function qemuUser(): Promise<Found> {
  const { isRoot } = await import('../lib/sandbox.js');
  return fine(
    isRoot()
      ? 'an id of nobody for each VM, without capabilities'
      : `this user (${process.getuid?.()}), without capabilities`,
  );
}

/** Starts QEMU under the filter of system calls that every VM has, for a moment. */
async function seccomp(arch: Arch): Promise<Found> {
  const [{ run }, { CONFINEMENT }] = await Promise.all([import('../lib/exec.js'), import('../vm/args.js')]);
  try {
    const none = ['-machine', 'none', '-S', '-monitor', 'stdio'];
    await run(`qemu-system-${arch}`, [...CONFINEMENT, ...none], { input: 'quit\n', timeout: 10_000 });
    return fine('on: QEMU starts no program and gains no privilege');
  } catch (error) {
    return {
      status: 'missing',
      detail: `QEMU does not take -sandbox: ${oneLine(messageOf(error))}`,
      remedy: 'Use a QEMU that is built with seccomp',
    };
  }
}

async function snapshotMemory(arch: Arch): Promise<Found> {
  const { mapsReadOnly } = await import('../vm/qemu-binary.js');
  return fine(
    (await mapsReadOnly(arch))
      ? 'clones map it from a file that they can only read'
      : 'each clone gets a copy (clones share it from QEMU 8.2 on)',
  );
}

/** The same layers on a machine without bubblewrap. */
async function withoutBubblewrap(qemu: boolean): Promise<Check[]> {
  const { isRoot } = await import('../lib/sandbox.js');
  const remedy = INSTALL;
  const off = (name: string, detail: string): Check => ({ name, ...lacking(`${detail} (no bwrap)`, remedy) });
  const open = (name: string, what: string): Check =>
    isRoot()
      ? { name, status: 'missing', detail: `${what} as root without a sandbox (no bwrap)`, remedy }
      : off(name, 'all that this user may see');
  return [
    off('package scripts', 'no sandbox: kernel layers are made in VMs, no image is bootstrapped'),
    off('compiler', 'in the VM only, which takes an emulated one some three times as long'),
    open('readers see', 'they do not read'),
    ...(qemu ? [open('QEMU sees', 'QEMU does not start')] : []),
  ];
}

/** Who may open /dev/kvm; null where there is none. */
async function kvmDevice(): Promise<Found | null> {
  const { isRoot, kvmGroup } = await import('../lib/sandbox.js');
  const info = await stat('/dev/kvm').catch(() => null);
  if (!info) return null;
  const whose = `/dev/kvm belongs to group ${info.gid}, mode ${(info.mode & 0o777).toString(8)}`;
  if (!isRoot() || (info.mode & 0o006) === 0o006) return fine(whose);
  if ((await kvmGroup()).length > 0) return fine(`${whose}: QEMU keeps that group alone`);
  return lacking(
    `${whose}: QEMU, which does not run as root, cannot open it`,
    'sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm',
  );
}

/** The layers that hold a guest, and what packages run on this host, one row each. */
export async function confinementChecks(
  context: CliContext,
  arch: Arch,
  have: { qemu: boolean; bwrap: boolean },
): Promise<Check[]> {
  const kvm = await kvmDevice();
  return [
    ...(have.bwrap
      ? [
          { name: 'package scripts', ...(await packageScripts(context)) },
          { name: 'compiler', ...(await compiler()) },
          { name: 'readers see', ...(await readers()) },
          ...(have.qemu ? [{ name: 'QEMU sees', ...(await qemuSees()) }] : []),
        ]
      : await withoutBubblewrap(have.qemu)),
    ...(have.qemu
      ? [
          { name: 'QEMU runs as', ...(await qemuUser()) },
          { name: 'QEMU seccomp', ...(await seccomp(arch)) },
          { name: 'snapshot memory', ...(await snapshotMemory(arch)) },
        ]
      : []),
    ...(kvm ? [{ name: 'KVM device', ...kvm }] : []),
  ];
}
