import type { X509Certificate } from 'node:crypto';
import { resolve } from 'node:path';
import { listRunDirs } from '../cell/run-dir.js';
import type { PlanContext } from '../model/context.js';
import { Dkms2binError } from '../model/errors.js';
import type { Proof } from '../model/proof.js';
import type { UpgradeProof } from '../model/upgrade-proof.js';
import { readCapped } from '../lib/read-capped.js';
import { findRow, catalogueOf } from '../distro/catalogue.js';
import { readCertificate } from '../formats/certificate.js';
import type { BuildRequest } from '../options/request.js';
import { readOfferedPackages } from '../repo/index.js';
import { KernelEnvironments, machineOf } from './kernel-environments.js';
import { planTargets } from './plan/plan.js';
import { choosePackages, prove, proverOf } from './prove.js';
import { chooseFollowers, proveUpgrade } from './prove-upgrade.js';

/**
 * Installs the packages that the repository `dir` has for the request's one kernel, or those of `modules`, on a machine
 * without a toolchain, and loads their modules; with `signCert` on one that trusts it and loads nothing unsigned.
 */
export async function proveRequest(
  request: BuildRequest,
  { dir, modules }: { dir: string; modules: readonly string[] },
  context: PlanContext,
): Promise<Proof> {
  const [release = ''] = request.kernels;
  const offer = await readOfferedPackages(dir);
  const packages = choosePackages(offer, release, modules);
  const certificate = await certificateOf(request);
  const rows = await catalogueOf(request);
  const [target] = await planTargets(request, rows, context);
  if (!target) throw new Dkms2binError('usage', 'No kernel to prove the packages on: --kernel is missing');
  if (certificate && target.arch !== 'x86_64') {
    throw new Dkms2binError(
      'usage',
      '--sign-cert: a machine that trusts a certificate can be made only for x86_64',
      {
        hint: `Without it the packages are installed and loaded on an ${target.arch} machine that also takes unsigned modules.`,
      },
    );
  }
  // Told before minutes of making a machine.
  proverOf(findRow(rows, target.distro), packages);
  // Removes what killed runs left behind.
  await listRunDirs();
  const machine = await machineOf(request, target.arch, context);
  await using environments = new KernelEnvironments(request, rows, machine, 'runtime');
  // A kernel reads the firmware's certificates as it boots: no snapshot can be used.
  const environment = certificate
    ? { layer: await environments.layer(target), snapshot: null }
    : await environments.environment(target);
  const lookup = environments.lookup(target.distro);
  return prove({
    dir,
    offer,
    packages,
    target,
    environment,
    certificate,
    strict: request.strict,
    lookup,
    machine,
  });
}

async function certificateOf({ signCert, cwd }: BuildRequest): Promise<X509Certificate | null> {
  if (signCert === undefined) return null;
  const path = resolve(cwd, signCert);
  return readCertificate(await readCapped(path, 2 ** 20), path);
}

/**
 * Walks a machine that runs `from` to the kernel `to`: its distro offers that one before the repository `dir` does, and after. The
 * modules are those of `modules`, or all whose metapackages lead to `to`.
 */
export async function proveUpgradeRequest(
  request: BuildRequest,
  { dir, modules, from, to }: { dir: string; modules: readonly string[]; from: string; to: string },
  context: PlanContext,
): Promise<UpgradeProof> {
  const offer = await readOfferedPackages(dir);
  const follow = await chooseFollowers({ dir, offer }, { from, to }, { modules, signal: context.signal });
  const rows = await catalogueOf(request);
  const targets = await planTargets({ ...request, kernels: [from, to] }, rows, context);
  const [old, next] = [from, to].map((release) => targets.find((each) => each.release === release));
  if (!old || !next || old.distro !== next.distro) {
    throw new Dkms2binError('usage', `${from} and ${to} are no two kernels of one distro`, {
      hint: 'Name the distro with --distro.',
    });
  }
  await listRunDirs();
  const machine = await machineOf(request, old.arch, context);
  await using environments = new KernelEnvironments(request, rows, machine, 'runtime');
  const layer = await environments.layer(old);
  const row = findRow(rows, old.distro);
  return proveUpgrade({ dir, offer, from: old, to: next, row, request, follow, layer, machine });
}
