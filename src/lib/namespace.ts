import { rm } from 'node:fs/promises';
import { run } from './exec.js';
import { standardVariable } from './variables.js';

/** mke2fs and sfdisk lie in sbin, which an ordinary user's PATH lacks on Debian. */
export const SBIN = { PATH: `${standardVariable('PATH') ?? '/usr/bin:/bin'}:/usr/sbin:/sbin` };

/** Deletes the scratch folder, also when a killed command left files of the namespace's users in it. */
export async function removeScratch(scratch: string): Promise<void> {
  try {
    await rm(scratch, { recursive: true, force: true });
  } catch {
    await run('unshare', ['--user', '--map-root-user', '--map-auto', 'rm', '-rf', scratch]);
  }
}
