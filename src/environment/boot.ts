import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { CONSOLE, type Arch } from '../model/cell.js';
import type { Emit } from '../model/events.js';
import { Dkms2binError } from '../model/errors.js';
import { run } from '../lib/exec.js';
import { backingChain, qcow2Info, requireBackings } from '../lib/qemu-img.js';
import { Channel } from '../guest/channel.js';
import { Guest, waitForCloudInit } from '../guest/guest.js';
import { GUEST_USER, makeKeys, type Keys } from '../guest/keys.js';
import { startSshd } from '../guest/programs/open-ssh.js';
import { SshTransport } from '../guest/ssh.js';
import { AS_LONG_AS_IT_TAKES_MS } from '../guest/transport.js';
import type { SharedCache } from '../cache/entries.js';
import type { DirectBoot, Network } from '../vm/args.js';
import { cpuOfLevel } from '../vm/accel.js';
import { findFirmware } from '../vm/firmware.js';
import { inVain } from '../vm/in-vain.js';
import { makeSeed } from '../vm/seed.js';
import { Vm, type VmSpec } from '../vm/vm.js';

/** Resources of every VM of one invocation. */
export interface Machine {
  arch: Arch;
  accel: 'kvm' | 'tcg';
  cpu: string;
  cpus: number;
  memoryMiB: number;
  /** Plain compilations are the host's. */
  compileOnHost?: boolean;
  mirror?: string;
  proxy?: string;
  /** Images and layers of other machines. */
  shared?: SharedCache;
  emit: Emit;
  signal: AbortSignal;
}

/** How a layer's disk boots. */
export type Boots = DirectBoot & {
  /** The x86-64 level of its kernel and programs; 1 when it is not said. */
  cpuLevel?: number | undefined;
};

/** How a disk boots; JSON, so that a kept run can be booted again. */
export interface BootSpec {
  boot: (DirectBoot | { kind: 'loader'; firmware: 'bios' | 'uefi' }) & Pick<Boots, 'cpuLevel'>;
  /** How to talk to the guest: through the agent that every kernel layer has, or through sshd as cloud images do. */
  control: 'channel' | 'ssh';
  arch: Arch;
  accel: 'kvm' | 'tcg';
  cpu: string;
  cpus: number;
  memoryMiB: number;
  /** Whether the card that leads out is configured and has a link. */
  egress: boolean;
  network: Network;
  /** Whether one address of the guest's leads to `Vm.forwardSocket`. */
  forward: boolean;
}

/** How a disk that is there boots, and what it builds on, nearest first, by who made it. */
export type DiskSpec = BootSpec & Pick<VmSpec, 'backings'>;

/** A booted VM with a root shell in it. Disposing it ends both. */
export interface Booted extends AsyncDisposable {
  vm: Vm;
  guest: Guest;
}

/** How one of this invocation's VMs boots. */
export function specOf(
  { arch, accel, cpu, cpus, memoryMiB }: Machine,
  {
    boot,
    control,
    egress,
    network,
    forward = false,
  }: Pick<BootSpec, 'boot' | 'control' | 'egress' | 'network'> & { forward?: boolean },
): BootSpec {
  const model = cpuOfLevel({ accel, cpu }, boot.cpuLevel ?? 1);
  return { boot, control, arch, accel, cpu: model, cpus, memoryMiB, egress, network, forward };
}

/** An emulated CPU needs about 20 times as long for everything. */
export function deadline(accel: 'kvm' | 'tcg', kvmSeconds: number): number {
  return (accel === 'kvm' ? kvmSeconds : kvmSeconds * 10) * 1000;
}

/** What to do when a guest's package manager stands still. */
export const MIRROR_HINT = 'The mirror or the proxy may not answer: try another with --mirror or --proxy.';

const NEEDED_BYTES = 4 * 1024 ** 3;

type Memory = VmSpec['memory'];

/** Everything of a VM but its sockets: its files lie in `dir`. */
export async function configOf(dir: string, spec: DiskSpec, memory: Memory): Promise<VmSpec> {
  const { control: _, ...rest } = spec;
  return {
    ...rest,
    memory,
    incoming: false,
    disk: join(dir, 'disk.qcow2'),
    seed: join(dir, 'seed.iso'),
    boot: await bootConfig(dir, spec),
  };
}

async function bootConfig(dir: string, { arch, boot }: BootSpec): Promise<VmSpec['boot']> {
  if (boot.kind === 'direct') return boot;
  if (boot.firmware === 'bios') return { kind: 'loader', firmware: 'bios' };
  const { code } = await findFirmware(arch);
  return { kind: 'loader', firmware: 'uefi', code, vars: join(dir, 'efivars.fd') };
}

