import { hostname } from 'node:os';
import PQueue from 'p-queue';
import type { PlannedCell } from './plan/types.js';
import type { CellRunner, CellTurn } from './cells.js';
import type { ExecutorContext } from './executor.js';

/** What builds the cells. */
export type Runner = Pick<CellRunner, 'known' | 'warm' | 'build'>;

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
    private readonly jobs: number,
    private readonly runner: Runner,
    private readonly context: ExecutorContext,
    /** Aborts the context's signal. */
    private readonly stop: AbortController,
  ) {
    this.#queue = new PQueue({ concurrency: jobs });
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
    while (this.#kernels.length > 0 && this.#making < this.jobs && this.#ready < 2 * this.jobs) {
      const cells = this.#kernels.shift()!;
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
        this.stop.abort();
      }
    };
    void this.#queue.add(guarded, { priority });
  }

  async #kernel(cells: readonly PlannedCell[]): Promise<void> {
    const left: PlannedCell[] = [];
    for (const cell of cells) {
      const done = await this.runner.known(cell, this.#turn());
      if (done) await this.context.ended(cell, done);
      else left.push(cell);
    }
    if (left.length > 0) await this.runner.warm(left[0]!.target);
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
    const done = await this.runner.build(cell, this.#turn());
    if (done) await this.context.ended(cell, done);
  }

  #turn(): CellTurn {
    return { emit: this.context.emit, signal: this.context.signal };
  }
}
