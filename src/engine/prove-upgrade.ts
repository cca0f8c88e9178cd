import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { phaseTimer } from '../cell/phases.js';
import { RunDir } from '../cell/run-dir.js';
import { debName } from '../distro/deb-names.js';
import { offeredKernels } from '../distro/kernels.js';
import type { CatalogueRow } from '../distro/catalogue.js';
import { bootNew, deadline, specOf, type Booted, type Machine } from '../environment/boot.js';
import { AS_LONG_AS_IT_TAKES_MS } from '../guest/transport.js';
import { distroEgress } from '../environment/guest-proxy.js';
import type { KernelLayer } from '../environment/kernel-layer.js';
import { bootOn } from '../environment/snapshot.js';
import { takeStep, type StepResult, type UpgradeOrder, type UpgradeStep } from '../guest/programs/upgrade.js';
import type { KernelTarget } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { UpgradeProof } from '../model/upgrade-proof.js';
import type { BuildRequest } from '../options/request.js';
import { followingOf } from '../pack/metapackage.js';
import { modulesFor, serveRepository, sourcesFor, type Offer } from '../repo/index.js';
import { comparePackageVersions, scan, type DebFile } from '../repo/package-files.js';
import { NET } from '../vm/args.js';
import { forwardTo } from '../vm/forward.js';
import { resolveOptions } from './asking.js';
import { stageAfter, stageBefore, type Followers, type Staged } from './upgrade-stage.js';

export interface UpgradeInput {
  /** The repository: its folder, absolute, and what it offers. */
  dir: string;
  offer: Offer;
  from: KernelTarget;
  to: KernelTarget;
  row: CatalogueRow;
  request: BuildRequest;
  follow: Followers;
  /** Of the variant `runtime`, for the old kernel. */
  layer: KernelLayer;
  machine: Machine;
}

/**
 * The metapackages of the repository that bring modules from one kernel to the next; all or those of `modules`. Throws `not-found`
 * for one that is missing, `usage` when they do not keep the kernel back.
 */
export async function chooseFollowers(
  { dir, offer }: Pick<UpgradeInput, 'dir' | 'offer'>,
  { from, to }: { from: string; to: string },
  { modules, signal }: { modules: readonly string[]; signal: AbortSignal },
): Promise<Followers> {
  const { packages } = await scan(dir, signal);
  const debs = packages
    .filter((each): each is DebFile => each.format === 'deb')
    .sort((a, b) => comparePackageVersions(b, a));
  const [old, next] = [modulesFor(offer, from), modulesFor(offer, to)];
  const wanted = new Set(modules.map(debName));
  const found = debs.flatMap((deb) => {
    const following = followingOf(deb.header.fields);
    const name = following && debName(following.module);
    if (!following || name === undefined || following.release !== to) return [];
    const [before, after] = [old.get(name), next.get(name)];
    if (!before || !after || (wanted.size > 0 && !wanted.has(name))) return [];
    return [{ deb, following, name: deb.name, from: before, to: after }];
  });
  const [first] = found.filter(({ following }) => !following.backports);
  if (!first) {
    throw new Dkms2binError(
      'not-found',
      `No metapackage of the repository brings a module from ${from} to ${to}`,
      {
        hint: 'Build the module for both kernels, the newer one being what the distro leads to now, and publish: dkms2bin repo.',
      },
    );
  }
  if (!first.deb.header.fields.some(({ key }) => key === 'breaks')) {
    throw new Dkms2binError('usage', `${first.name} was published with --no-hold: it keeps no kernel back`, {
      hint: 'Publish the repository without --no-hold to prove that.',
    });
  }
  const { meta, upTo } = first.following;
  const same = found.filter(({ following }) => following.meta === meta && !following.backports);
  // The newest version of each comes first.
  const newest = same.filter((each, at) => same.findIndex(({ name }) => name === each.name) === at);
  return { meta, toVersion: upTo, each: newest };
}

