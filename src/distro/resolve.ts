import { readFile } from 'node:fs/promises';
import type { Arch, KernelTarget } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { globExpression } from '../lib/glob.js';
import { compareReleases } from '../formats/versions.js';
import { fromArchives, type ArchiveOptions } from './archives.js';
import type { KernelEntry, KernelIndex } from './kernel-index.js';
import { buildable, comparing, liveKernels, placesOf, unique, type KernelOptions } from './kernels.js';
import { nearest } from './nearest.js';
import { listed, type Place } from './places.js';
import { defaultOf } from './overlays.js';
import { candidatesFor, checkRelease, isNamedBy, rowsOn } from './release.js';
import { archRow, unknownDistro, type DistroRow } from './row.js';

export interface ResolveOptions extends KernelOptions, ArchiveOptions {
  /** Id or alias that the user gave; else the release tells. */
  distro?: string | undefined;
  /** Catalogue id of the host's own distro; read from /etc/os-release by default, null for none. */
  hostDistro?: string | null | undefined;
}

/**
 * Turns `--kernel` values into targets: exact releases, globs, `latest`; none at all means `latest`. Each release comes
 * once, in the order asked for. Throws `usage` for what is ambiguous or of another distro, `not-found` naming every
 * place tried, `transient` when a mirror does not answer.
 */
export async function resolveKernels(
  wanted: readonly string[],
  rows: readonly DistroRow[],
  options: ResolveOptions,
): Promise<KernelTarget[]> {
  const resolver = new Resolver(rows, options);
  const targets = new Map<string, KernelTarget>();
  for (const text of wanted.length === 0 ? ['latest'] : wanted) {
    for (const target of await resolver.targets(text))
      targets.set(`${target.distro} ${target.release}`, target);
  }
  return [...targets.values()];
}

class Resolver {
  private readonly arch: Arch;
  private readonly indexes = new Map<string, Promise<KernelIndex>>();

  private readonly rows: readonly DistroRow[];

  constructor(
    rows: readonly DistroRow[],
    private readonly options: ResolveOptions,
  ) {
    const asked = rows.filter(({ overlay }) => overlay?.asked);
    this.rows = asked.length > 0 ? asked : rows;
    this.arch = options.arch ?? 'x86_64';
  }

  /** What one `--kernel` value means. */
  async targets(wanted: string): Promise<KernelTarget[]> {
    if (wanted === 'latest') return [await this.latest()];
    return /[*?[\]]/.test(wanted) ? this.glob(wanted) : [await this.exact(wanted)];
  }

  private index(row: DistroRow): Promise<KernelIndex> {
    let index = this.indexes.get(row.id);
    if (index === undefined) {
      index = liveKernels(row, this.options);
      this.indexes.set(row.id, index);
    }
    return index;
  }

  private chosenRow(): DistroRow | undefined {
    const { distro } = this.options;
    if (distro === undefined) return undefined;
    const row =
      this.rows.find(({ id, aliases }) => id === distro || aliases?.includes(distro)) ??
      this.rows.find(({ overlay }) => overlay?.asked && overlay.on === distro);
    if (row) return row;
    throw unknownDistro(distro, this.rows);
  }

  private async latest(): Promise<KernelTarget> {
    const [first] = this.rows;
    const row =
      this.chosenRow() ?? (first?.overlay?.asked ? first : await defaultRow(this.rows, this.options));
    const index = await this.index(row);
    const kernels = unique(row, index.kernels);
    const name = row.overlay ? defaultOf(row, this.arch) : archRow(row, this.arch).defaultKernel;
    if (name === undefined) {
      const newest = buildable(row, kernels).sort((a, b) => compareReleases(b.release, a.release))[0];
      if (newest) return this.target(row, newest);
      throw new Dkms2binError('not-found', `There is no kernel of ${row.id}${listed(placesOf(index, row))}`);
    }
    // Backports are newer than what the distro boots by default, and security carries a second series besides: the
    // metapackage of this very name knows which kernel is the default one.
    const backports = new Set(
      row.suites.filter(({ role }) => role === 'backports').map((suite) => suite.name),
    );
    const meta = index.metas
      .filter((entry) => entry.name === name && !backports.has(entry.suite))
      .sort((a, b) => comparing(row)(b.packageVersion, a.packageVersion))[0];
    const kernel = meta && kernels.find(({ release }) => release === meta.release);
    if (kernel) return this.target(row, kernel);
    const why = meta
      ? `${name} depends on ${meta.release}, which does not exist there`
      : `there is no package ${name}`;
    throw new Dkms2binError(
      'not-found',
      `There is no default kernel of ${row.id}: ${why}${listed(placesOf(index, row))}`,
    );
  }

