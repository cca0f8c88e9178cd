import type { CellResult } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';

/** What a kernel says: the module builds, it fails, or there is no answer (skipped, or not the module's fault). */
export type Answer = 'good' | 'bad' | 'untested';

/** `found`: the two are neighbours. `ambiguous`: what lies between them gave no answer. */
export interface BisectResult {
  status: 'found' | 'ambiguous';
  lastGood: string;
  firstBad: string;
  /** Kernels between the two that gave no answer, oldest first. */
  untested: string[];
}

/**
 * Finds where `good` turns to `bad` in a list from the oldest to the newest. Both ends are asked first; then always the
 * kernel nearest to the middle that has not been asked, so that one without an answer is stepped over. Throws what
 * `refuse` makes of an end that does not say what it should. Where the answers change more than once, it finds one change.
 */
export async function bisectKernels(
  kernels: readonly string[],
  ask: (kernel: string) => Promise<Answer>,
  refuse: (end: 'good' | 'bad', kernel: string, answer: Answer) => Error,
): Promise<BisectResult> {
  const kernelAt = (index: number): string => {
    const kernel = kernels[index];
    if (kernel === undefined) throw new RangeError(`There is no kernel ${index} among ${kernels.length}`);
    return kernel;
  };
  let low = 0;
  let high = kernels.length - 1;
  for (const [index, end] of [[low, 'good'] as const, [high, 'bad'] as const]) {
    const kernel = kernelAt(index);
    const answer = await ask(kernel);
    if (answer !== end) throw refuse(end, kernel, answer);
  }
  const untested = new Set<number>();
  for (;;) {
    const open = range(low + 1, high).filter((index) => !untested.has(index));
    const next = nearestTo((low + high) / 2, open);
    if (next === undefined) break;
    const answer = await ask(kernelAt(next));
    if (answer === 'good') low = next;
    else if (answer === 'bad') high = next;
    else untested.add(next);
  }
  return {
    status: high - low === 1 ? 'found' : 'ambiguous',
    lastGood: kernelAt(low),
    firstBad: kernelAt(high),
    untested: range(low + 1, high).map(kernelAt),
  };
}

/** One of several modules that fails makes the kernel bad. */
export function answerOf(cells: readonly CellResult[]): Answer {
  if (cells.some(({ verdict }) => verdict === 'failed')) return 'bad';
  if (cells.some(({ verdict }) => verdict === 'error')) return 'untested';
  return cells.some(({ verdict }) => verdict === 'built') ? 'good' : 'untested';
}

/** An end that cannot be used. When it has no answer, whose fault that is stays. */
export function endError(
  end: 'good' | 'bad',
  kernel: string,
  answer: Answer,
  cells: readonly CellResult[],
): Dkms2binError {
  const cell = cells.find(({ verdict }) => verdict !== 'built') ?? cells[0];
  const reason = cell?.reason == null ? '' : `: ${cell.reason}`;
  if (answer !== 'untested') {
    const says = answer === 'bad' ? `the module fails there${reason}` : 'the module builds there';
    const other =
      end === 'good' ? 'an older kernel, for which it builds' : 'a newer kernel, for which it fails';
    return new Dkms2binError('usage', `--${end} ${kernel}: ${says}`, { hint: `Give ${other}.` });
  }
  const fault = cell?.verdict === 'error' ? (cell.fault ?? 'transient') : 'usage';
  return new Dkms2binError(fault, `--${end} ${kernel} gives no answer${reason}`, {
    hint:
      fault === 'usage'
        ? 'Give another kernel: the module is not for this one.'
        : 'Try again, or give another kernel.',
  });
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: Math.max(0, to - from) }, (_, index) => from + index);

/** Of two that are equally near the older one. */
function nearestTo(middle: number, indexes: readonly number[]): number | undefined {
  return [...indexes].sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle) || a - b)[0];
}
