import type { ExecResult, RunOptions } from '../lib/exec.js';
import { SBIN } from '../lib/namespace.js';
import { runConfined } from '../lib/sandbox.js';

/** Runs a program on a disk or folder of an image, where it sees these files of the host's alone. */
export async function onDisk(
  writable: string | readonly string[],
  command: readonly string[],
  { readable = [], ...options }: RunOptions & { readable?: readonly string[] } = {},
): Promise<ExecResult> {
  const places = { readable, writable: [writable].flat() };
  return runConfined(places, command, { ...options, env: { ...SBIN, ...options.env } });
}