  private async glob(pattern: string): Promise<KernelTarget[]> {
    checkGlob(pattern);
    const chosen = this.chosenRow();
    const expression = releaseExpression(pattern);
    const samples = samplesOf(pattern);
    const fits = (row: DistroRow): boolean => samples.some((sample) => isNamedBy(row, sample));
    const rows = chosen ? rowsOn(chosen, this.rows, fits) : this.rowsOfGlob(pattern, fits);
    const { found, places, all } = await this.search(rows, (release) => expression.test(release));
    if (found.length === 0) {
      const sample = all.sort((a, b) => compareReleases(b.release, a.release)).slice(0, 5);
      throw new Dkms2binError('not-found', `No kernel matches ${pattern}${listed(places)}`, {
        ...(sample.length > 0 && { hint: `Newest that exist: ${sample.map((k) => k.release).join(', ')}` }),
      });
    }
    for (const { row, kernel } of found) {
      const twin = found.find((f) => f.row !== row && f.kernel.release === kernel.release);
      if (twin) throw ambiguous(kernel.release, [row, twin.row]);
    }
    return found
      .sort((a, b) => compareReleases(a.kernel.release, b.kernel.release))
      .map(({ row, kernel }) => this.target(row, kernel));
  }

  /** The distros that a glob points to; Debian's when it says too little. */
  private rowsOfGlob(pattern: string, fits: (row: DistroRow) => boolean): readonly DistroRow[] {
    const named = this.rows.filter((row) => row.overlay?.first && fits(row));
    if (named.length > 0) return named;
    const own = this.rows.filter(({ overlay }) => !overlay);
    const debian = own.filter(({ family }) => family === 'debian');
    const tag = /\.((?:el|fc|amzn)\d+)(_\d+)?(uek)?(?=[.*?+-]|$)/.exec(pattern);
    const flavour = /[\d*?]-([a-z][a-z0-9-]*)$/.exec(pattern)?.[1];
    const suffix = /\+deb\d+(?=[.*?-]|$)/.exec(pattern)?.[0];
    const start = /^\d+\.\d+\.\d+(?:-|\+deb\d+)(?=[*?[\d.+-])/.exec(pattern)?.[0];
    let sample: string;
    if (tag) sample = `1.0.0-1${tag[0]}.x86_64`;
    else if (suffix !== undefined) sample = `1.0.0${suffix}-amd64`;
    else if (flavour !== undefined && !flavour.endsWith('amd64')) {
      const series = /^\d+\.\d+(?:\.\d+)?/.exec(pattern)?.[0];
      if (series === undefined)
        return own.filter(({ arch: { x86_64: a } }) => a.kernelFlavours?.includes(flavour));
      sample = `${series.split('.').length === 2 ? `${series}.0` : series}-1-${flavour}`;
    } else if (start !== undefined) sample = start.endsWith('-') ? `${start}1-amd64` : `${start}-amd64`;
    else return debian;
    try {
      return candidatesFor(sample, this.rows);
    } catch {
      return debian;
    }
  }

  private async exact(release: string): Promise<KernelTarget> {
    checkRelease(release);
    const chosen = this.chosenRow();
    const rows = chosen
      ? rowsOn(chosen, this.rows, (row) => isNamedBy(row, release))
      : candidatesFor(release, this.rows);
    const { found, places, all, headless } = await this.search(rows, (other) => other === release);
    if (found.length > 1)
      throw ambiguous(
        release,
        found.map(({ row }) => row),
      );
    if (found[0]) return this.target(found[0].row, found[0].kernel);
    const ownForm = rows.some((row) => row.overlay && isNamedBy(row, release));
    if (chosen && !ownForm) this.refuseForeign(release, chosen);

    const archived: KernelTarget[] = [];
    for (const row of rows) {
      const target = await fromArchives({ row, release, arch: this.arch, options: this.options }, places);
      if (target) archived.push(target);
    }
    if (archived.length > 1)
      throw ambiguous(
        release,
        rows.filter(({ id }) => archived.some(({ distro }) => distro === id)),
      );
    if (archived[0]) return archived[0];
    const near = nearest(release, all);
    const what = headless
      ? `Kernel ${release} still exists, but its headers are gone`
      : `There is no kernel ${release}`;
    throw new Dkms2binError('not-found', `${what}${listed(places)}`, {
      hint:
        (near.length > 0 ? `Nearest that exist: ${near.join(', ')}. ` : '') +
        'Kernels of another repository are found with --kernel-repo, and those that no archive holds are given with --kernel-package.',
    });
  }

  /** The buildable kernels of `rows` that fit, all there are, and where was looked. */
  private async search(
    rows: readonly DistroRow[],
    fits: (release: string) => boolean,
  ): Promise<{
    found: { row: DistroRow; kernel: KernelEntry }[];
    all: KernelEntry[];
    places: Place[];
    /** One fits that nothing can be built for. */
    headless: boolean;
  }> {
    const result: Awaited<ReturnType<Resolver['search']>> = {
      found: [],
      all: [],
      places: [],
      headless: false,
    };
    for (const row of rows) {
      const index = await this.index(row);
      const kernels = buildable(row, index.kernels);
      result.places.push(...placesOf(index, row));
      result.all.push(...kernels);
      result.found.push(...kernels.filter(({ release }) => fits(release)).map((kernel) => ({ row, kernel })));
      result.headless ||= index.kernels.some(({ headless, release }) => headless && fits(release));
    }
    return result;
  }

  private refuseForeign(release: string, chosen: DistroRow): void {
    let candidates: DistroRow[];
    try {
      candidates = candidatesFor(release, this.rows);
    } catch (error) {
      if (!(error instanceof Dkms2binError) || error.fault !== 'not-found') return;
      throw new Dkms2binError('usage', `${error.message}; --distro says ${chosen.id}`);
    }
    if (candidates.includes(chosen)) return;
    const ids = candidates.map(({ id }) => id).join(' or ');
    throw new Dkms2binError('usage', `${release} is a kernel of ${ids}, not of ${chosen.id}`, {
      hint: 'Leave --distro out to let the kernel release decide.',
    });
  }

  private target(row: DistroRow, kernel: KernelEntry): KernelTarget {
    return {
      release: kernel.release,
      distro: row.id,
      arch: this.arch,
      packageVersion: kernel.packageVersion,
      suite: kernel.suite,
    };
  }
}

/**
 * Releases that a pattern could mean, with something of the usual forms in the place of each wildcard: enough to see how they end.
 */
function samplesOf(pattern: string): string[] {
  const parts = pattern.replace(/\[[^\]]*\]/g, '?').split(/([*?])/);
  let samples = [''];
  for (const part of parts) {
    const words = { '*': ['1', '1-1', '1.1', '1.1.1', '1.1-1', '1.1.1-1', ''], '?': ['1'] }[part] ?? [part];
    if (samples.length * words.length > 400) return samples;
    samples = samples.flatMap((sample) => words.map((word) => sample + word));
  }
  return samples;
}

