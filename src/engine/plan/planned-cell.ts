import type { KernelTarget, ModuleSource } from '../../model/cell.js';
import type { PlannedCell } from './types.js';
import type { BuildRequest } from '../../options/request.js';

/** A module for a kernel, with what the request says of all cells. */
export function plannedCell(module: ModuleSource, target: KernelTarget, request: BuildRequest): PlannedCell {
  return {
    source: module.text,
    kernel: target.release,
    distro: target.distro,
    arch: target.arch,
    packageVersion: target.packageVersion ?? null,
    image: request.image,
    fileStyle: request.nameStyle,
    module,
    target,
  };
}