/** Walks a machine from one kernel to the next. Throws fault `module` where apt does not take what it should. */
export async function proveUpgrade(input: UpgradeInput): Promise<UpgradeProof> {
  const { from, to, layer, machine, follow, offer } = input;
  const label = `prove ${from.release} → ${to.release}`;
  const phases: Record<string, number> = {};
  const phase = phaseTimer(phases, machine.emit, label);
  const stage = await mkdtemp(join(tmpdir(), 'dkms2bin-upgrade-'));
  const run = await RunDir.create({ cell: label, kernel: from.release, distro: from.distro });
  const staged: Staged = { dir: input.dir, offer, follow, from: from.release, to: to.release, stage };
  const fromVersion = await versionBefore(input);
  await stageBefore(staged, { ...machine, fromVersion });
  await using served = await serveRepository(stage);
  const port = Number(new URL(served.url).port);
  const walk = new Walk(input, label, orderOf(input, fromVersion));
  const steps: Partial<Record<UpgradeStep, StepResult>> = {};
  const take = async (booted: Booted, ...names: UpgradeStep[]): Promise<void> => {
    for (const name of names) {
      await phase(name === 'fetch' ? 'fetch' : 'install', async () => {
        steps[name] = await walk.take(booted, name);
      });
    }
  };
  try {
    const first = join(run.dir, 'from');
    const next = join(run.dir, 'to');
    await mkdir(next, { recursive: true, mode: 0o700 });
    let below: readonly string[];
    {
      await using booted = await phase('boot', () =>
        bootOn({ layer, snapshot: null }, 'egress', first, machine),
      );
      below = booted.vm.backings;
      using _ = forwardTo(port, booted.vm.forwardSocket);
      await take(booted, 'fetch');
      await booted.vm.cutEgress();
      await take(booted, 'install', 'hold');
      if (steps.hold?.held.every(({ kept }) => kept)) {
        await stageAfter(staged);
        const signed = offer.signedBy !== null;
        const { apt, keyUrl, keyring } = sourcesFor(REPOSITORY, { apt: true, dnf: false, signed });
        walk.trust({ sources: apt?.line ?? '', keyUrl: keyUrl ?? '', keyring });
        await take(booted, 'upgrade');
        await leaveFor(to.release, booted, next, machine);
      }
    }
    if (steps.upgrade) {
      const boot = { ...layer.boot, vmlinuz: join(next, 'vmlinuz'), initrd: join(next, 'initrd') };
      const spec = specOf(machine, {
        boot,
        control: 'channel',
        network: 'none',
        egress: false,
        forward: true,
      });
      await using booted = await phase('boot', () =>
        bootNew({ backing: join(first, 'disk.qcow2'), below, spec }, next, machine),
      );
      await take(booted, 'leave');
    }
  } finally {
    await run.close();
    await rm(stage, { recursive: true, force: true });
  }
  return {
    ...{ from: from.release, to: to.release, distro: from.distro, accelerator: machine.accel },
    ...{ repository: input.dir, signedBy: offer.signedBy },
    follows: { package: follow.meta, version: follow.toVersion },
    metapackages: follow.each.map(({ name }) => name),
    held: (steps.hold?.held ?? []).map(({ how, kept, said }) => ({ upgrade: how, kept, said })),
    upgraded: (steps.upgrade?.installed ?? []).map(({ name, version }) => ({ package: name, version })),
    modules: [...walk.modulesOf(steps.install, from.release), ...walk.modulesOf(steps.leave, to.release)],
    removed: steps.leave?.removed ?? [],
    standIns: steps.fetch?.made ?? [],
    phases,
  };
}

/** The steps in the guest, each with what the ones before told. */
class Walk {
  readonly #modules: { name: string; package: string; version: string }[] = [];

  constructor(
    private readonly input: UpgradeInput,
    private readonly label: string,
    private order: UpgradeOrder,
  ) {}

  /** From now on the machine reads the repository as it is published. */
  trust(sources: Pick<UpgradeOrder, 'sources' | 'keyUrl' | 'keyring'>): void {
    this.order = { ...this.order, ...sources };
  }

  async take({ guest, vm }: Booted, step: UpgradeStep): Promise<StepResult> {
    const { machine, row } = this.input;
    await using egress = step === 'fetch' ? await distroEgress(row, machine) : null;
    const through = egress && { host: '', proxy: egress.proxy, authorities: egress.authorities };
    const order = { ...this.order, ...through };
    const result = await takeStep(guest, step, order, {
      timeoutMs: AS_LONG_AS_IT_TAKES_MS,
      accel: machine.accel,
      onLine: (line) => machine.emit({ type: 'output', cell: this.label, line }),
      lastWords: () => vm.lastWords(),
      moduleNames: step === 'leave' ? this.#modules.map(({ name }) => name) : [],
    });
    for (const { name, version, modules } of result.installed)
      this.#modules.push(...modules.map((module) => ({ name: module, package: name, version })));
    return result;
  }

  modulesOf(step: StepResult | undefined, kernel: string): UpgradeProof['modules'] {
    return (step?.loads ?? []).map(({ name, how, why, warnings }) => {
      const of = this.#modules.filter((each) => each.name === name);
      const its = of.find((each) => each.package.endsWith(`-${debName(kernel)}`)) ?? of[0];
      const reason = [why, ...warnings.map((each) => `the kernel warns: ${each}`)].filter(
        (each) => each !== '',
      );
      return {
        ...{ kernel, package: its?.package ?? '', version: its?.version ?? '', module: name },
        verdict: how === 'loaded' || how === 'refused' ? how : 'failed',
        reason: reason.join('; ') || null,
      };
    });
  }
}

const REPOSITORY = `http://${NET.management.forward}/`;

function orderOf({ from, to, follow }: UpgradeInput, fromVersion: string): UpgradeOrder {
  const { apt, keyring } = sourcesFor(REPOSITORY, { apt: true, dnf: false, signed: false });
  return {
    ...{ from: from.release, to: to.release, meta: follow.meta, toVersion: follow.toVersion, fromVersion },
    ...{
      host: NET.management.forward,
      sources: apt?.line ?? '',
      keyUrl: '',
      keyring,
      proxy: '',
      authorities: Buffer.alloc(0),
    },
    packages: follow.each.map(({ name }) => name),
    modules: follow.each.map((each) => ({ from: each.from.name, to: each.to.name })),
  };
}

/** The version of the kernel metapackage that led to the old kernel, '' where the archive has it no more. */
async function versionBefore({ row, from, follow, request, machine }: UpgradeInput): Promise<string> {
  const { metas } = await offeredKernels(row, resolveOptions(request, from.arch, machine));
  return (
    metas.find(({ name, release }) => name === follow.meta && release === from.release)?.packageVersion ?? ''
  );
}

/** Takes the new kernel out of the machine, which ends: it is what its disk boots next. */
async function leaveFor(release: string, { guest, vm }: Booted, to: string, machine: Machine): Promise<void> {
  const limit = 512 * 1024 * 1024;
  await guest.fetch(`/boot/vmlinuz-${release}`, join(to, 'vmlinuz'), limit);
  await guest.fetch(`/boot/initrd.img-${release}`, join(to, 'initrd'), limit);
  await guest.text('sync; systemctl --no-block poweroff || poweroff');
  await vm.waitForPowerOff(deadline(machine.accel, 60));
}
