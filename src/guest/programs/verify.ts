import type { Guest, ScriptRun } from '../guest.js';
import { valuesOf, whyOf } from '../protocol.js';
import { howItLoads, readLoadEnd, type Load } from './load.js';

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
export interface Verification {
  loads: ReadonlyMap<string, Load>;
  /** Why the packages as a whole are bad, though all modules may have loaded; null when they are good. */
  failure: string | null;
  /** What the program itself named as the error. */
  error: string | null;
}

/** Installs the packages, loads their modules and removes them again. Throws `transient` when that could not be tried. */
export async function verifyPackages(
  guest: Guest,
  order: VerifyOrder,
  run: ScriptRun,
): Promise<Verification> {
  const output = await guest.script(
    'verify.py',
    {
      PACKAGES: order.packages.map(({ file, bytes, package: name }) => [file, bytes.length, name]),
      MODULES: order.modules,
      NEEDS: order.needs,
      RELEASE: order.release,
      MANAGER: order.packageManager,
    },
    { ...run, input: Buffer.concat(order.packages.map(({ bytes }) => bytes)) },
  );
  const end = readLoadEnd(output, ['DONE', 'BAD', 'NOT_INSTALLED', 'LEFT_BEHIND'], (why) => ({
    message: `The verify VM could not test the package: ${why}`,
  }));
  return {
    loads: new Map(order.modules.map((name) => [name, howItLoads(output, name)])),
    failure: end === 'DONE' ? null : whyOf(output),
    error: valuesOf(output, 'error')[0] ?? null,
  };
}
