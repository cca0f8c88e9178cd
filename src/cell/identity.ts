import { createHash, type X509Certificate } from 'node:crypto';
import type { KernelTarget, ModuleSource, SourceOrigin } from '../model/cell.js';
import type { BuildRequest } from '../options/request.js';
import { EPOCH } from './source.js';

/**
 * To be raised by whoever changes what comes out of the same inputs: the guest's build scripts, packing, signing. It is not
 * the tool's version, so that a release which makes the same packages leaves those that are there alone.
 */
const RECIPE = 4;

/** A source by its content, and the commit that it is; by its name only while an index that knows its content cannot be asked. */
export type SourceContent =
  { kind: ModuleSource['kind']; sha256: string; commit?: string } | { kind: 'unknown'; name: string };

/** A source as it counts, once its content is known. */
export const sourceContent = (
  { kind, ...source }: Pick<ModuleSource, 'kind'> & { origin?: SourceOrigin },
  sha256: string,
): SourceContent => ({
  ...{ kind, sha256 },
  ...(source.origin?.commit !== undefined && { commit: source.origin.commit }),
});

/** What counts of a cell, wherever it is built. */
interface Inputs {
  /** Its own first, then those of its build dependencies. */
  sources: readonly SourceContent[];
  target: KernelTarget;
  /** Fingerprint of the certificate that the modules are signed for; null: they are not signed. */
  signer: string | null;
  /** What `identityOptions` says. */
  options: Readonly<Record<string, unknown>>;
}

/** A cell whose kernel layer is there. The layer's name says what image, mirror and kernel packages came to. */
export interface LayeredInputs extends Inputs {
  layer: string;
}

/** A cell of which only that is known which needs no layer. */
export interface PlannedInputs extends Inputs {
  /** Where the layer is to come from, and what the result must tell. */
  order: Pick<BuildRequest, 'image' | 'mirror' | 'archive' | 'checkReproducible'>;
  /** SHA-256 of the --kernel-package files. */
  kernelPackages: readonly string[];
  /** What --build-package names: names, and SHA-256 of files. */
  buildPackages: readonly string[];
  /** Key id of who signs the provenance; null: it is not signed, or whoever builds the cell knows. */
  attester: string | null;
}

/**
 * The identity of a cell: what has the same one comes out the same. Hex SHA-256. Identities of planned and of layered inputs
 * are never equal: a plan cannot know all that a layer holds.
 */
export function identityOf(inputs: LayeredInputs | PlannedInputs): string {
  const { target, signer, sources, options } = inputs;
  const kernel = 'layer' in inputs ? { layer: inputs.layer } : planned(inputs);
  const parts = {
    ...{ recipe: RECIPE, epoch: EPOCH, signer },
    sources: sources.map((each) =>
      'sha256' in each
        ? [each.kind, each.sha256, ...(each.commit === undefined ? [] : [each.commit])]
        : [each.kind, each.name],
    ),
    options,
    target: [target.distro, target.arch, target.release],
    kernel,
  };
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

function planned({ order, target, kernelPackages, buildPackages, attester }: PlannedInputs): unknown {
  const { packageVersion, suite, archive, files = [] } = target;
  return {
    package: [packageVersion, suite, archive?.uri, archive?.suite],
    files: files.map(({ url, sha256 }) => sha256 ?? url),
    // Which of them is which, the packages themselves say.
    packages: [...kernelPackages].sort(),
    ...(buildPackages.length > 0 && { buildPackages: [...buildPackages].sort() }),
    from: [order.image, order.mirror, order.archive],
    checkReproducible: order.checkReproducible,
    attester,
  };
}

/** What coordinator, worker and reports know a certificate by: its SHA-256, hex. */
export const certificateFingerprint = ({ fingerprint256 }: X509Certificate): string =>
  fingerprint256.replaceAll(':', '').toLowerCase();
