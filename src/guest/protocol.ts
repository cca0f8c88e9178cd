import { Dkms2binError, type Fault } from '../model/errors.js';
import type { GuestOutput, Report } from './guest.js';

interface ProgramEnd {
  /** In cloud-init/guest/lib/exit-codes.sh with `E_` in front. */
  name: string;
  /** Whose fault it is; null: nobody's. */
  fault: Fault | null;
  meaning: string;
}

/**
 * How a program in a guest can end, by its exit code; the guest's side is cloud-init/guest/lib/exit-codes.sh. A code that is
 * not here is the program's own death: `transient`.
 * @internal
 */
export const PROGRAM_ENDS = {
  0: { name: 'DONE', fault: null, meaning: 'all is done' },
  // What Python and bash end with when they break: only result lines can make it a module's fault.
  1: { name: 'BAD', fault: 'transient', meaning: 'a module failed, as the result lines say' },
  2: { name: 'INPUT', fault: 'usage', meaning: 'a variable or a file that cannot be used' },
  3: { name: 'NOT_FOUND', fault: 'not-found', meaning: 'the package sources do not have it' },
  4: { name: 'NO_MODULE', fault: 'module', meaning: 'no DKMS module in the package' },
  5: { name: 'NETWORK', fault: 'transient', meaning: 'a mirror or a connection did not deliver' },
  6: { name: 'NOBODYS', fault: 'transient', meaning: 'a module ended in an error that is not its own' },
  7: { name: 'NOT_INSTALLED', fault: 'module', meaning: 'a package does not install' },
  // The disk of a VM, whose size its image gives: nothing is wrong with this host, where no freed space would help, and a
  // worker of the queue must not stop taking cells for it. A fault of the guest, like running out of memory.
  8: { name: 'DISK_FULL', fault: 'transient', meaning: "the guest's disk is full" },
  9: {
    name: 'PACKAGE_MANAGER',
    fault: 'transient',
    meaning: 'the package manager failed for another reason',
  },
  10: { name: 'INITRAMFS', fault: 'transient', meaning: 'the initramfs could not be made' },
  11: { name: 'LEFT_BEHIND', fault: 'module', meaning: 'removing a package left something behind' },
  12: { name: 'TOOLCHAIN', fault: 'usage', meaning: 'the machine has a toolchain and should have none' },
  13: { name: 'TOOLCHAIN_CAME', fault: 'module', meaning: 'a toolchain came along with the packages' },
  14: { name: 'LACKS', fault: 'module', meaning: 'the repository alone lacks what its packages depend on' },
  20: { name: 'OTHER_KERNEL', fault: 'transient', meaning: 'the guest runs another kernel' },
  21: { name: 'NO_HEADERS', fault: 'transient', meaning: 'no headers for the kernel' },
} as const satisfies Record<number, ProgramEnd>;

export type EndName = (typeof PROGRAM_ENDS)[keyof typeof PROGRAM_ENDS]['name'];
type Code = keyof typeof PROGRAM_ENDS;

const isCode = (code: number): code is Code => Object.hasOwn(PROGRAM_ENDS, code);

/** What a program says went wrong: its `error` line, else the last lines that it printed. */
export function whyOf({ reports, tail }: GuestOutput): string {
  return reports.find(({ key }) => key === 'error')?.value ?? tail.split('\n').slice(-3).join('\n');
}

/** Values of a program's result lines with this key, in order. */
export function valuesOf({ reports }: { reports: readonly Report[] }, key: string): string[] {
  return reports.filter((report) => report.key === key).map(({ value }) => value);
}

/**
 * How a program ended, when that is one of `expected`. Throws for every other end, with the fault that the table gives it;
 * `describe` finds the words, from what the program says went wrong.
 */
export function readEnd<Expected extends EndName>(
  output: GuestOutput,
  expected: readonly Expected[],
  describe: (why: string, end: EndName | null) => { message: string; hint?: string | undefined },
): Expected {
  const end = isCode(output.code) ? PROGRAM_ENDS[output.code] : null;
  const met = expected.find((name) => name === end?.name);
  if (met !== undefined) return met;
  const { message, hint } = describe(whyOf(output), end?.name ?? null);
  throw new Dkms2binError(end?.fault ?? 'transient', message, hint === undefined ? {} : { hint });
}

/** For a program without exit codes of its own: every failure is `transient`, and `what` says what did not happen. */
export function requireSuccess({ code, tail }: GuestOutput, what: string): void {
  if (code !== 0) throw new Dkms2binError('transient', `${what}:\n${tail}`);
}