/** What a new VM boots. */
interface NewBoot {
  /** A read-only image or layer; `<dir>/disk.qcow2` is made on top of it. */
  backing: string;
  /** What that builds on by who made it, where a VM has written to it; else its own word counts. */
  below?: readonly string[];
  spec: BootSpec;
  memory?: Memory;
  /** The disk is at least as large; the guest's cloud-init then enlarges its root. */
  atLeastGiB?: number;
}

/** Makes disk, keys and seed in `dir`, and boots. */
export async function bootNew(
  { backing, below, spec, memory, atLeastGiB = 0 }: NewBoot,
  dir: string,
  machine: Machine,
): Promise<Booted> {
  const backings = await makeOverlay({ backing, below }, dir, machine.signal);
  if (atLeastGiB > 0) await enlarge(join(dir, 'disk.qcow2'), atLeastGiB, machine.signal);
  await makeAccess(dir, spec.egress, machine.signal);
  if (spec.boot.kind === 'loader' && spec.boot.firmware === 'uefi') {
    await copyFile((await findFirmware(spec.arch)).vars, join(dir, 'efivars.fd'));
  }
  return bootExisting(dir, { ...spec, backings }, machine, memory);
}

/** `<dir>/disk.qcow2`, a new overlay on `backing`; resolves to what it builds on. */
async function makeOverlay(
  { backing, below }: Pick<NewBoot, 'backing'> & { below?: readonly string[] | undefined },
  dir: string,
  signal: AbortSignal,
): Promise<string[]> {
  const backings = [backing, ...(below ?? (await backingChain(backing)))];
  await requireBackings(backing, backings.slice(1));
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const space = await statfs(dir);
  if (space.bavail * space.bsize < NEEDED_BYTES) {
    throw new Dkms2binError('host', `Less than 4 GiB is free in ${dir}`, {
      hint: 'Free space there, or set XDG_STATE_HOME or XDG_CACHE_HOME to a larger disk.',
    });
  }
  const args = ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', backing, join(dir, 'disk.qcow2')];
  await run('qemu-img', args, { cancelSignal: signal });
  return backings;
}

async function enlarge(disk: string, gib: number, signal: AbortSignal): Promise<void> {
  const { virtualSize } = await qcow2Info(disk, signal);
  if (virtualSize >= gib * 1024 ** 3) return;
  await run('qemu-img', ['resize', '-q', '-f', 'qcow2', disk, `${gib}G`], { cancelSignal: signal });
}

/** Keys for a login and the seed that puts them into a guest at its next boot, in `dir`. */
async function makeAccess(dir: string, egress: boolean, signal: AbortSignal): Promise<Keys> {
  const keys = await makeKeys(dir, signal);
  await makeSeed(
    {
      instanceId: `dkms2bin-${randomBytes(16).toString('hex')}`,
      user: GUEST_USER,
      userPublicKey: keys.userPublicKey,
      hostPrivateKey: keys.hostPrivateKey,
      hostPublicKey: keys.hostPublicKey,
      egress,
    },
    dir,
    signal,
  );
  return keys;
}

/** Removes what a boot alone needed from `dir`: keys, the seed's texts, the firmware's variables, QEMU's log. */
export async function removeAccess(dir: string): Promise<void> {
  const keys = ['id', 'id.pub', 'host', 'host.pub', 'known_hosts'];
  const seed = ['user-data', 'meta-data', 'network-config'];
  for (const name of [...keys, ...seed, 'efivars.fd', 'qemu.log']) await rm(join(dir, name), { force: true });
}

/** Boots the disk that `dir` holds with the keys and the seed that it had. Fault `host` when the disk builds on something else now. */
export async function bootExisting(
  dir: string,
  spec: DiskSpec,
  context: { signal: AbortSignal; emit: Emit },
  memory: Memory = { kind: 'own' },
): Promise<Booted> {
  const vm = await Vm.start(await configOf(dir, spec, memory), dir, context.signal);
  return withGuest(vm, async () => {
    const wait = deadline(spec.accel, 60);
    // Each line that the guest writes while it boots is a sign of life, and shown.
    using watch = vm.watchConsole((line) => context.emit({ type: 'output', line }));
    using silent = watch.silent(wait, () => silence(wait));
    const alive = <T>(work: Promise<T>): Promise<T> => vm.alive(Promise.race([work, silent]));
    const { signal } = context;
    const how = { dir, control: spec.control, deadlineMs: AS_LONG_AS_IT_TAKES_MS, alive, signal };
    const guest = await connect(vm, how);
    const disabled = spec.boot.kind === 'direct' && spec.boot.cmdline.includes('cloud-init=disabled');
    for (const message of disabled ? [] : await waitForCloudInit(guest, wait)) {
      context.emit({ type: 'note', level: 'warn', message });
    }
    return guest;
  });
}

