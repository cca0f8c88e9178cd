import { execa } from 'execa';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inject } from 'vitest';
import type { CellResult } from '../../src/model/cell.js';
import { cacheDir } from '../../src/lib/paths.js';

const checkout = fileURLToPath(new URL('../..', import.meta.url));
/** Of the package that scripts/test has packed and installed, else of the checkout. */
export const MAIN = join(process.env.DKMS2BIN_TEST_PACKAGE ?? checkout, 'dist/main.js');
export const FIXTURES = fileURLToPath(new URL('../fixtures', import.meta.url));

const road = inject('road');
if (road.catalogue) process.env.DKMS2BIN_CATALOGUE = road.catalogue;
/** The road that users take: Debian 12 on its official image, or on one that is made like it (setup.ts). */
export const DISTRO = road.distro;
export const IMAGE = ['--image', road.image];
export const ROAD = ['--distro', road.distro, ...IMAGE];

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

/** A cache of its own that shares the images alone: layers and snapshots are still to be made, whatever was built here before. */
export async function cacheWithoutLayers(): Promise<string> {
  const cache = await temporary('cache');
  const images = join(cacheDir(), 'images');
  await mkdir(images, { recursive: true });
  await symlink(images, join(cache, 'images'));
  return cache;
}

/** Kernels of Debian 12 that its archive has now, by role: tests never pin a release. */
export async function kernels(): Promise<{
  newest: string;
  previous: string;
  cloud: string;
}> {
  const { stdout, stderr, code } = await tool(['kernels', '--distro', DISTRO, '--json']);
  if (code !== 0) throw new Error(stderr);
  const { kernels: all } = JSON.parse(stdout) as { kernels: { release: string }[] };
  const sorted = (pattern: RegExp): string[] => {
    const found = all.map((k) => k.release).filter((r) => pattern.test(r));
    const number = (r: string): number => Number(/^6\.1\.0-(\d+)/.exec(r)?.[1]);
    found.sort((a, b) => number(b) - number(a));
    if (!found[0]) throw new Error(`the archive has no kernel like ${String(pattern)}`);
    return found;
  };
  const plain = sorted(/^6\.1\.0-\d+-amd64$/);
  return {
    newest: plain[0]!,
    previous: plain[1]!,
    cloud: sorted(/^6\.1\.0-\d+-cloud-amd64$/)[0]!,
  };
}
