import { execa } from 'execa';
import { existsSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CellResult } from '../src/model/cell.js';

const checkout = fileURLToPath(new URL('..', import.meta.url));
/** Of the package that scripts/test has packed and installed, else of the checkout. */
export const MAIN = join(process.env.DKMS2BIN_TEST_PACKAGE ?? checkout, 'dist/main.js');
export const FIXTURES = fileURLToPath(new URL('./fixtures', import.meta.url));

export interface Ended {
  code: number | undefined;
  stdout: string;
  stderr: string;
}

/** Runs the built tool as a user does. */
export async function tool(
  args: string[],
  options: { input?: string; env?: Record<string, string>; cwd?: string } = {},
): Promise<Ended> {
  if (!existsSync(MAIN)) throw new Error('dist/main.js is missing: npm run build');
  const { input, env, cwd } = options;
  const result = await execa('node', [MAIN, ...args], {
    reject: false,
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
    ...(env ? { env } : {}),
    ...(cwd ? { cwd } : {}),
  });
  return { code: result.exitCode, stdout: String(result.stdout), stderr: String(result.stderr) };
}

export interface Document {
  schemaVersion: number;
  run: string;
  accelerator: string;
  cells: CellResult[];
}

export async function temporary(name: string): Promise<string> {
  return mkdtemp(join(tmpdir(), `dk2b-${name}-`));
}
