import { access } from 'node:fs/promises';
import type { Arch } from '../model/cell.js';
import { missingTool } from '../lib/exec.js';
import type { UefiFiles } from './args.js';

/** Code and variables of UEFI on this host: Debian's and Fedora's places. */
const FIRMWARE: Record<Arch, { package: string; places: readonly (readonly [string, string])[] }> = {
  x86_64: {
    package: 'ovmf',
    places: [
      ['/usr/share/OVMF/OVMF_CODE_4M.fd', '/usr/share/OVMF/OVMF_VARS_4M.fd'],
      ['/usr/share/OVMF/OVMF_CODE.fd', '/usr/share/OVMF/OVMF_VARS.fd'],
      ['/usr/share/edk2/ovmf/OVMF_CODE.fd', '/usr/share/edk2/ovmf/OVMF_VARS.fd'],
    ],
  },
  // QEMU's virt wants both to be 64 MiB: not QEMU_EFI.fd.
  aarch64: {
    package: 'qemu-efi-aarch64',
    places: [
      ['/usr/share/AAVMF/AAVMF_CODE.fd', '/usr/share/AAVMF/AAVMF_VARS.fd'],
      ['/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw', '/usr/share/edk2/aarch64/vars-template-pflash.raw'],
    ],
  },
};

/** UEFI's code and the template of its variables, which a VM gets a copy of. Throws fault `host` where it is not installed. */
export async function findFirmware(arch: Arch): Promise<UefiFiles> {
  for (const [code, vars] of FIRMWARE[arch].places) {
    const found = await Promise.all([access(code), access(vars)]).then(
      () => true,
      () => false,
    );
    if (found) return { code, vars };
  }
  throw missingTool(FIRMWARE[arch].package);
}
