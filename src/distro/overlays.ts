import { isAbsolute, join } from 'node:path';
import { DEB_ARCH, type Arch } from '../model/cell.js';
import { messageOf } from '../model/errors.js';
import type { CatalogueRow } from './catalogue-schema.js';
import type { OverlayInput } from './overlay-schema.js';
import { NAME_PROBE } from './packages.js';
import { fill } from './templates.js';

/** An overlay as it stands in a file. */
export interface Overlay {
  overlay: OverlayInput;
  /** The catalogue file, and the folder that paths in it are relative to. */
  file: string;
  dir: string;
  /** See `KernelSource`. */
  asked?: true;
}

/**
 * The rows that an overlay makes of those it goes on top of: the base's image, mirrors and toolchain with the overlay's kernels.
 * `mistake` is told the field and what is wrong with it.
 */
export function overlayRows(
  of: Overlay,
  rows: readonly CatalogueRow[],
  mistake: (field: string, message: string) => void,
): CatalogueRow[] {
  const { overlay, dir } = of;
  const { key } = overlay;
  if (key?.keyFile && !isAbsolute(key.keyFile)) key.keyFile = join(dir, key.keyFile);
  if (key && !key.keyFile && !key.keyUrl) mistake('key', 'keyFile or keyUrl is missing');
  return overlay.on.flatMap((id, at) => {
    const base = rows.find((row) => row.id === id);
    if (base) return [rowOn(base, of, at, mistake)];
    mistake(`on.${at}`, `there is no row ${id}`);
    return [];
  });
}

function rowOn(
  base: CatalogueRow,
  { overlay, file, asked }: Overlay,
  at: number,
  mistake: (field: string, message: string) => void,
): CatalogueRow {
  const filled = (field: string, template: string, more: Record<string, string> = {}): string => {
    try {
      return fill(template, { codename: base.codename, version: base.version, ...more });
    } catch (error) {
      mistake(field, messageOf(error));
      return template;
    }
  };
  const { x86_64, aarch64 } = base.arch;
  const arches = { x86_64, aarch64 };
  // Every row has an x86_64 by its type; one that an overlay has no kernels for is refused when its kernels are asked for.
  for (const arch of overlay.arches) if (!arches[arch]) mistake('arches', `${base.id} has no ${arch}`);
  const isApt = base.packageManager === 'apt';
  for (const { suite } of overlay.repositories)
    if ((suite !== undefined) !== isApt)
      mistake('repositories', `${base.id} takes repositories ${isApt ? 'with' : 'without'} a suite`);
  if (isApt)
    for (const set of [overlay.packages, ...overlay.packages.variants])
      for (const template of [...set.image, ...set.headers, ...set.modules, ...set.extra]) {
        filled('packages', template, NAME_PROBE);
        if (!template.includes('{release}')) mistake('packages', `{release} is missing in ${template}`);
      }
  const { proposed: _, next: __, ...kept } = base;
  return {
    ...kept,
    file,
    id: at === 0 ? overlay.id : `${overlay.id}-${base.id}`,
    aliases: at === 0 ? overlay.aliases : [],
    releases: overlay.releases,
    packages: {
      ...overlay.packages,
      variants: overlay.packages.variants.map((variant) => ({ ...variant, suffix: '' })),
    },
    archives: overlay.archives,
    overlay: {
      on: base.id,
      ...(asked && { asked }),
      first: at === 0,
      arches: overlay.arches,
      repositories: overlay.repositories.map(({ url, suite, components }, i) => ({
        url: filled(`repositories.${i}.url`, url, { arch: '{arch}' }).replace(/\/+$/, ''),
        suite: suite && filled(`repositories.${i}.suite`, suite),
        components,
      })),
      key: overlay.key,
      defaultKernel: overlay.defaultKernel,
    },
  };
}

/** The package that leads to an overlay's current kernel. */
export function defaultOf({ overlay }: Pick<CatalogueRow, 'overlay'>, arch: Arch): string | undefined {
  return overlay?.defaultKernel?.replace('{debArch}', DEB_ARCH[arch]);
}
