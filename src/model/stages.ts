import { z } from 'zod';

/**
 * What a cell goes through, in order; a result's `phases` has seconds under these names. `build` is the guest's own
 * `dkms build` within `dkms`; `install` is a proof's.
 */
const CELL_STAGES = [
  'prepare',
  'boot',
  'fetch',
  'dkms',
  'build',
  'collect',
  'pack',
  'verify',
  'rebuild',
  'install',
] as const;

export type CellStage = (typeof CELL_STAGES)[number];

/** What is made once for many cells. */
const SHARED_STAGES = [
  'bootstrap packages',
  'bootstrap filesystem',
  'bootstrap convert',
  'image root',
  'kernel packages',
  'kernel layer disk',
] as const;

/** Any named stretch of work; those of a kernel end in its release. */
export const stage = z.union([
  z.enum([...CELL_STAGES, ...SHARED_STAGES]),
  z.templateLiteral([z.enum(['kernel', 'runtime']), ' layer ', z.string()]),
  z.templateLiteral(['memory snapshot ', z.string()]),
]);

export type Stage = z.infer<typeof stage>;
