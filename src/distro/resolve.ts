import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { DEB_ARCH, type Arch, type KernelTarget } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { globExpression } from '../lib/glob.js';
import { listKernels, type IndexOptions, type KernelEntry, type KernelIndex } from './apt-index.js';
import { fromArchives, isUnreachable, type Place } from './archives.js';
import { hostMirrors } from './mirrors.js';
import { candidatesFor, checkRelease, flavourOf } from './release.js';
import { archRow, type DistroRow } from './row.js';
import { listRpmKernels } from './rpm-index.js';
import { compareReleases, compareRpmVersions, compareVersions } from '../formats/versions.js';

export interface ResolveOptions extends Pick<
  IndexOptions,
  'cacheDir' | 'offline' | 'signal' | 'keyring' | 'maxAge' | 'warn' | 'proxy'
> {
  /** Id or alias that the user gave; else the release tells. */
  distro?: string | undefined;
  arch?: Arch | undefined;
  /** `--mirror`, for the main archive; security is taken from the same place when it ends in `/debian`. */
  mirror?: string | undefined;
  securityMirror?: string | undefined;
  /** Base URL of the archive of old packages instead of the row's. */
  archiveUrl?: string | undefined;
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
    const found =
      text === 'latest'
        ? [await resolver.latest()]
        : /[*?[\]]/.test(text)
          ? await resolver.glob(text)
          : [await resolver.exact(text)];
    for (const target of found) targets.set(`${target.distro} ${target.release}`, target);
  }
  return [...targets.values()];
}

/**
 * All kernels that a distro's configured suites or repositories hold now with their headers, newest first: what
 * `dkms2bin kernels` prints.
 */
export async function availableKernels(row: DistroRow, options: ResolveOptions): Promise<KernelEntry[]> {
  const { kernels } = await new Resolver([row], options).index(row);
  return buildable(row, kernels).sort((a, b) => compareReleases(b.release, a.release));
}

/** The kernels of a row's live archive, whatever kind it is. */
async function indexOf(row: DistroRow, arch: Arch, options: ResolveOptions): Promise<KernelIndex> {
  const mirrors = await mirrorsOf(row, options, arch);
  if (!isApt(row)) return listRpmKernels(row, arch, mirrors.main, options);
  const apt = {
    ...options,
    keyring: options.keyring ?? row.keyring,
    suites: row.suites,
    arch: DEB_ARCH[arch],
    // Universe is ten times as large as main; Debian's are read once for kernels and DKMS packages.
    ...(row.family === 'debian' ? {} : { components: ['main'] }),
  };
  const live = await listKernels({ ...apt, mirror: mirrors.main, securityMirror: mirrors.security });
  const { old } = row.mirrors;
  if (old === undefined || live.places.some(({ present }) => present)) return live;
  // A release at its end moves as a whole.
  const kept = await listKernels({ ...apt, mirror: old, securityMirror: old }).catch((error: unknown) => {
    if (!isUnreachable(error)) throw error;
    options.warn?.(messageOf(error));
    return { kernels: [], metas: [], places: [] };
  });
  return { ...kept, places: [...live.places, ...kept.places] };
}

/**
 * The same kernels, and the releases that metapackages point to: what a machine that follows one of those gets next.
 */
export async function offeredKernels(
  row: DistroRow,
  options: ResolveOptions,
): Promise<{ kernels: KernelEntry[]; heads: string[] }> {
  const { kernels, metas } = await new Resolver([row], options).index(row);
  return { kernels: buildable(row, kernels), heads: [...new Set(metas.map(({ release }) => release))] };
}

class Resolver {
  private readonly arch: Arch;
  private readonly indexes = new Map<string, Promise<KernelIndex>>();

  constructor(
    private readonly rows: readonly DistroRow[],
    private readonly options: ResolveOptions,
  ) {
    this.arch = options.arch ?? 'x86_64';
  }

  index(row: DistroRow): Promise<KernelIndex> {
    let index = this.indexes.get(row.id);
    if (index === undefined) {
      index = indexOf(row, this.arch, this.options);
      this.indexes.set(row.id, index);
    }
    return index;
  }

  private chosenRow(): DistroRow | undefined {
    const { distro } = this.options;
    if (distro === undefined) return undefined;
    const row = this.rows.find(({ id, aliases }) => id === distro || aliases?.includes(distro));
    if (row) return row;
    throw new Dkms2binError('usage', `No distro ${distro} in the catalogue`, {
      hint: `Known: ${this.rows.map(({ id }) => id).join(', ')}`,
    });
  }

