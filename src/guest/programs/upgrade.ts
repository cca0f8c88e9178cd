import { z } from 'zod';
import { nonsense, type Guest, type Report } from '../guest.js';
import { readEnd, valuesOf, type EndName } from '../protocol.js';
import { howItLoads, readLoadEnd, runLoads, type Load, type LoadRun } from './load.js';
import type { Egress } from './prove.js';

/** The steps of a machine's way to its next kernel, in this order; it restarts before the last. */
export type UpgradeStep = 'fetch' | 'install' | 'hold' | 'upgrade' | 'leave';

export interface UpgradeOrder extends Egress {
  from: string;
  to: string;
  /** The distro's kernel metapackage, and its versions that lead to the two; `fromVersion` is '' where no archive has it. */
  meta: string;
  fromVersion: string;
  toVersion: string;
  /** Of the repository, as the guest's apt reaches it. */
  host: string;
  sources: string;
  keyUrl: string;
  keyring: string;
  /** Our metapackages. */
  packages: readonly string[];
  /** Packages of modules for both kernels. */
  modules: readonly { from: string; to: string }[];
}

export interface StepResult {
  /** What came, and how its modules met the kernel. */
  installed: { name: string; version: string; modules: string[] }[];
  loads: Load[];
  /** What each kind of upgrade did with the kernel. */
  held: { how: string; kept: boolean; said: string }[];
  removed: string[];
  /** Versions of kernel metapackages that no archive has any more, so that one like it was made. */
  made: string[];
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9+._-]*$/;
const INSTALLED = z.tuple([
  z.string().regex(NAME),
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9+._~:^,-]*$/),
  z
    .string()
    .regex(/^[A-Za-z0-9_.,+-]*$/)
    .default('')
    .transform((text) => text.split(',').filter((module) => module !== '')),
]);

/** Takes one step. Throws `module` when the packages do not do what they should, `not-found` for a kernel that the archive lacks. */
export async function takeStep(
  guest: Guest,
  step: UpgradeStep,
  order: UpgradeOrder,
  { moduleNames, ...run }: LoadRun & { moduleNames: readonly string[] },
): Promise<StepResult> {
  const vars = {
    ...{ RELEASE: step === 'leave' ? order.to : order.from, STEP: step, FROM: order.from, TO: order.to },
    ...{ META: order.meta, FROM_META: order.fromVersion, TO_META: order.toVersion },
    ...{ HOST: order.host, SOURCES: order.sources, KEY_URL: order.keyUrl, KEYRING: order.keyring },
    ...{ PACKAGES: order.packages, PROXY: order.proxy, AUTHORITIES: order.authorities.length },
    MODULES: order.modules.flatMap(({ from, to }) => [from, to]),
  };
  const known = (name: string, reports: readonly Report[]): boolean =>
    moduleNames.includes(name) || installedOf(reports).some(({ modules }) => modules.includes(name));
  const { output, reports, ...loads } = await runLoads(
    guest,
    { name: 'upgrade.py', vars, known },
    { ...run, input: order.authorities },
  );
  const held = heldOf(reports);
  if (output !== null) {
    // What did not hold is told in its place.
    if (step === 'hold' && held.some(({ kept }) => !kept)) readEnd(output, ['BAD'], describe);
    else if (loads.broke === null) readLoadEnd(output, ['DONE', 'BAD'], describe);
  }
  const installed = installedOf(reports);
  const names = new Set([...moduleNames, ...installed.flatMap(({ modules }) => modules)]);
  const tried = [...names].filter((name) => loads.loads.has(name));
  return {
    ...{ installed, held },
    loads: tried.map((name) => howItLoads(loads, name)),
    removed: valuesOf({ reports }, 'removed').filter((name) => NAME.test(name)),
    made: valuesOf({ reports }, 'made'),
  };
}

function describe(why: string, end: EndName | null): { message: string; hint?: string } {
  switch (end) {
    case 'NOT_INSTALLED':
    case 'LEFT_BEHIND':
      return { message: `The machine does not get to its next kernel: ${why}` };
    case 'NOT_FOUND':
      return {
        message: `The next kernel cannot be offered: ${why}`,
        hint: 'Choose kernels that dkms2bin kernels lists.',
      };
    default:
      return { message: `The VM could not try the upgrade: ${why}` };
  }
}

const installedOf = (reports: readonly Report[]): StepResult['installed'] =>
  valuesOf({ reports }, 'installed').flatMap((value) => {
    const row = INSTALLED.safeParse(value.split(' ').slice(0, 3));
    if (!row.success) throw nonsense({ key: 'installed', value });
    const [name, version, modules] = row.data;
    return [{ name, version, modules }];
  });

const heldOf = (reports: readonly Report[]): StepResult['held'] =>
  valuesOf({ reports }, 'held').map((value) => {
    const [how = '', verdict, ...said] = value.split(' ');
    return { how: how.replaceAll('+', ' '), kept: verdict === 'kept', said: said.join(' ') };
  });
