import { Dkms2binError } from '../../model/errors.js';
import { formatAge, formatBytes } from '../../lib/units.js';
import { SCHEMA_VERSION } from '../../report/json.js';
import { table } from '../../report/text.js';
import { requestOf } from '../../options/request.js';
import { command } from '../frame.js';

const imageState = ({ damaged, inUse }: { damaged: boolean; inUse: boolean }): string => {
  if (damaged) return 'damaged';
  return inUse ? 'in use' : '-';
};

export const imagesList = command({
  name: 'images list',
  summary: 'list what the cache holds (the default)',
  isDefault: true,
  description:
    'Lists what the cache holds, the last used first: what it is built on, what it takes on the disk, and whether a build or a kept VM uses it now.',
  run: async ({ options: { json } }, { engine, stderr, answer }) => {
    const images = await engine.listImages();
    if (images.length === 0 && !json)
      stderr.write('The cache is empty. The first build fills it, or dkms2bin images warm.\n');
    const rows = images.map((i) => [
      ...[i.name, i.kind, i.on ?? '-', formatBytes(i.bytes), formatAge(i.created), formatAge(i.lastUsed)],
      imageState(i),
    ]);
    const head = ['NAME', 'KIND', 'ON', 'SIZE', 'AGE', 'LAST USED', 'STATE'];
    answer(
      () => ({ schemaVersion: SCHEMA_VERSION, images }),
      () => (rows.length === 0 ? '' : table([head, ...rows])),
    );
  },
});

export const imagesUpdate = command({
  name: 'images update',
  summary: 'take the newest official images',
  description:
    'Asks the distros for the official images that the cache has, and downloads those that are newer. Without it the images in the cache stay in use, whatever the distros publish: each kernel layer and memory snapshot stands on one, and is made anew on a new one. What stood on an old image is removed once nothing has used it for two weeks.',
  heading: 'Options:',
  run: async ({ options: { distros, proxy } }, { engine, ui, stdout, stderr, signal }) => {
    const updated = await engine.updateImages(distros, { emit: ui.emit, signal, proxy });
    ui.close();
    stdout.write(table(updated.map(({ distro, arch, state }) => [state, distro, arch])));
    if (updated.length === 0)
      stderr.write('The cache has no official image to update; the next build fetches the newest.\n');
  },
});

export const imagesPrune = command({
  name: 'images prune',
  summary: 'remove what is unfinished, damaged, too old or too much',
  description:
    'Removes what interrupted runs left unfinished, what is damaged, and old records of indexes and builds. Whole images, layers and snapshots that are still current go only with --max-size or --max-age: the least recently used first, never one that a build or a kept VM uses, never one that another is built on.',
  run: async ({ options: { dryRun, maxBytes, maxAgeSeconds } }, { engine, stdout, stderr, signal }) => {
    const { removed, freed, left } = await engine.pruneImages({
      dryRun,
      signal,
      ...(maxBytes !== undefined && { maxBytes }),
      ...(maxAgeSeconds !== undefined && { maxAgeSeconds }),
    });
    const verb = dryRun ? 'would remove' : 'removed';
    stdout.write(table(removed.map((r) => [verb, r.name, r.kind, formatBytes(r.bytes)])));
    stderr.write(`${dryRun ? 'would free' : 'freed'} ${formatBytes(freed)}; ${formatBytes(left)} stay\n`);
    if (maxBytes !== undefined && left > maxBytes)
      stderr.write(
        `More than ${formatBytes(maxBytes)} stay: the rest is in use (dkms2bin images, dkms2bin runs).\n`,
      );
  },
});

export const imagesVerify = command({
  name: 'images verify',
  summary: 'read everything in the cache and find what is damaged',
  description:
    'Reads every file in the cache and compares it with the SHA-256 that was recorded when it was made (official images: with the digest that the distro publishes). Exits with 4 while something is damaged.',
  run: async ({ options: { remove } }, { engine, ui, stdout, signal }) => {
    const all = await engine.verifyImages({ remove, emit: ui.emit, signal });
    ui.close();
    const state = (row: (typeof all)[number]): string => {
      if (row.removed) return 'damaged, removed';
      return row.state === 'busy' ? 'being made' : row.state;
    };
    const rows = all.map((r) => [r.name, r.kind, formatBytes(r.bytes), state(r), r.problem ?? '']);
    if (rows.length > 0) stdout.write(table([['NAME', 'KIND', 'SIZE', 'STATE', 'PROBLEM'], ...rows]));
    const damaged = all.filter((r) => r.state === 'damaged' && !r.removed);
    if (damaged.length === 0) return;
    throw new Dkms2binError('host', `Damaged in the cache: ${damaged.map((r) => r.name).join(', ')}`, {
      hint: remove
        ? 'They are in use: try again when no build runs, and remove kept VMs with dkms2bin rm.'
        : 'Remove them with dkms2bin images verify --remove; the next build makes them again. Damage that comes back means a failing disk or memory.',
    });
  },
});

export const imagesWarm = command({
  name: 'images warm',
  summary: 'make ready what builds for these kernels will need',
  description:
    'Makes the disk image, the kernel layer and the memory snapshot of each kernel ahead of time, so that the first build for it is as fast as the later ones. Give the options that the builds will be given: another --memory, for one, needs another snapshot.',
  heading: 'What builds will ask for:',
  run: async ({ options }, { engine, ui, stdout, signal, cwd }) => {
    const ready: string[][] = [];
    try {
      await engine.warmImages(requestOf(options, cwd), {
        emit: ui.emit,
        signal,
        report: (k) => ready.push(['ready', k.kernel, k.distro, k.snapshot ? 'with snapshot' : 'boots cold']),
      });
    } finally {
      ui.close();
      stdout.write(table(ready));
    }
  },
});
