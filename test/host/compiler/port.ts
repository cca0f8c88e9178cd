import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

/** What stands for QEMU's port between the compiler's stand-in and the host. */
export interface Port extends AsyncDisposable {
  /** The guest's end, a terminal. */
  port: string;
  /** The host's end. */
  socket: string;
}

/** With both ends in `folder`. */
export async function openPort(folder: string): Promise<Port> {
  const [port, socket] = [join(folder, 'port'), join(folder, 'cc')];
  const script = join(import.meta.dirname, 'port.py');
  const bridge = spawn('python3', [script, port, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(bridge, 'close');
  await once(bridge.stdout, 'data');
  return {
    ...{ port, socket },
    async [Symbol.asyncDispose]() {
      bridge.kill();
      await ended;
    },
  };
}
