import { z } from 'zod';
import { Dkms2binError } from '../../model/errors.js';
import { nonsense, type Guest, type Report } from '../guest.js';
import { valuesOf, type EndName } from '../protocol.js';
import { howItLoads, readLoadEnd, runLoads, type Load, type LoadRun, type Loads } from './load.js';

export interface ProveOrder {
  release: string;
  packageManager: 'apt' | 'dnf';
  /** Of the repository, as the guest reaches it. */
  url: string;
  /** Text for sources.list.d or yum.repos.d. */
  sources: string;
  /** Where apt gets the repository's key, and where it belongs; '' for a repository that is not signed. */
  keyUrl: string;
  keyring: string;
  packages: readonly string[];
}

export interface InstalledPackage {
  name: string;
  version: string;
  /** How its modules met the kernel; most packages have none. */
  loads: Load[];
}

/**
 * Installs packages of a repository in a machine without a toolchain and loads their modules; resolves with all packages that
 * came. Throws `module` when the package manager does not take them, `usage` when the machine has a toolchain.
 */
export async function proveRepository(
  guest: Guest,
  order: ProveOrder,
  run: LoadRun,
): Promise<InstalledPackage[]> {
  const vars = {
    RELEASE: order.release,
    MANAGER: order.packageManager,
    URL: order.url,
    SOURCES: order.sources,
    KEY_URL: order.keyUrl,
    KEYRING: order.keyring,
    PACKAGES: order.packages,
  };
  const known = (name: string, reports: readonly Report[]): boolean =>
    installedOf(reports).some(([, , modules]) => modules.includes(name));
  const { output, reports, ...loads } = await runLoads(guest, { name: 'prove.py', vars, known }, run);
  if (output !== null && loads.broke === null) readLoadEnd(output, ['DONE', 'BAD'], describe);
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
      return { message: `A toolchain came along with the packages: ${why}` };
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
