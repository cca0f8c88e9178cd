import type { Guest } from '../guest.js';
import { requireSuccess } from '../protocol.js';

/** Brings a freshly booted guest to rest, so that its memory can be saved. Throws `transient` when it does not. */
export async function settle(guest: Guest, timeoutMs: number): Promise<void> {
  requireSuccess(await guest.script('settle.sh', {}, { timeoutMs }), 'The guest did not settle');
}
