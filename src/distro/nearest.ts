import { compareReleases } from '../formats/versions.js';
import type { KernelEntry } from './kernel-index.js';
import { flavourOf } from './release.js';

/** What kernels of one distro differ in besides the version: `cloud-amd64`, `+rt`, `uek`; undefined for a plain one. */
export function kindOf(release: string): string | undefined {
  return flavourOf(release) ?? /\+[a-z0-9]+$|uek(?=\.|$)/.exec(release)?.[0];
}

/** Up to five existing releases of the same flavour around `release`, in order. */
export function nearest(
  release: string,
  kernels: readonly Pick<KernelEntry, 'release'>[],
  count = 5,
): string[] {
  const all = [...new Set(kernels.map((kernel) => kernel.release))].sort(compareReleases);
  const same = all.filter((other) => kindOf(other) === kindOf(release));
  return (same.length > 0 ? same : all)
    .map((other) => ({ other, far: distance(release, other) }))
    .sort((a, b) => compareNumbers(a.far, b.far) || compareReleases(b.other, a.other))
    .slice(0, count)
    .map(({ other }) => other)
    .sort(compareReleases);
}

/** How many of a release's numbers count. */
const NUMBERS = 4;

/** The differences of the releases' first numbers; the earlier ones weigh more. */
function distance(a: string, b: string): number[] {
  const [left, right] = [numbersOf(a), numbersOf(b)];
  return Array.from({ length: NUMBERS }, (_, i) => Math.abs((left[i] ?? 0) - (right[i] ?? 0)));
}

const numbersOf = (text: string): number[] => (text.match(/\d+/g) ?? []).map(Number);

function compareNumbers(a: readonly number[], b: readonly number[]): number {
  return a.map((each, i) => each - (b[i] ?? 0)).find((difference) => difference !== 0) ?? 0;
}
