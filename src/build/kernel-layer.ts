import { rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import type { KernelTarget } from '../core/cell.js';
import { Dkms2binError } from '../core/errors.js';
import { PACKAGE_ROOT } from '../core/paths.js';
import { run } from '../core/exec.js';
import { cached, hashOf, type Entry } from '../image/cache.js';
import { bootNew, deadline, specOf, type BootSpec, type Machine } from './machine.js';

/** A base image ready to put layers on. */
export interface BaseImage {
  /** Read-only qcow2. */
  disk: string;
  hash: string;
  firmware: 'bios' | 'uefi';
  /** `bootstrap`, `official` or the user's own path: for messages. */
  source: string;
}

export interface KernelLayer {
  disk: string;
  boot: BootSpec['boot'];
  /** Package versions that the guest reported: image, headers, gcc, dkms. */
  versions: Record<string, string>;
  entry: Entry;
}

/** Guest exit codes of install-kernel.sh, see its head. */
function installFault(code: number): 'not-found' | 'transient' | 'host' {
  if (code === 3) return 'not-found';
  return code === 8 ? 'host' : 'transient';
}

/**
 * The layer with the exact kernel and its headers on top of `base`; made in a VM when the cache lacks it. The caller
 * releases `entry.use` when no VM uses the layer any more.
 */
export async function kernelLayer(
  base: BaseImage,
  target: KernelTarget,
  kernelPackages: readonly string[],
  machine: Machine,
): Promise<KernelLayer> {
  const script = await readFile(join(PACKAGE_ROOT, 'cloud-init/guest/install-kernel.sh'), 'utf8');
  const files = await Promise.all(kernelPackages.map(digestOf));
  const hash = hashOf([
    'kernel-layer-1',
    base.hash,
    target.release,
    target.packageVersion ?? null,
    target.suite ?? null,
    target.archive ?? null,
    files,
    script,
  ]);
  const entry = await cached(
    'layers',
    hash,
    async (dir) => {
      machine.emit({ type: 'phase', state: 'start', phase: `kernel layer ${target.release}` });
      const started = Date.now();
      const made = await make(base, target, kernelPackages, machine, dir);
      machine.emit({
        type: 'phase',
        state: 'end',
        phase: `kernel layer ${target.release}`,
        seconds: (Date.now() - started) / 1000,
      });
      return { name: `kernel ${target.release} on ${target.distro}`, base: base.disk, ...made };
    },
    machine.signal,
  );
  const cmdline = String(entry.meta.cmdline);
  return {
    disk: join(entry.dir, 'disk.qcow2'),
    boot: {
      kind: 'direct',
      vmlinuz: join(entry.dir, 'vmlinuz'),
      initrd: join(entry.dir, 'initrd'),
      cmdline,
    },
    versions: entry.meta.versions as Record<string, string>,
    entry,
  };
}

async function make(
  base: BaseImage,
  target: KernelTarget,
  kernelPackages: readonly string[],
  machine: Machine,
  dir: string,
): Promise<{ cmdline: string; versions: Record<string, string> }> {
  const spec = specOf(machine, { kind: 'loader', firmware: base.firmware }, true);
  await using booted = await bootNew(base.disk, spec, dir, machine);
  const { guest, vm } = booted;
  if (kernelPackages.length > 0) {
    await guest.text('mkdir -p /var/tmp/dkms2bin-kernel');
    for (const file of kernelPackages) {
      await guest.put(
        { file },
        `/var/tmp/dkms2bin-kernel/${basename(file).replaceAll(/[^A-Za-z0-9._+~-]/g, '_')}`,
      );
    }
  }
  const result = await guest.script(
    'install-kernel.sh',
    {
      RELEASE: target.release,
      SUITE: target.suite ?? '',
      ARCHIVE_URI: target.archive?.uri ?? '',
      ARCHIVE_SUITE: target.archive?.suite ?? '',
      KERNEL_PACKAGE_DIR: kernelPackages.length > 0 ? '/var/tmp/dkms2bin-kernel' : '',
    },
    {
      timeoutMs: deadline(machine.accel, 300),
      onLine: (line) => machine.emit({ type: 'output', line }),
    },
  );
  const said = new Map(result.reports.map((r) => [r.key, r.value]));
  if (result.code !== 0) {
    const near = result.reports.filter((r) => r.key === 'near').map((r) => r.value);
    throw new Dkms2binError(
      installFault(result.code),
      `Kernel ${target.release} could not be installed in the ${target.distro} guest: ${said.get('error') ?? result.tail.split('\n').slice(-3).join('\n')}`,
      near.length > 0 ? { hint: `Releases that exist there: ${near.slice(-8).join(', ')}` } : {},
    );
  }
  const uuid = said.get('root-uuid') ?? '';
  if (!/^[0-9a-f-]{36}$/.test(uuid)) {
    throw new Dkms2binError('transient', `The guest reports no root file system UUID (${uuid})`);
  }
  const limit = 512 * 1024 * 1024;
  await guest.fetch(`/boot/vmlinuz-${target.release}`, join(dir, 'vmlinuz'), limit);
  await guest.fetch(`/boot/initrd.img-${target.release}`, join(dir, 'initrd'), limit);
  await guest.text(
    'rm -rf /var/tmp/dkms2bin-kernel; cloud-init clean --logs; rm -f /etc/ssh/ssh_host_*; sync',
  );
  await guest.text('systemctl --no-block poweroff || poweroff');
  await vm.waitForPowerOff(deadline(machine.accel, 30));
  for (const name of [
    'id',
    'id.pub',
    'host',
    'host.pub',
    'known_hosts',
    'seed.iso',
    'user-data',
    'meta-data',
    'network-config',
    'qemu.log',
    'efivars.fd',
  ]) {
    await rm(join(dir, name), { force: true });
  }
  await run('qemu-img', ['check', '-q', '-f', 'qcow2', join(dir, 'disk.qcow2')]);
  const versions: Record<string, string> = {};
  for (const key of ['image-package', 'image-version', 'headers-version', 'gcc-version', 'dkms-version']) {
    versions[key] = said.get(key) ?? '';
  }
  return {
    // panic=-1 with -no-reboot turns a panic into QEMU's exit, which every wait notices.
    cmdline: `root=UUID=${uuid} ro console=ttyS0 panic=-1 loglevel=5 mitigations=off`,
    versions,
  };
}

export async function digestOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
