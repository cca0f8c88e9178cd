import { CONSOLE } from '../model/cell.js';
import { messageOf } from '../model/errors.js';
import { openSsh } from '../environment/boot.js';
import type { Guest } from '../guest/guest.js';
import type { RunDir } from './run-dir.js';
import type { CellInput } from './types.js';

/** A root shell on the console of a VM that will be logged in to. The build VM holds nothing of the host's. */
const autologin = (tty: string): string =>
  `d=/etc/systemd/system/serial-getty@${tty}.service.d; mkdir -p $d; ` +
  "printf '[Service]\\nExecStart=\\nExecStart=-/sbin/agetty -a root --keep-baud 115200 %%I xterm\\n' > $d/dkms2bin.conf; " +
  `systemctl daemon-reload; systemctl --no-block restart serial-getty@${tty}.service`;

/** Lets people into a build VM, over ssh and on the console. */
export async function allowLogin(input: CellInput, run: RunDir, guest: Guest): Promise<void> {
  await openSsh(guest, run.dir, input.machine);
  await guest.text(autologin(CONSOLE[input.target.arch]));
}

/** Marks the run as kept when the user asked for that, and makes its VM's disk ready for a login. */
export async function keepIfAsked(
  input: CellInput,
  run: RunDir,
  guest: Guest,
  failed: boolean,
): Promise<void> {
  if (!input.debug && !(failed && input.keepFailed)) return;
  if (input.machine.signal.aborted && !input.debug) return;
  await run.save({ kept: true });
  // A guest that is dead or stuck cannot be opened; its disk is kept all the same.
  if (!input.debug) {
    await allowLogin(input, run, guest).catch((error: unknown) => {
      input.machine.emit({ type: 'note', level: 'warn', message: messageOf(error), cell: input.label });
    });
  }
  if (failed && input.onFailure && !input.machine.signal.aborted) await input.onFailure(run);
  // The file system must be whole when the disk is booted again; a dead or interrupted guest cannot be asked.
  await guest.text('sync', 60_000).catch(() => undefined);
}
