import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { findRow, loadCatalogue } from '../../src/distro/catalogue.js';
import { hostMirrors } from '../../src/distro/mirrors.js';
import { resolveKernels } from '../../src/distro/resolve.js';
import { baseImage, type Variant } from '../../src/environment/base-image.js';
import type { Machine } from '../../src/environment/boot.js';
import { kernelLayer, type KernelLayer } from '../../src/environment/kernel-layer.js';
import { cacheDir } from '../../src/lib/paths.js';
import { chooseAccelerator } from '../../src/vm/accel.js';
import { Apt } from '../host/fixtures/apt.js';
import { DISTRO, IMAGE } from './tool.js';

/** A layer for a kernel of the road's distro, in the shared cache, for tests that go into a VM themselves. */
export async function openLayer(
  kernel: string,
  variant: Variant,
  cwd: string,
): Promise<{ layer: KernelLayer; machine: Machine } & AsyncDisposable> {
  const { signal } = new AbortController();
  const emit = (): void => undefined;
  const { name: accel, cpu } = await chooseAccelerator('auto', 'x86_64', { emit, signal });
  const machine: Machine = { arch: 'x86_64', accel, cpu, cpus: 2, memoryMiB: 2048, emit, signal };
  const rows = await loadCatalogue();
  const context = { arch: 'x86_64' as const, offline: false, signal };
  const resolving = { distro: DISTRO, ...context, cacheDir: cacheDir(), warn: emit };
  const [target] = await resolveKernels([kernel], rows, resolving);
  const base = await baseImage(findRow(rows, DISTRO), { ...context, image: IMAGE[1]!, variant, cwd, emit });
  const layer = await kernelLayer(
    { base, target: target!, variant, kernelPackages: [], buildPackages: { names: [], files: [] } },
    machine,
  );
  return {
    ...{ layer, machine },
    async [Symbol.asyncDispose]() {
      await layer.entry.use.release();
      await base.entry?.use.release();
    },
  };
}

/** Files of packages of the distro's archive whose names begin as `names` do, with what they need, under a new folder of `work`. */
export async function distroDebs(work: string, what: string, names: readonly string[]): Promise<string[]> {
  const { mirrors } = findRow(await loadCatalogue(), DISTRO);
  const { main = mirrors.main, security = mirrors.security } = await hostMirrors();
  const apt = new Apt(join(work, 'apt'));
  const by = '[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]';
  apt.sources(
    `deb ${by} ${main} bookworm main\ndeb ${by} ${main} bookworm-updates main\ndeb ${by} ${security} bookworm-security main\n`,
  );
  for (const each of [['update'], ['install', '--yes', '--no-install-recommends', '--download-only', what]]) {
    const { code, text } = await apt.get(...each);
    expect(code, text).toBe(0);
  }
  const folder = join(apt.root, 'cache/archives');
  const files = (await readdir(folder)).filter((file) => names.some((name) => file.startsWith(`${name}_`)));
  expect(files).toHaveLength(names.length);
  return files.map((name) => join(folder, name));
}
