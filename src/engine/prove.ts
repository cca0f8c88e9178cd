import type { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import type { KernelTarget } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { Cost, ModuleProof, Proof, Saving } from '../model/proof.js';
import { cacheDir } from '../lib/paths.js';
import { kernelPackages } from '../distro/packages.js';
import type { DistroRow } from '../distro/row.js';
import { findDkmsPackage } from '../distro/dkms-package.js';
import {
  fetchPackages,
  proveRepository,
  type InstalledPackage,
  type Lacks,
  type ProveOrder,
} from '../guest/programs/prove.js';
import type { Guest, ScriptRun } from '../guest/guest.js';
import { distroEgress } from '../environment/guest-proxy.js';
import { debName } from '../distro/deb-names.js';
import { provenancePath, readBundle } from '../attest/provenance.js';
import { keyIdOf } from '../formats/certificate.js';
import {
  kernelsOf,
  modulesFor,
  serveRepository,
  sourcesFor,
  type Offer,
  type OfferedPackage,
} from '../repo/index.js';
import { NET, type Network } from '../vm/args.js';
import { forwardTo } from '../vm/forward.js';
import { phaseTimer } from '../cell/phases.js';
import { bootEnforcing } from '../environment/enforcing.js';
import type { Booted, Machine } from '../environment/boot.js';
import { AS_LONG_AS_IT_TAKES_MS } from '../guest/transport.js';
import { RunDir } from '../cell/run-dir.js';
import { bootOn, type KernelEnvironment } from '../environment/snapshot.js';
import type { Lookup } from '../cell/source.js';

export interface ProveInput {
  /** The repository: its folder, absolute, and what it offers. */
  dir: string;
  offer: Offer;
  packages: readonly OfferedPackage[];
  target: KernelTarget;
  /** Of the variant `runtime`. */
  environment: KernelEnvironment;
  /** Null, or what the machine's kernel trusts: then it loads no module without a signature. */
  certificate: X509Certificate | null;
  /** A module that the kernel warns of has failed. */
  strict: boolean;
  lookup: Lookup;
  machine: Machine;
}

/**
 * The packages of modules for a kernel, all or those of `modules`, which are named as in `acpi_call`, `acpi-call` or
 * `acpi-call-modules-<kernel>`, or are other packages of the repository that bring them, such as its metapackages. Throws
 * `not-found` naming what the repository has.
 */
export function choosePackages(offer: Offer, release: string, modules: readonly string[]): OfferedPackage[] {
  const offered = modulesFor(offer, release);
  if (offered.size === 0) {
    const kernels = kernelsOf(offer);
    throw new Dkms2binError('not-found', `The repository has no module package for ${release}`, {
      hint: kernels.length > 0 ? `It has some for: ${kernels.join(', ')}` : 'It has none at all.',
    });
  }
  if (modules.length === 0) return [...offered.values()];
  const all = [...offered.values(), ...offer.packages];
  return modules.map((module) => {
    const found = offered.get(debName(module)) ?? all.find(({ name }) => name === module);
    if (found) return found;
    throw new Dkms2binError('not-found', `The repository has no package of ${module} for ${release}`, {
      hint: `It has: ${[...offered.keys()].join(', ')}`,
    });
  });
}

/** The package manager that takes a repository's packages on a machine of the distro. Throws fault `usage` when none does. */
export function proverOf(row: DistroRow, packages: readonly OfferedPackage[]): 'apt' | 'dnf' {
  const { packageManager: manager = 'apt' } = row;
  if (manager === 'zypper') {
    throw new Dkms2binError(
      'usage',
      `Packages for ${row.id} cannot be proved yet: prove supports apt and dnf only`,
    );
  }
  const form = manager === 'apt' ? 'deb' : 'rpm';
  const other = packages.find((each) => each.form !== form);
  if (!other) return manager;
  throw new Dkms2binError('usage', `${row.id} uses no .${other.form} packages, such as ${other.name}`, {
    hint: `Build with --distro ${row.id}, or prove on the distro that the package is for.`,
  });
}

/**
 * Installs packages of a repository with the distro's package manager in a machine that has no toolchain, and loads their
 * modules. Throws fault `module` when the package manager does not take the repository or a package, `usage` when the
 * machine's image has a toolchain.
 */
export async function prove(input: ProveInput): Promise<Proof> {
  const { dir, offer, target, certificate, strict, machine } = input;
  const phases: Record<string, number> = {};
  const came = await install(input, phases);
  if (came.every(({ loads }) => loads.length === 0)) {
    const names = input.packages.map(({ name }) => name).join(', ');
    throw new Dkms2binError('module', `${names}: installed, but no kernel module came with it`);
  }
  const offered = new Set(offer.packages.map(({ name, version }) => `${name} ${version}`));
  return {
    kernel: target.release,
    distro: target.distro,
    accelerator: machine.accel,
    repository: dir,
    signedBy: offer.signedBy,
    pristine: true,
    enforced: certificate && keyIdOf(certificate),
    installed: came.map(({ name, version }) => ({ package: name, version })),
    fromDistro: came.filter((each) => !offered.has(`${each.name} ${each.version}`)).map(({ name }) => name),
    modules: came.flatMap(({ name, version, loads }) =>
      loads.map(({ name: module, how, why, warnings }): ModuleProof => ({
        package: name,
        version,
        module,
        verdict: (how === 'loaded' || how === 'refused') && !(strict && warnings.length > 0) ? how : 'failed',
        reason:
          [why, ...warnings.map((each) => `the kernel warns: ${each}`)]
            .filter((each) => each !== '')
            .join('; ') || null,
      })),
    ),
    saved: await savingOf(input, came),
    phases,
  };
}

/**
 * What was installed, from the repository alone where that is enough; else in a second machine, with what the packages need of the
 * distro's own sources.
 */
async function install(input: ProveInput, phases: Record<string, number>): Promise<InstalledPackage[]> {
  const { dir, packages, target, lookup, machine } = input;
  const order = orderOf(input, proverOf(lookup.row, packages));
  const label = `prove ${target.release}`;
  const phase = phaseTimer(phases, machine.emit, label);
  const timeoutMs = AS_LONG_AS_IT_TAKES_MS;
  const onLine = (line: string): void => machine.emit({ type: 'output', cell: label, line });
  const run = await RunDir.create({ cell: label, kernel: target.release, distro: target.distro });
  try {
    await using served = await serveRepository(dir);
    const port = Number(new URL(served.url).port);
    const inVm = async (step: 'alone' | 'install'): Promise<InstalledPackage[] | Lacks> => {
      const network = step === 'alone' ? 'none' : 'egress';
      await using booted = await phase('boot', () => boot(input, network, join(run.dir, step)));
      const { guest, vm } = booted;
      using _ = forwardTo(port, vm.forwardSocket);
      if (step === 'install') {
        await phase('fetch', () => fetchFromDistro(input, guest, { order, timeoutMs, onLine }));
        // Nothing of the packages has run yet.
        await vm.cutEgress();
      }
      const { accel } = machine;
      const lastWords = (): string => vm.lastWords();
      // Awaited here: the VM ends with this block.
      return await phase('install', () =>
        proveRepository(guest, order, { step, timeoutMs, accel, onLine, lastWords }),
      );
    };
    const alone = await inVm('alone');
    if (!('lacks' in alone)) return alone;
    if (lookup.offline === true) {
      throw new Dkms2binError(
        'not-found',
        `The repository lacks what its packages depend on: ${alone.lacks}`,
        {
          hint: 'Without --offline it is taken from the package sources of the image, as on a target.',
        },
      );
    }
    const message = `The packages depend on others, which the repository lacks (${alone.lacks}). A second VM takes them from the package sources of its image.`;
    machine.emit({ type: 'note', level: 'info', message, cell: label });
    const came = await inVm('install');
    if ('lacks' in came) throw new Dkms2binError('module', `The packages do not install: ${came.lacks}`);
    return came;
  } finally {
    await run.close();
  }
}

const boot = (
  { environment, certificate, machine }: ProveInput,
  network: Network,
  dir: string,
): Promise<Booted> =>
  certificate
    ? bootEnforcing({ layer: environment.layer, network }, certificate, dir, machine)
    : bootOn(environment, network, dir, machine);

async function fetchFromDistro(
  { lookup, machine }: ProveInput,
  guest: Guest,
  { order, ...run }: ScriptRun & { order: ProveOrder },
): Promise<void> {
  await using egress = await distroEgress(lookup.row, machine);
  await fetchPackages(guest, order, { egress, ...run });
}

/** What the guest is told: where it finds the repository, and what to install from it. */
function orderOf({ offer, packages, target }: ProveInput, manager: 'apt' | 'dnf'): ProveOrder {
  const host = NET.management.forward;
  const { apt, dnf, keyUrl, keyring } = sourcesFor(`http://${host}/`, {
    apt: manager === 'apt',
    dnf: manager === 'dnf',
    signed: offer.signedBy !== null,
  });
  return {
    release: target.release,
    packageManager: manager,
    host,
    sources: apt?.line ?? dnf ?? '',
    keyUrl: keyUrl ?? '',
    keyring,
    packages: packages.map(({ name }) => name),
  };
}

/** What was saved; null when nobody knows what the toolchain takes. */
async function savingOf(input: ProveInput, came: readonly InstalledPackage[]): Promise<Saving | null> {
  const { offer, environment, target } = input;
  const { toolchain } = environment.layer;
  if (!toolchain) return null;
  const takes = sum(
    came.flatMap(({ name, version }) => {
      const found = offer.packages.find((each) => each.name === name && each.version === version);
      return found ? [{ ...found, packages: 1 }] : [];
    }),
  );
  const sources = await sourcesOf(input);
  const instead = sum([toolchain, ...sources]);
  return {
    packages: instead.packages - takes.packages,
    installedBytes: instead.installedBytes - takes.installedBytes,
    downloadBytes: instead.downloadBytes - takes.downloadBytes,
    instead: {
      ...instead,
      of: [
        ...sources.map(({ name }) => name),
        'dkms',
        ...kernelPackages(input.lookup.row, target.release).headers.slice(0, 1),
      ],
    },
    takes,
  };
}

const sum = (costs: readonly Cost[]): Cost => {
  const total = { packages: 0, installedBytes: 0, downloadBytes: 0 };
  for (const each of costs) {
    total.packages += each.packages;
    total.installedBytes += each.installedBytes;
    total.downloadBytes += each.downloadBytes;
  }
  return total;
};

/** The distro's DKMS packages that the provenance beside the packages names, as far as the distro has them now. */
async function sourcesOf({
  dir,
  packages,
  lookup,
  machine,
}: ProveInput): Promise<(Cost & { name: string })[]> {
  const names = new Set<string>();
  for (const { path } of packages) {
    const statements = await readBundle(provenancePath(join(dir, path))).catch((error: unknown) => {
      if (error instanceof Dkms2binError && error.fault === 'usage') return [];
      throw error;
    });
    for (const { cell } of statements) if (cell?.sourcePackage) names.add(cell.sourcePackage);
  }
  const { row, ...where } = lookup;
  const found = await Promise.all(
    [...names].map((name) =>
      findDkmsPackage(row, { name }, { ...where, cacheDir: cacheDir(), signal: machine.signal }).catch(
        (error: unknown) => {
          if (error instanceof Dkms2binError && error.fault === 'not-found') return null;
          throw error;
        },
      ),
    ),
  );
  return found.flatMap((each) =>
    each
      ? [{ name: each.name, packages: 1, installedBytes: each.installedBytes, downloadBytes: each.size }]
      : [],
  );
}
