import type { Guest } from '../guest.js';
import { requireSuccess } from '../protocol.js';

/** Gives the guest another date and host name, for a build whose result must not show them. Throws `transient`. */
export async function disguise(
  guest: Guest,
  as: { aheadSeconds: number; hostName: string },
  timeoutMs: number,
): Promise<void> {
  const vars = { AHEAD: as.aheadSeconds, HOST: as.hostName };
  requireSuccess(
    await guest.script('disguise.sh', vars, { timeoutMs }),
    "The guest's clock could not be set",
  );
}
