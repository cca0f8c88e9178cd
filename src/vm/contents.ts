import { chown } from 'node:fs/promises';
import { dirname } from 'node:path';
import { requireBackings } from '../lib/qemu-img.js';
import type { Contents } from '../lib/sandbox.js';
import type { VmConfig } from './args.js';
import { findQemu } from './qemu-binary.js';

/** The files of the host's that one QEMU needs. Fault `host` for a disk that builds on others than `backings`. */
export async function contentsOf(
  config: VmConfig,
  { backings, socketDir }: { backings: readonly string[]; socketDir: string },
): Promise<Contents> {
  const { boot, memory, disk, seed, accel, network, arch } = config;
  await requireBackings(disk, backings);
  const readable = [seed, dirname(await findQemu(`qemu-system-${arch}`)), ...backings];
  const writable = [socketDir, disk];
  if (memory.kind === 'file') (memory.shared ? writable : readable).push(memory.path);
  if (boot.kind === 'direct') readable.push(boot.vmlinuz, boot.initrd);
  const uefi = boot.kind === 'direct' ? boot.uefi : boot.firmware === 'uefi' && boot;
  if (uefi) {
    readable.push(uefi.code);
    writable.push(uefi.vars);
  }
  return { readable, writable, devices: accel === 'kvm' ? ['/dev/kvm'] : [], network: network !== 'none' };
}

/** Files that QEMU writes become its own, where it is another user than this process. */
export async function giveTo(owner: number | null, paths: readonly string[]): Promise<void> {
  if (owner !== null) for (const path of paths) await chown(path, owner, owner);
}
