import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { inject } from 'vitest';
import { cacheDir } from '../../src/lib/paths.js';
import { temporary, tool } from '../tool.js';

export { FIXTURES, MAIN, temporary, tool, type Document, type Ended } from '../tool.js';

const road = inject('road');
if (road.catalogue) process.env.DKMS2BIN_CATALOGUE = road.catalogue;
/** The road that users take: Debian 12 on its official image, or on one that is made like it (setup.ts). */
export const DISTRO = road.distro;
export const IMAGE = ['--image', road.image];
export const ROAD = ['--distro', road.distro, ...IMAGE];

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
