import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Emit } from '../core/events.js';
import { Dkms2binError } from '../core/errors.js';
import { run } from '../core/exec.js';
import { Guest, GUEST_USER, makeKeys, waitForCloudInit } from '../guest/guest.js';
import type { DirectBoot } from '../vm/args.js';
import { makeSeed } from '../vm/seed.js';
import { findOvmf, Vm } from '../vm/vm.js';

/** Resources of every VM of one invocation. */
export interface Machine {
  accel: 'kvm' | 'tcg';
  cpu: string;
  cpus: number;
  memoryMiB: number;
  mirror?: string;
  proxy?: string;
  emit: Emit;
  signal: AbortSignal;
}

/** How a disk boots; JSON, so that a kept run can be booted again. */
export interface BootSpec {
  boot: DirectBoot | { kind: 'loader'; firmware: 'bios' | 'uefi' };
  accel: 'kvm' | 'tcg';
  cpu: string;
  cpus: number;
  memoryMiB: number;
  egress: boolean;
}

/** A booted VM with a root shell in it. Disposing it ends both. */
export interface Booted extends AsyncDisposable {
  vm: Vm;
  guest: Guest;
}

/** How this invocation's VMs boot. */
export function specOf(machine: Machine, boot: BootSpec['boot'], egress: boolean): BootSpec {
  const { accel, cpu, cpus, memoryMiB } = machine;
  return { boot, accel, cpu, cpus, memoryMiB, egress };
}

/** An emulated CPU needs about 20 times as long for everything. */
export function deadline(accel: 'kvm' | 'tcg', kvmSeconds: number): number {
  return (accel === 'kvm' ? kvmSeconds : kvmSeconds * 10) * 1000;
}

const NEEDED_BYTES = 4 * 1024 ** 3;

/** Makes `<dir>/disk.qcow2` on top of a read-only image or layer, keys and seed, and boots it. */
export async function bootNew(
  backing: string,
  spec: BootSpec,
  dir: string,
  machine: Machine,
): Promise<Booted> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const space = await statfs(dir);
  if (space.bavail * space.bsize < NEEDED_BYTES) {
    throw new Dkms2binError('host', `Less than 4 GiB are free in ${dir}`, {
      hint: 'Free space there, or set XDG_STATE_HOME or XDG_CACHE_HOME to a larger disk.',
    });
  }
  const cancel = { cancelSignal: machine.signal };
  await run(
    'qemu-img',
    ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', backing, join(dir, 'disk.qcow2')],
    cancel,
  );
  const keys = await makeKeys(dir, machine.signal);
  await makeSeed(
    {
      instanceId: `dkms2bin-${randomBytes(16).toString('hex')}`,
      user: GUEST_USER,
      userPublicKey: keys.userPublicKey,
      hostPrivateKey: keys.hostPrivateKey,
      hostPublicKey: keys.hostPublicKey,
      egress: spec.egress,
      ...(machine.mirror ? { mirror: machine.mirror } : {}),
      ...(machine.proxy ? { proxy: machine.proxy } : {}),
    },
    dir,
    machine.signal,
  );
  if (spec.boot.kind === 'loader' && spec.boot.firmware === 'uefi') {
    await copyFile((await findOvmf()).vars, join(dir, 'efivars.fd'));
  }
  return bootExisting(dir, spec, machine);
}

/** Boots the disk that `dir` holds with the keys and the seed that it had. */
export async function bootExisting(
  dir: string,
  spec: BootSpec,
  context: { signal: AbortSignal; emit: Emit },
): Promise<Booted> {
  const boot =
    spec.boot.kind === 'direct'
      ? spec.boot
      : spec.boot.firmware === 'bios'
        ? { kind: 'loader' as const, firmware: 'bios' as const }
        : {
            kind: 'loader' as const,
            firmware: 'uefi' as const,
            code: (await findOvmf()).code,
            vars: join(dir, 'efivars.fd'),
          };
  const vm = await Vm.start(
    { ...spec, boot, disk: join(dir, 'disk.qcow2'), seed: join(dir, 'seed.iso') },
    dir,
    context.signal,
  );
  const guest = new Guest({
    port: vm.sshPort,
    keyDir: dir,
    controlPath: join(vm.socketDir, 'ssh'),
    alive: (work) => vm.alive(work),
    signal: context.signal,
  });
  const dispose = async (): Promise<void> => {
    await guest.close();
    await vm[Symbol.asyncDispose]();
  };
  try {
    await guest.waitForSsh(deadline(spec.accel, 60)).catch(async (error: unknown) => {
      if (!(error instanceof Dkms2binError) || error.fault !== 'transient') throw error;
      throw new Dkms2binError(error.fault, `${error.message}\nThe console ends:\n${await vm.consoleTail()}`, {
        cause: error,
        ...(error.hint ? { hint: error.hint } : {}),
      });
    });
    for (const message of await waitForCloudInit(guest, deadline(spec.accel, 60))) {
      context.emit({ type: 'note', level: 'warn', message });
    }
    return { vm, guest, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}
