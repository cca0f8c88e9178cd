import type { Booted } from '../environment/boot.js';

/** A VM that boots while other work goes on. Disposing it ends the VM, also one that has not booted yet; then `start` boots a new one. */
export class PrebootedVm implements AsyncDisposable {
  #booting: Promise<Booted> | undefined;

  #boots = 0;

  /** `boot` is told how often there was one before: the second one of a folder would find the first one's console. */
  constructor(private readonly boot: (before: number) => Promise<Booted>) {}

  start(): Promise<Booted> {
    if (!this.#booting) {
      this.#booting = this.boot(this.#boots++);
      // Whoever asks for the VM hears of it; nobody may.
      this.#booting.catch(() => undefined);
    }
    return this.#booting;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const booting = this.#booting;
    this.#booting = undefined;
    const booted = await booting?.catch(() => null);
    await booted?.[Symbol.asyncDispose]();
  }
}