/**
 * A VM that goes on where `from` was frozen, with an overlay of its own in `dir`, its own identity and the right time. Its memory
 * comes from a file that QEMU can only read, or, of an older QEMU, with the state.
 */
export async function bootClone(
  from: { spec: BootSpec; disk: string; memory: string | null; state: string; seed: string },
  network: Network,
  dir: string,
  machine: Machine,
): Promise<Booted> {
  const backings = await makeOverlay({ backing: from.disk }, dir, machine.signal);
  const memory: Memory =
    from.memory === null ? { kind: 'own' } : { kind: 'file', path: from.memory, shared: false };
  const config = await configOf(dir, { ...from.spec, backings }, memory);
  const egress = network === 'egress';
  const state = memory.kind === 'own' ? { state: from.state } : {};
  const spec = { ...config, egress, network, seed: from.seed, incoming: true, ...state };
  const vm = await Vm.start(spec, dir, machine.signal);
  return withGuest(vm, async () => {
    await vm.resume(from.state, egress);
    // It has booted: its console stays silent.
    using vain = inVain(() => vm.cpuMs(), deadline(machine.accel, 6));
    const alive = <T>(work: Promise<T>): Promise<T> => vm.alive(Promise.race([work, vain]));
    const deadlineMs = AS_LONG_AS_IT_TAKES_MS;
    return await connect(vm, { dir, control: 'channel', deadlineMs, alive, signal: machine.signal });
  });
}

/** Pairs a VM with its guest; what fails before the guest answers ends the VM. */
async function withGuest(vm: Vm, reach: () => Promise<Guest>): Promise<Booted> {
  try {
    const guest = await reach();
    const dispose = async (): Promise<void> => {
      await guest.close();
      await vm[Symbol.asyncDispose]();
    };
    return { vm, guest, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await vm[Symbol.asyncDispose]();
    throw error;
  }
}

/** Waits until the guest answers; an error carries the console's tail. */
async function connect(
  vm: Vm,
  how: {
    dir: string;
    control: BootSpec['control'];
    deadlineMs: number;
    /** Races the wait against what makes it vain. */
    alive: <T>(work: Promise<T>) => Promise<T>;
    signal: AbortSignal;
  },
): Promise<Guest> {
  const { dir, control, deadlineMs, alive: waiting, signal } = how;
  const alive = <T>(work: Promise<T>): Promise<T> => vm.alive(work);
  try {
    if (control === 'channel') {
      const transport = await Channel.connect(vm.channelSocket, { deadlineMs, alive: waiting, signal });
      const told = {
        time: Date.now() / 1000,
        entropy: randomBytes(64).toString('base64'),
        machineId: randomBytes(16).toString('hex'),
        nonce: randomBytes(16).toString('hex'),
      };
      // On a busy host an agent that has answered may still be the last to get the processor.
      await waiting(transport.wake(told, deadlineMs));
      return new Guest({ transport, alive });
    }
    if (vm.sshPort === null) throw new Dkms2binError('host', 'A VM without a network has no way in for ssh');
    const transport = new SshTransport({
      port: vm.sshPort,
      keyDir: dir,
      controlPath: join(vm.socketDir, 'ssh'),
      signal,
    });
    await transport.waitForSsh(deadlineMs, waiting);
    return new Guest({ transport, alive });
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault !== 'transient') throw error;
    throw new Dkms2binError(error.fault, `${error.message}\nThe console ends:\n${vm.consoleTail()}`, {
      cause: error,
      ...(error.hint ? { hint: error.hint } : {}),
    });
  }
}

const silence = (ms: number): Dkms2binError =>
  new Dkms2binError('transient', `The VM has said nothing for ${ms / 1000} s while it booted`, {
    hint: 'If this machine is very busy, try again when it is quieter, or with --jobs 1.',
  });

/** Lets a VM that was reached through the channel be logged in to over ssh: now, and after its disk boots again. */
export async function openSsh(guest: Guest, dir: string, machine: Machine): Promise<void> {
  const keys = await makeAccess(dir, true, machine.signal);
  await startSshd(guest, keys, deadline(machine.accel, 30));
}

/** What a kernel is given at each boot of one of our machines. */
export function kernelArguments(rootUuid: string, arch: Arch): string {
  // panic=-1 with -no-reboot turns a panic into QEMU's exit, which every wait notices. systemd's own limits (90 s) are too short for
  // an emulated guest on a busy host: our waits, which see progress, end what hangs. A machine that lives for minutes needs no timers.
  const patience = 'systemd.default_timeout_start_sec=600 systemd.default_device_timeout_sec=600';
  const fixed = `panic=-1 loglevel=5 mitigations=off systemd.mask=timers.target ${patience}`;
  return `root=UUID=${rootUuid} ro console=${CONSOLE[arch]} ${fixed}`;
}
