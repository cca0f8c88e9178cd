import { z } from 'zod';
import { Dkms2binError } from '../../model/errors.js';
import type { GuestOutput } from '../guest.js';
import { readEnd, valuesOf, whyOf, type EndName } from '../protocol.js';

/** How a module met the kernel: `refused` by its own init function, `bad`, or `missing` when nothing was reported of it. */
export interface Load {
  name: string;
  how: 'loaded' | 'refused' | 'bad' | 'missing';
  why: string;
}

const HOW = z.enum(['loaded', 'refused', 'bad']);

/** What lib/load.py reported of a module. */
export function howItLoads(output: Pick<GuestOutput, 'reports'>, name: string): Load {
  for (const value of valuesOf(output, 'load')) {
    const [of, said, ...why] = value.split(' ');
    const how = HOW.safeParse(said);
    if (of === name && how.success) return { name, how: how.data, why: why.join(' ') };
  }
  return { name, how: 'missing', why: '' };
}

/**
 * `readEnd` for a program that loads modules. Its `BAD` counts only with a report of a module: Python ends with the same code
 * when it breaks, which is `transient`.
 */
export function readLoadEnd<Expected extends EndName>(
  output: GuestOutput,
  expected: readonly Expected[],
  describe: (why: string, end: EndName | null) => { message: string; hint?: string },
): Expected {
  const end = readEnd(output, expected, describe);
  if (end === 'BAD' && valuesOf(output, 'load').length === 0) {
    throw new Dkms2binError('transient', describe(whyOf(output), null).message);
  }
  return end;
}
