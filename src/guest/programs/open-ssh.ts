import type { Guest } from '../guest.js';
import { GUEST_USER, type Keys } from '../keys.js';
import { requireSuccess } from '../protocol.js';

/** Starts sshd in the guest, now and at each boot, with these keys. Throws `transient` when it does not start. */
export async function startSshd(guest: Guest, keys: Keys, timeoutMs: number): Promise<void> {
  const vars = { USER_KEY: keys.userPublicKey, HOST_KEY: keys.hostPrivateKey, GUEST_USER };
  requireSuccess(await guest.script('open-ssh.sh', vars, { timeoutMs }), 'sshd did not start in the guest');
}
