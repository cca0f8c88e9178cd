import { GuestDeath } from '../../model/errors.js';
import type { Guest } from '../guest.js';
import { whyOf } from '../protocol.js';
import { readLoadEnd, runLoads, type LoadRun, type Loads } from './load.js';

export interface VerifyOrder {
  packages: readonly { file: string; package: string; bytes: Buffer }[];
  /** Names as modprobe takes them, in loading order. */
  modules: readonly string[];
  /** Modules of the kernel that those depend on. */
  needs: readonly string[];
  release: string;
  packageManager: string;
}

/** What became of the packages in a VM that never ran the build. */
export interface Verification extends Loads {
  /** Why the packages as a whole are bad, though all modules may have loaded; null when they are good. */
  failure: string | null;
}

/** Installs the packages, loads their modules and removes them again. Throws `transient` when that could not be tried. */
export async function verifyPackages(guest: Guest, order: VerifyOrder, run: LoadRun): Promise<Verification> {
  const vars = {
    PACKAGES: order.packages.map(({ file, bytes, package: name }) => [file, bytes.length, name]),
    MODULES: order.modules,
    NEEDS: order.needs,
    RELEASE: order.release,
    MANAGER: order.packageManager,
  };
  const known = (name: string): boolean => order.modules.includes(name);
  const input = Buffer.concat(order.packages.map(({ bytes }) => bytes));
  try {
    const { loads, broke, output } = await runLoads(
      guest,
      { name: 'verify.py', vars, known },
      { ...run, input },
    );
    if (output === null || broke !== null) return { loads, broke, failure: null };
    const end = readLoadEnd(output, ['DONE', 'BAD', 'NOT_INSTALLED', 'LEFT_BEHIND'], (why) => ({
      message: `The verify VM could not test the package: ${why}`,
    }));
    const whole = end === 'NOT_INSTALLED' || end === 'LEFT_BEHIND';
    return { loads, broke, failure: whole ? whyOf(output) : null };
  } catch (error) {
    // udev may load a module as soon as it is there.
    if (!(error instanceof GuestDeath) || error.how !== 'died') throw error;
    const failure = `the kernel died while the package was being installed or removed: ${error.words || error.message}`;
    return { loads: new Map(), broke: null, failure };
  }
}
