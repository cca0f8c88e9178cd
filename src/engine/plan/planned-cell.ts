import type { KernelTarget, ModuleSource } from '../../model/cell.js';
import type { BuildPlan, PlannedCell } from './types.js';
import type { BuildRequest } from '../../options/request.js';

/** A module for a kernel, with what the request says of all cells. The one place where planned cells are made. */
export function plannedCell(
  module: ModuleSource,
  target: KernelTarget,
  { image, nameStyle }: Pick<BuildRequest, 'image' | 'nameStyle'>,
): PlannedCell {
  return {
    source: module.text,
    kernel: target.release,
    distro: target.distro,
    arch: target.arch,
    packageVersion: target.packageVersion ?? null,
    image,
    fileStyle: nameStyle,
    module,
    target,
  };
}

/** As events and the queue's jobs name a cell. */
export const cellLabel = ({ source, kernel }: PlannedCell): string => `${source} × ${kernel}`;

/** Sources that may bring what a plan's cells depend on. */
export function otherSourcesOf({ otherSources, cells }: BuildPlan): readonly ModuleSource[] {
  return otherSources ?? [...new Set(cells.map(({ module }) => module))];
}