  async latest(): Promise<KernelTarget> {
    const row = this.chosenRow() ?? (await defaultRow(this.rows, this.options));
    const index = await this.index(row);
    const name = archRow(row, this.arch).defaultKernel;
    // Backports are newer than what the distro boots by default, and security carries a second series besides: the
    // metapackage of this very name knows which kernel is the default one.
    const backports = new Set(
      row.suites.filter(({ role }) => role === 'backports').map((suite) => suite.name),
    );
    const meta = index.metas
      .filter((entry) => entry.name === name && !backports.has(entry.suite))
      .sort((a, b) => comparing(row)(b.packageVersion, a.packageVersion))[0];
    const kernel = meta && unique(row, index.kernels).find(({ release }) => release === meta.release);
    if (kernel) return this.target(row, kernel);
    throw new Dkms2binError(
      'not-found',
      `No default kernel of ${row.id}: ${meta ? `${name} wants ${meta.release}, which is not there` : `there is no package ${name}`}` +
        listed(placesOf(index, row)),
    );
  }

  async glob(pattern: string): Promise<KernelTarget[]> {
    checkGlob(pattern);
    const rows = this.chosenRow() ? [this.chosenRow()!] : this.rowsOfGlob(pattern);
    const expression = releaseExpression(pattern);
    const found: { row: DistroRow; kernel: KernelEntry }[] = [];
    const places: Place[] = [];
    const all: KernelEntry[] = [];
    for (const row of rows) {
      const index = await this.index(row);
      places.push(...placesOf(index, row));
      const kernels = buildable(row, index.kernels);
      all.push(...kernels);
      found.push(
        ...kernels.filter(({ release }) => expression.test(release)).map((kernel) => ({ row, kernel })),
      );
    }
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
  private rowsOfGlob(pattern: string): readonly DistroRow[] {
    const debian = this.rows.filter(({ family }) => family === 'debian');
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
        return this.rows.filter(({ arch: { x86_64: a } }) => a.kernelFlavours?.includes(flavour));
      sample = `${series.split('.').length === 2 ? `${series}.0` : series}-1-${flavour}`;
    } else if (start !== undefined) sample = start.endsWith('-') ? `${start}1-amd64` : `${start}-amd64`;
    else return debian;
    try {
      return candidatesFor(sample, this.rows);
    } catch {
      return debian;
    }
  }

