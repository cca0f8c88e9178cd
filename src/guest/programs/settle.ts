import type { Guest } from '../guest.js';
import { AS_LONG_AS_IT_TAKES_MS } from '../transport.js';
import { requireSuccess, valuesOf } from '../protocol.js';

/**
 * Brings a freshly booted guest to rest, so that its memory can be saved. Resolves with what is not as it should be in it.
 * Throws `transient` when it does not settle.
 */
export async function settle(guest: Guest, silenceMs: number): Promise<string[]> {
  const output = await guest.script('settle.sh', {}, { timeoutMs: AS_LONG_AS_IT_TAKES_MS, silenceMs });
  requireSuccess(output, 'The guest did not settle');
  return valuesOf(output, 'note');
}
