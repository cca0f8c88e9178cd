import type { Emit } from '../model/events.js';
import type { Stage } from '../model/stages.js';

/** Tells when a step of shared work begins and ends. */
export async function phase<T>(emit: Emit, name: Stage, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  emit({ type: 'phase', state: 'start', phase: name });
  try {
    return await work();
  } finally {
    // Also after a failure: work may go on another way.
    emit({ type: 'phase', state: 'end', phase: name, seconds: (performance.now() - started) / 1000 });
  }
}
