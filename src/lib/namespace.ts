import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { HOST_ARCH, type Arch } from '../model/cell.js';
import { run } from './exec.js';
import { PACKAGE_ROOT } from './paths.js';
import { standardVariable } from './variables.js';

/** mke2fs and sfdisk lie in sbin, which an ordinary user's PATH lacks on Debian. */
export const SBIN = { PATH: `${standardVariable('PATH') ?? '/usr/bin:/bin'}:/usr/sbin:/sbin` };

/**
 * What to put before a command that is to be root of mount and PID namespaces: the host's own root, or that of a user
 * namespace with the user's subordinate ids. There programs of `arch` run, by qemu-user when it is not the host's.
 * Throws fault `host` where that does not work.
 */
export async function namespaceCommand(arch: Arch, signal?: AbortSignal): Promise<string[]> {
  const args = ['--mount', '--pid', '--fork', '--kill-child'];
  if (process.getuid?.() !== 0) args.push('--user', '--map-root-user', '--map-auto');
  if (arch !== HOST_ARCH) {
    args.push('bash', join(PACKAGE_ROOT, 'cloud-init', 'layer', 'emulate.sh'), arch);
  }
  await run('unshare', [...args, 'true'], {
    env: SBIN,
    ...(signal && { cancelSignal: signal }),
  });
  return ['unshare', ...args];
}

/** Deletes the scratch folder, also when a killed command left files of the namespace's users in it. */
export async function removeScratch(scratch: string): Promise<void> {
  try {
    await rm(scratch, { recursive: true, force: true });
  } catch {
    await run('unshare', ['--user', '--map-root-user', '--map-auto', 'rm', '-rf', scratch]);
  }
}
