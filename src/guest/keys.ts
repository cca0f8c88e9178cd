import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../lib/exec.js';

export const GUEST_USER = 'dkms2bin';

export interface Keys {
  userKeyPath: string;
  userPublicKey: string;
  hostPrivateKey: string;
  hostPublicKey: string;
  knownHosts: string;
}

/** Makes this VM's own key pair for login and the host key that it will be pinned to, in `dir`. */
export async function makeKeys(dir: string, signal?: AbortSignal): Promise<Keys> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const userKeyPath = join(dir, 'id');
  const hostKeyPath = join(dir, 'host');
  const options = signal ? { cancelSignal: signal } : {};
  for (const path of [userKeyPath, hostKeyPath]) {
    await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'dkms2bin', '-f', path], options);
  }
  const hostPublicKey = (await readFile(`${hostKeyPath}.pub`, 'utf8')).trim();
  const knownHosts = join(dir, 'known_hosts');
  await writeFile(knownHosts, `dkms2bin-guest ${hostPublicKey}\n`);
  return {
    userKeyPath,
    userPublicKey: (await readFile(`${userKeyPath}.pub`, 'utf8')).trim(),
    hostPrivateKey: await readFile(hostKeyPath, 'utf8'),
    hostPublicKey,
    knownHosts,
  };
}