  async exact(release: string): Promise<KernelTarget> {
    checkRelease(release);
    const chosen = this.chosenRow();
    const rows = chosen ? [chosen] : candidatesFor(release, this.rows);
    const places: Place[] = [];
    const all: KernelEntry[] = [];
    const found: { row: DistroRow; kernel: KernelEntry }[] = [];
    let headless = false;
    for (const row of rows) {
      const index = await this.index(row);
      places.push(...placesOf(index, row));
      const kernels = buildable(row, index.kernels);
      all.push(...kernels);
      const kernel = kernels.find((entry) => entry.release === release);
      if (kernel) found.push({ row, kernel });
      headless ||= index.kernels.some((entry) => entry.headless && entry.release === release);
    }
    if (found.length > 1)
      throw ambiguous(
        release,
        found.map(({ row }) => row),
      );
    if (found[0]) return this.target(found[0].row, found[0].kernel);
    if (chosen) this.refuseForeign(release, chosen);

    const archived: KernelTarget[] = [];
    for (const row of rows) {
      const target = await fromArchives(row, release, this.arch, this.options, places);
      if (target) archived.push(target);
    }
    if (archived.length > 1)
      throw ambiguous(
        release,
        rows.filter(({ id }) => archived.some(({ distro }) => distro === id)),
      );
    if (archived[0]) return archived[0];
    const near = nearest(release, all);
    const what = headless ? `Of kernel ${release} the headers are gone` : `There is no kernel ${release}`;
    throw new Dkms2binError('not-found', `${what}${listed(places)}`, {
      hint:
        (near.length > 0 ? `Nearest that exist: ${near.join(', ')}. ` : '') +
        'Kernels that no archive holds can be given with --kernel-package.',
    });
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
 * The kernel releases of `--kernel-package` files or URLs, whose names are `linux-image-<release>_<version>_<arch>.deb`;
 * headers and other packages among them are passed over. Throws `usage` when no image is there.
 */
export function releaseOfKernelPackages(
  files: readonly string[],
  arch: Arch,
): { release: string; packageVersion: string; file: string }[] {
  const images = files.flatMap((file) => {
    const path = URL.canParse(file) && /^https?:/.test(file) ? new URL(file).pathname : file;
    const match = /^linux-image-(?:unsigned-)?(\d[^_]*?)(?:-unsigned)?_([^_]+)_([a-z0-9]+)\.deb$/.exec(
      basename(decodeURIComponent(path)),
    );
    if (!match || match[1]!.endsWith('-dbg')) return [];
    if (match[3] !== DEB_ARCH[arch]) {
      throw new Dkms2binError('usage', `${file} is for ${match[3]!}, not for ${DEB_ARCH[arch]}`);
    }
    return [{ release: checkRelease(match[1]!), packageVersion: match[2]!, file }];
  });
  if (images.length > 0) return images;
  throw new Dkms2binError('usage', 'None of the --kernel-package files is a kernel image', {
    hint: `One must be named linux-image-<release>_<version>_${DEB_ARCH[arch]}.deb; give its headers and the other packages too.`,
  });
}

/** Mirrors of a row: `--mirror`, then those of the host's apt when it is a Debian, then the catalogue's. */
export async function mirrorsOf(
  row: DistroRow,
  options: Pick<ResolveOptions, 'mirror' | 'securityMirror'>,
  arch: Arch = 'x86_64',
): Promise<{ main: string; security: string | undefined }> {
  const host = row.family === 'debian' ? await hostMirrors() : {};
  const given = options.mirror?.replace(/\/+$/, '');
  const own = row.arch[arch]?.mirrors ?? row.mirrors;
  let derived: string | undefined;
  if (given !== undefined && row.family !== 'debian') derived = given;
  else if (given !== undefined && /\/debian$/.test(given)) derived = `${given}-security`;
  return {
    main: given ?? host.main ?? own.main,
    security: options.securityMirror ?? derived ?? host.security ?? own.security,
  };
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
    hint: 'Say --distro and --kernel.',
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

/** Throws unless the row's packages lie in an apt archive. */
export function requireApt(row: DistroRow): void {
  if (isApt(row)) return;
  throw new Dkms2binError('not-found', `DKMS packages of ${row.id} cannot be looked up by name yet`, {
    hint: 'Give the package as a file, or a folder with dkms.conf.',
  });
}

function isApt(row: DistroRow): boolean {
  return row.packageManager !== 'dnf' && row.packageManager !== 'zypper';
}

/** How the row's package manager compares versions. */
function comparing(row: DistroRow): (a: string, b: string) => number {
  return isApt(row) ? compareVersions : compareRpmVersions;
}

/** Those that something can be built for. */
const buildable = (row: DistroRow, kernels: readonly KernelEntry[]): KernelEntry[] =>
  unique(row, kernels).filter(({ headless }) => !headless);

/** One entry per release: several suites may carry it, and the row's order of preference decides between equals. */
function unique(row: DistroRow, kernels: readonly KernelEntry[]): KernelEntry[] {
  const order = [...row.suites, ...(row.repos ?? [])];
  const rank = (suite: string): number => order.findIndex(({ name }) => name === suite);
  const compare = comparing(row);
  const best = new Map<string, KernelEntry>();
  for (const kernel of kernels) {
    const known = best.get(kernel.release);
    const newer = known === undefined ? 1 : compare(kernel.packageVersion, known.packageVersion);
    if (known === undefined || newer > 0 || (newer === 0 && rank(kernel.suite) < rank(known.suite))) {
      best.set(kernel.release, kernel);
    }
  }
  return [...best.values()];
}

function placesOf(index: KernelIndex, row: DistroRow): Place[] {
  return index.places.map(({ suite, url, present }) => ({
    where: `${url} ${suite} (${row.id})`,
    outcome: present ? 'not there' : 'the mirror has no such suite',
  }));
}

/** The places tried as the last lines of an error. */
export function listed(places: readonly Place[]): string {
  return `. Looked in:\n${places.map(({ where, outcome }) => `  ${where}: ${outcome}`).join('\n')}`;
}

function ambiguous(release: string, rows: readonly DistroRow[]): Dkms2binError {
  const ids = [...new Set(rows.map(({ id }) => id))];
  return new Dkms2binError('usage', `${release} is a kernel of more than one distro: ${ids.join(', ')}`, {
    hint: `Say which: ${ids.map((id) => `--distro ${id}`).join(' or ')}`,
  });
}

/** What kernels of one distro differ in besides the version: `cloud-amd64`, `+rt`, `uek`; undefined for a plain one. */
export function kindOf(release: string): string | undefined {
  return flavourOf(release) ?? /\+[a-z0-9]+$|uek(?=\.|$)/.exec(release)?.[0];
}

/** Up to five existing releases of the same flavour around `release`, in order. */
export function nearest(
  release: string,
  kernels: readonly Pick<KernelEntry, 'release'>[],
  count = 5,
): string[] {
  const all = [...new Set(kernels.map((kernel) => kernel.release))].sort(compareReleases);
  const same = all.filter((other) => kindOf(other) === kindOf(release));
  const pool = same.length > 0 ? same : all;
  const numbers = (text: string): number[] => (text.match(/\d+/g) ?? []).slice(0, 4).map(Number);
  const distance = (other: string): number[] => {
    const [a, b] = [numbers(release), numbers(other)];
    return [0, 1, 2, 3].map((i) => Math.abs((a[i] ?? 0) - (b[i] ?? 0)));
  };
  const compare = (a: number[], b: number[]): number => {
    for (let i = 0; i < 4; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
    return 0;
  };
  return pool
    .map((other) => ({ other, far: distance(other) }))
    .sort((a, b) => compare(a.far, b.far) || compareReleases(b.other, a.other))
    .slice(0, count)
    .map(({ other }) => other)
    .sort(compareReleases);
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
