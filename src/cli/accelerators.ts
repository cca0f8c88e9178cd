import { probeAccelerators } from '../vm/accel.js';

export interface AcceleratorReport {
  /** The one that `auto` takes; null when none works. */
  chosen: string | null;
  reason: string;
  candidates: { name: string; usable: boolean; figure: string }[];
}

/** Both measurements in words. Rejects with fault `host` when QEMU runs no guest at all. */
export async function acceleratorReport(context: { signal: AbortSignal }): Promise<AcceleratorReport> {
  const report = await probeAccelerators({ signal: context.signal });
  const figure = (side: { seconds?: number; cpu?: string; error?: string }): string =>
    side.seconds === undefined
      ? `cannot be used: ${side.error ?? 'unknown'}`
      : `${side.seconds} s for the probe guest (-cpu ${side.cpu ?? 'default'})`;
  return {
    chosen: report.chosen,
    reason: `${report.reason}${report.cached ? ' (measured earlier in this boot)' : ''}`,
    candidates: [
      { name: 'kvm', usable: report.kvm.seconds !== undefined, figure: figure(report.kvm) },
      { name: 'tcg', usable: report.tcg.seconds !== undefined, figure: figure(report.tcg) },
    ],
  };
}
