import type { PackageForm } from '../../distro/row.js';
import { Dkms2binError } from '../../model/errors.js';
import { wordsOf } from '../../model/forms.js';
import { requireAskedFor } from './delivery.js';
import type { Outstanding, QueuedJob } from './lanes.js';
import { isNonsense, parseDelivery, type Delivery } from './protocol.js';

/** How a job stands, by what Redis holds of it, which is not believed. */
export type Standing =
  | { is: 'gone' }
  | { is: 'nonsense' }
  | { is: 'open' | 'failed'; job: QueuedJob }
  | { is: 'delivered'; job: QueuedJob; delivery: Delivery }
  | { is: 'refused'; job: QueuedJob; why: string };

/** `form` is that of the packages that its cells make. */
export async function standingOf(
  { lane, job: { id, data } }: Outstanding,
  form: PackageForm,
): Promise<Standing> {
  let job: QueuedJob | undefined;
  try {
    job = await lane.find(id);
  } catch (error) {
    if (!isNonsense(error)) throw error;
    return { is: 'nonsense' };
  }
  if (!job) return { is: 'gone' };
  if (job.finishedOn === undefined) return { is: 'open', job };
  // A reason may be of an earlier try.
  if (job.returnvalue === null) return { is: 'failed', job };
  try {
    const delivery = parseDelivery(job.returnvalue);
    requireAskedFor(delivery, data, form);
    return { is: 'delivered', job, delivery };
  } catch (error) {
    if (!(error instanceof Dkms2binError)) throw error;
    return { is: 'refused', job, why: error.message };
  }
}

/** Why a job failed, in words. */
export function reasonOf({ failedReason }: { failedReason?: string }): string {
  return wordsOf(failedReason ?? '').slice(0, 16 * 1024) || 'The cell failed without a reason';
}
