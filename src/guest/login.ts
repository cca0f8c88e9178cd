import type { Socket } from 'node:net';
import { Dkms2binError } from '../model/errors.js';
import { lendKeyboard } from '../lib/keyboard.js';
import { childEnvironment, standardVariable } from '../lib/variables.js';

/** The key that ends a console session, as telnet has it: Ctrl-]. */
const ESCAPE = 0x1d;

/**
 * Joins this terminal to a program on a pseudo-terminal until that ends: Ctrl-C and Ctrl-D are the program's. Without a
 * terminal standard input is passed on as it is, so that a login can be scripted. Rejects when `signal` aborts.
 */
export async function joinProgram(file: string, args: string[], signal: AbortSignal): Promise<void> {
  const { stdin, stdout } = process;
  const { spawn } = await import('node-pty');
  const code = await lendKeyboard<number>(stdin, { signal, draws: true }, (done, fail) => {
    const size = (): [columns: number, rows: number] => [stdout.columns ?? 80, stdout.rows ?? 24];
    const [cols, rows] = size();
    const pty = spawn(file, args, {
      ...{
        name: standardVariable('TERM') ?? 'xterm',
        cols,
        rows,
        cwd: process.cwd(),
        env: childEnvironment(),
      },
      // Bytes: a character may come in two pieces.
      encoding: null,
    });
    const resize = (): void => pty.resize(...size());
    const output = pty.onData((data) => stdout.write(data));
    const exit = pty.onExit(({ exitCode }) => {
      release();
      done(exitCode);
    });
    const release = (): void => {
      stdout.off('resize', resize);
      output.dispose();
      exit.dispose();
    };
    const hangUp = (error: Error): void => {
      release();
      pty.kill();
      fail(error);
    };
    stdout.on('resize', resize);
    return {
      typed: (bytes) => pty.write(bytes),
      // A script that feeds us ends its shell the way a user does: with Ctrl-D.
      ended: () => pty.write('\x04'),
      stopped: hangUp,
    };
  });
  if (code === 255)
    throw new Dkms2binError('transient', 'The ssh connection to the VM broke or could not be made');
}

/** As `joinProgram`, for a VM's console; on a terminal Ctrl-] leaves it. */
export async function joinConsole(socket: Socket, signal: AbortSignal): Promise<void> {
  const { stdin, stdout, stderr } = process;
  try {
    await lendKeyboard<void>(stdin, { signal, draws: true }, (done, fail) => {
      stderr.write('Connected to the console; press Enter for a prompt, Ctrl-] to leave.\r\n');
      socket.once('error', (error) =>
        fail(new Dkms2binError('transient', `The VM's console cannot be reached: ${error.message}`)),
      );
      socket.once('close', () => done());
      socket.on('data', (data) => stdout.write(data));
      return {
        typed: (bytes) => {
          const at = stdin.isTTY ? bytes.indexOf(ESCAPE) : -1;
          socket.write(at === -1 ? bytes : bytes.subarray(0, at));
          if (at === -1) return;
          done();
          return bytes.subarray(at + 1);
        },
        ended: () => socket.end(),
        stopped: fail,
      };
    });
  } finally {
    socket.destroy();
  }
  // The prompt of the shell that we return to begins a line.
  if (stdin.isTTY) stderr.write('\n');
}
