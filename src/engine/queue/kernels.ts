import type { PlanContext } from '../../model/context.js';
import type { KernelTarget } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import { catalogueOf } from '../../distro/catalogue.js';
import type { BuildRequest } from '../../options/request.js';
import { planTargets } from '../plan/plan.js';
import type { CellJob } from './protocol.js';

/** A kernel that was found is not looked for again so long: the many cells of a matrix are for few kernels. */
const KEPT_MS = 10 * 60_000;

/** Finds the kernels of jobs in this machine's own catalogue, mirrors and archives: a job does not say where to get them. */
export class Kernels {
  readonly #found = new Map<string, { target: KernelTarget; until: number }>();

  constructor(private readonly own: BuildRequest) {}

  /**
   * `kernelPackages` are the job's files on this machine. Throws fault `transient` when the kernel's package has another version
   * here than the job says: mirrors do not change at the same time.
   */
  async targetOf(
    { kernel, need }: Pick<CellJob, 'kernel' | 'need'>,
    kernelPackages: readonly string[],
    context: PlanContext,
  ): Promise<KernelTarget> {
    const { release, packageVersion } = kernel;
    const key = `${need.distro} ${need.arch} ${release}`;
    const known = kernelPackages.length === 0 ? this.#found.get(key) : undefined;
    if (known && known.until > Date.now() && fits(known.target, packageVersion)) return known.target;
    const asked = { ...this.own, kernels: [release], distro: need.distro, arch: need.arch };
    const targets = await planTargets(
      { ...asked, kernelPackages: [...kernelPackages] },
      await catalogueOf(this.own),
      context,
    );
    const target = targets.find((each) => each.release === release);
    if (!target) throw new Dkms2binError('usage', `The job's kernel packages do not bring ${release}`);
    if (!fits(target, packageVersion)) {
      throw new Dkms2binError(
        'transient',
        `${release} is ${target.packageVersion ?? 'of unknown version'} in this worker's package sources, not ${packageVersion ?? ''}`,
        { hint: 'Its mirror is older or newer than that of the machine that asks.' },
      );
    }
    if (kernelPackages.length === 0) this.#found.set(key, { target, until: Date.now() + KEPT_MS });
    return target;
  }
}

const fits = (target: KernelTarget, packageVersion: string | undefined): boolean =>
  packageVersion === undefined || target.packageVersion === packageVersion;