/** The host's own distro when the catalogue has it, else debian-13. */
async function defaultRow(rows: readonly DistroRow[], options: ResolveOptions): Promise<DistroRow> {
  const own = options.hostDistro === undefined ? await hostDistro() : options.hostDistro;
  const row =
    rows.find(({ id, aliases }) => own !== null && (id === own || aliases?.includes(own))) ??
    rows.find(({ id }) => id === 'debian-13') ??
    rows.find(({ family }) => family === 'debian');
  if (row) return row;
  throw new Dkms2binError('usage', 'The catalogue has no Debian distro', {
    hint: 'Give --distro and --kernel.',
  });
}

async function hostDistro(): Promise<string | null> {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const field = (name: string): string | undefined =>
    new RegExp(`^${name}="?([^"\\n]*)"?$`, 'm').exec(text)?.[1];
  const id = field('ID');
  const version = field('VERSION_ID') ?? field('VERSION_CODENAME');
  return id === undefined || version === undefined ? null : `${id}-${version}`;
}

function ambiguous(release: string, rows: readonly DistroRow[]): Dkms2binError {
  const ids = [...new Set(rows.map(({ id }) => id))];
  return new Dkms2binError('usage', `${release} is a kernel of more than one distro: ${ids.join(', ')}`, {
    hint: `Choose one: ${ids.map((id) => `--distro ${id}`).join(' or ')}`,
  });
}

function checkGlob(pattern: string): void {
  if (pattern.length <= 100 && /^[A-Za-z0-9+._~*?[\]!-]+$/.test(pattern)) return;
  throw new Dkms2binError('usage', `Not a pattern of kernel releases: ${JSON.stringify(pattern)}`);
}

function releaseExpression(pattern: string): RegExp {
  try {
    return globExpression(pattern);
  } catch (error) {
    throw new Dkms2binError('usage', `Not a pattern of kernel releases: ${pattern}`, { cause: error });
  }
}
