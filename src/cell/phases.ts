import type { Emit } from '../model/events.js';
import type { CellStage } from '../model/stages.js';

/** Does a phase's work, told as events, and adds its wall seconds to those that the phase has taken so far. */
export type Phase = <T>(name: CellStage, work: () => Promise<T>) => Promise<T>;

export function phaseTimer(phases: Record<string, number>, emit: Emit, cell: string): Phase {
  return async (name, work) => {
    const started = performance.now();
    emit({ type: 'phase', state: 'start', phase: name, cell });
    try {
      return await work();
    } finally {
      const seconds = (performance.now() - started) / 1000;
      phases[name] = (phases[name] ?? 0) + seconds;
      emit({ type: 'phase', state: 'end', phase: name, cell, seconds });
    }
  };
}
