import type { Socket } from 'node:net';
import { Dkms2binError } from '../model/errors.js';
import { environment, standardVariable } from '../lib/variables.js';

/** The key that ends a console session, as telnet has it: Ctrl-]. */
const ESCAPE = 0x1d;

/**
 * Joins this terminal to a program on a pseudo-terminal, or to a console socket, until either end closes. Without a
 * terminal standard input is passed on as it is, so that a login can be scripted.
 */
export async function interactive(
  peer: { file: string; args: string[] } | { socket: Socket },
): Promise<void> {
  const { stdin, stdout } = process;
  const raw = stdin.isTTY;
  if ('socket' in peer) {
    process.stderr.write('Connected to the console; press Enter for a prompt, Ctrl-] to leave.\n');
  }
  if (raw) stdin.setRawMode(true);
  try {
    await ('socket' in peer ? overSocket(peer.socket) : overPty(peer.file, peer.args));
  } finally {
    if (raw) stdin.setRawMode(false);
    stdin.removeAllListeners('data');
    stdin.pause();
  }

  async function overPty(file: string, args: string[]): Promise<void> {
    const { spawn } = await import('node-pty');
    const pty = spawn(file, args, {
      name: standardVariable('TERM') ?? 'xterm',
      cols: stdout.columns ?? 80,
      rows: stdout.rows ?? 24,
      cwd: process.cwd(),
      env: environment(),
    });
    const resize = (): void => pty.resize(stdout.columns ?? 80, stdout.rows ?? 24);
    stdout.on('resize', resize);
    pty.onData((data) => stdout.write(data));
    stdin.on('data', (data) => pty.write(data.toString('utf8')));
    // A script that feeds us ends its shell the way a user does: with Ctrl-D.
    stdin.once('end', () => pty.write('\x04'));
    const code = await new Promise<number>((resolve) => pty.onExit(({ exitCode }) => resolve(exitCode)));
    stdout.off('resize', resize);
    if (code === 255) {
      throw new Dkms2binError('transient', 'The ssh connection to the VM broke or could not be made');
    }
  }

  async function overSocket(socket: Socket): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', (error) =>
        reject(new Dkms2binError('transient', `The VM's console cannot be reached: ${error.message}`)),
      );
      socket.once('close', () => resolve());
      socket.on('data', (data) => stdout.write(data));
      stdin.on('data', (data: Buffer) => {
        if (raw && data.includes(ESCAPE)) socket.destroy();
        else socket.write(data);
      });
      stdin.once('end', () => socket.end());
    });
  }
}
