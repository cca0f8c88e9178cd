import type { Booted } from '../environment/boot.js';

/** A VM that boots while other work goes on. Disposing it ends the VM, also one that has not booted yet. */
export class PrebootedVm implements AsyncDisposable {
  #booting: Promise<Booted> | undefined;

  constructor(private readonly boot: () => Promise<Booted>) {}

  start(): Promise<Booted> {
    if (!this.#booting) {
      this.#booting = this.boot();
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
