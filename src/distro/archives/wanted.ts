import type { Arch } from '../../model/cell.js';
import { exists, type Reach } from '../fetch.js';
import type { LookupOptions } from '../kernel-index.js';
import type { KernelPackages } from '../packages.js';
import type { DistroRow } from '../row.js';

/** A kernel that the archives of old packages are asked for. */
export interface Wanted {
  row: DistroRow;
  release: string;
  arch: Arch;
  options: LookupOptions;
}

/** Notes a place that was looked in, and what came of it. */
export type Tell = (where: string, outcome: string) => void;

export const withoutSlash = (url: string): string => url.replace(/\/+$/, '');

/** The files of a kernel that exist, undefined when one that must be there is missing. */
export async function filesOf(
  names: KernelPackages,
  urls: (name: string) => string[],
  reach: Reach,
): Promise<{ url: string }[] | undefined> {
  const all = [...new Set([...names.image, ...names.modules, ...names.extra, ...names.headers])];
  const found = new Map<string, { url: string }>();
  await Promise.all(
    all.map(async (name) => {
      for (const url of urls(name)) {
        if (found.has(name) || !(await exists(url, reach))) continue;
        found.set(name, { url });
      }
    }),
  );
  const picked = pick(names, (name) => found.get(name));
  return picked && [picked.image, ...picked.others];
}

/** What `lookup` has of a kernel's packages, undefined when one that must be there is missing. */
export function pick<T>(
  names: KernelPackages,
  lookup: (name: string) => T | undefined,
): { image: T; others: T[] } | undefined {
  const there = (file: T | undefined): file is T => file !== undefined;
  const image = names.image.map(lookup).find(there);
  const must = [...names.modules, ...names.headers].map(lookup);
  if (image === undefined || !must.every(there)) return undefined;
  return { image, others: [...must, ...names.extra.map(lookup).filter(there)] };
}
