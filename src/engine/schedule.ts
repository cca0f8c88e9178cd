import { hostname } from 'node:os';
import PQueue from 'p-queue';
import type { PlannedCell } from './plan/types.js';
import type { CellRunner } from './cells.js';
import type { ExecutorContext } from './executor.js';

/**
 * What builds the cells.
 * @internal
 */
export type Runner = Pick<CellRunner, 'known' | 'warm' | 'build'>;

/** What a schedule works with. */
interface ScheduleMeans {
  /** Places for VMs. */
  jobs: number;
  runner: Runner;
  /** Aborts the context's signal. */
  stop: AbortController;
}

/** Before all cells. */
const FIRST = Number.MAX_SAFE_INTEGER;

/**
 * Cells wait, without taking up a VM's place, until the layer of their kernel is made; the longest of them go first. Layers
 * are made in such a place too, one for each kernel, and only as far ahead as is needed to have cells ready.
 */
export class Schedule {
  readonly #queue: PQueue;
  readonly #kernels: PlannedCell[][];
  /** Kernels whose layer is being made. */
  #making = 0;
  /** Cells that could begin. */
  #ready = 0;
  #failure: { error: unknown } | null = null;

  constructor(
    cells: readonly PlannedCell[],
    private readonly means: ScheduleMeans,
    private readonly context: ExecutorContext,
  ) {
    this.#queue = new PQueue({ concurrency: means.jobs });
    const kernels = new Map<string, PlannedCell[]>();
    for (const cell of cells) {
      const key = `${cell.distro} ${cell.kernel}`;
      kernels.set(key, [...(kernels.get(key) ?? []), cell]);
    }
    this.#kernels = [...kernels.values()];
  }

  /** Rejects with the first fault that is not a cell's own, when all that ran has ended. */
  async done(): Promise<void> {
    this.#feed();
    await this.#queue.onIdle();
    if (this.#failure) throw this.#failure.error;
  }

  #feed(): void {
    const { jobs } = this.means;
    while (this.#making < jobs && this.#ready < 2 * jobs) {
      const cells = this.#kernels.shift();
      if (!cells) return;
      this.#making += 1;
      this.#add(FIRST, () => this.#kernel(cells));
    }
  }

  #add(priority: number, work: () => Promise<void>): void {
    const guarded = async (): Promise<void> => {
      if (this.context.signal.aborted) return;
      try {
        await work();
      } catch (error) {
        this.#failure ??= { error };
        this.means.stop.abort();
      }
    };
    void this.#queue.add(guarded, { priority });
  }

  async #kernel(cells: readonly PlannedCell[]): Promise<void> {
    const { runner } = this.means;
    const left: PlannedCell[] = [];
    for (const cell of cells) {
      const done = await runner.known(cell, this.context);
      if (done) await this.context.ended(cell, done);
      else left.push(cell);
    }
    const [first] = left;
    if (first) await runner.warm(first.target);
    this.#making -= 1;
    for (const cell of left) {
      this.#ready += 1;
      // What was never built may be the longest of all.
      this.#add(this.context.expectedSeconds(cell) ?? FIRST - 1, () => this.#cell(cell));
    }
    this.#feed();
  }

  async #cell(cell: PlannedCell): Promise<void> {
    this.#ready -= 1;
    this.#feed();
    this.context.begun(cell, hostname());
    const done = await this.means.runner.build(cell, this.context);
    if (done) await this.context.ended(cell, done);
  }
}
