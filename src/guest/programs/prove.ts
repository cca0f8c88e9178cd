import { z } from 'zod';
import { Dkms2binError } from '../../model/errors.js';
import { nonsense, type Guest, type Report, type ScriptRun } from '../guest.js';
import { readEnd, valuesOf, whyOf, type EndName } from '../protocol.js';
import {
  howItLoads,
  readLoadEnd,
  runLoads,
  SILENCE_MS,
  type Load,
  type LoadRun,
  type Loads,
} from './load.js';

export interface ProveOrder {
  release: string;
  packageManager: 'apt' | 'dnf';
  /** Of the repository, as the guest reaches it. */
  host: string;
  /** Text for sources.list.d or yum.repos.d. */
  sources: string;
  /** Where apt gets the repository's key, and where it belongs; '' for a repository that is not signed. */
  keyUrl: string;
  keyring: string;
  packages: readonly string[];
}

/** For the distro's own package sources. */
export interface Egress {
  /** '' for none. */
  proxy: string;
  /** Certificates of further authorities that vouch for them, PEM; empty for none. */
  authorities: Buffer;
}

export interface InstalledPackage {
  name: string;
  version: string;
  /** How its modules met the kernel; most packages have none. */
  loads: Load[];
}

/** What the repository alone lacks: the package manager's own words. */
export interface Lacks {
  lacks: string;
}

const variablesOf = (
  order: ProveOrder,
  step: 'alone' | 'fetch' | 'install',
  { proxy, authorities }: Egress,
) => ({
  ...{ RELEASE: order.release, STEP: step, MANAGER: order.packageManager, HOST: order.host },
  ...{ SOURCES: order.sources, KEY_URL: order.keyUrl, KEYRING: order.keyring, PACKAGES: order.packages },
  ...{ PROXY: proxy, AUTHORITIES: authorities.length },
});

const CLOSED: Egress = { proxy: '', authorities: Buffer.alloc(0) };

/**
 * Has the package manager download packages of a repository, and from the machine's own sources what they depend on. Throws `module`
 * when it does not take them or a toolchain would come along, `usage` when the machine has a toolchain.
 */
export async function fetchPackages(
  guest: Guest,
  order: ProveOrder,
  { egress, ...run }: ScriptRun & { egress: Egress },
): Promise<void> {
  const vars = { ...variablesOf(order, 'fetch', egress), HANG: 0 };
  readEnd(
    await guest.script('prove.py', vars, { silenceMs: SILENCE_MS, ...run, input: egress.authorities }),
    ['DONE'],
    describe,
  );
}

/**
 * Installs packages of a repository in a machine without a toolchain and loads their modules; resolves with all packages that
 * came. `alone` takes nothing from anywhere else, and resolves with what it lacks where that is not enough; `install` takes what
 * `fetchPackages` brought. Throws `module` when the package manager does not take them, `usage` when the machine has a toolchain.
 */
export async function proveRepository(
  guest: Guest,
  order: ProveOrder,
  { step, ...run }: LoadRun & { step: 'alone' | 'install' },
): Promise<InstalledPackage[] | Lacks> {
  const vars = variablesOf(order, step, CLOSED);
  const known = (name: string, reports: readonly Report[]): boolean =>
    installedOf(reports).some(([, , modules]) => modules.includes(name));
  const { output, reports, ...loads } = await runLoads(guest, { name: 'prove.py', vars, known }, run);
  if (output !== null && loads.broke === null) {
    const end = readLoadEnd(output, ['DONE', 'BAD', 'LACKS'], describe);
    if (end === 'LACKS') return { lacks: whyOf(output) };
  }
  return readInstalledPackages(reports, loads);
}

const REPUBLISH = 'If the folder has changed since it was published, publish it again: dkms2bin repo.';

function describe(why: string, end: EndName | null): { message: string; hint?: string } {
  switch (end) {
    case 'NOT_INSTALLED':
      return { message: `The packages do not install from the repository: ${why}`, hint: REPUBLISH };
    case 'LEFT_BEHIND':
      return { message: `The machine does not survive the packages: ${why}` };
    case 'TOOLCHAIN':
      return {
        message: `The image already contains a toolchain, so it proves nothing about a machine without one: ${why}`,
        hint: 'Use the official image or --image bootstrap.',
      };
    case 'TOOLCHAIN_CAME':
      return { message: `A toolchain comes along with the packages: ${why}` };
    default:
      return { message: `The VM could not test the packages: ${why}` };
  }
}

/** Package, version, and its modules with commas between. */
const INSTALLED = z.tuple([
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9+._-]*$/),
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9+._~:^,-]*$/),
  z
    .string()
    .regex(/^[A-Za-z0-9_.,+-]*$/)
    .default('')
    .transform((text) => text.split(',').filter((module) => module !== '')),
]);

const installedOf = (reports: readonly Report[]): z.infer<typeof INSTALLED>[] =>
  valuesOf({ reports }, 'installed').flatMap((value) => {
    const [name, version, modules] = value.split(' ');
    const row = INSTALLED.safeParse([name, version, modules]);
    return row.success ? [row.data] : [];
  });

function readInstalledPackages(reports: readonly Report[], loads: Loads): InstalledPackage[] {
  const installed = installedOf(reports);
  const names = installed.map(([name]) => name);
  const twice = names.find((name, at) => names.indexOf(name) < at);
  if (twice !== undefined) throw nonsense({ key: 'installed', value: `${twice} again` });
  if (!installed.some(([, , modules]) => modules.length > 0)) {
    throw new Dkms2binError('module', 'The packages install, but there is no kernel module in them');
  }
  const { broke } = loads;
  const of = (module: string): Load => {
    const load = howItLoads(loads, module);
    if (load.how !== 'missing' || broke === null) return load;
    return { ...load, why: `not tried: the kernel did not survive ${broke}` };
  };
  return installed.map(([name, version, modules]) => ({ name, version, loads: modules.map(of) }));
}
