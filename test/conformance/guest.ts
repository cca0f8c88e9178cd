import { spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { Guest } from '../../src/guest/guest.js';
import { endOf, type Ended, type Transport } from '../../src/guest/transport.js';
import { entered, type Root } from './roots.js';

/**
 * A guest that is a root folder in a namespace: its commands run as they would in a VM of it. What they write goes to `upper`;
 * they reach a network for as long as `net.open` says so. `port` is the terminal by which its compiler reaches the host's, '' for none.
 */
export function namespaceGuest(root: Root, upper: string, net: { open: boolean }, port = ''): Guest {
  const transport: Transport = {
    exec: async (command, { input, stdout, stderr, timeoutMs }) => {
      const program = 'sh' in command ? ['sh', '-c', command.sh] : ['python3', '-I', '-c', command.python];
      const [file, ...args] = [...entered(root, upper, net.open), ...program];
      const child = spawn(file!, args, {
        stdio: ['pipe', 'pipe', 'pipe'],
        timeout: timeoutMs,
        env: { ...process.env, PORT: port },
        killSignal: 'SIGKILL',
      });
      // A command need not read what it is given.
      child.stdin.on('error', () => undefined);
      if (typeof input === 'object' && 'file' in input) createReadStream(input.file).pipe(child.stdin);
      else child.stdin.end(input);
      child.stdout.pipe(stdout, { end: false });
      child.stderr.pipe(stderr, { end: false });
      const ended = await new Promise<Ended>((resolve, reject) => {
        child.on('error', reject);
        child.on('close', (code) => resolve({ code, timedOut: false }));
      });
      await Promise.all([endOf(stdout), endOf(stderr)]);
      return ended;
    },
    close: () => Promise.resolve(),
  };
  return new Guest({ transport, alive: (work) => work });
}
