import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { DEB_ARCH, type Arch, type KernelTarget } from '../core/cell.js';
import { Dkms2binError } from '../core/errors.js';
import { candidatesFor, checkRelease } from './release.js';
import {
  fetchBytes,
  listKernels,
  type IndexOptions,
  type KernelEntry,
  type KernelIndex,
} from './apt-index.js';
import { hostMirrors } from './mirrors.js';
import { archRow, type DistroRow } from './row.js';
import { compareReleases, compareVersions } from './version.js';

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

/** One place where a kernel was looked for, and what came of it. */
interface Place {
  where: string;
  outcome: string;
}

const MAX_JSON_BYTES = 8 << 20;

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

/** All kernels that a distro's configured suites hold now, oldest first: what `dkms2bin kernels` prints. */
export async function availableKernels(row: DistroRow, options: ResolveOptions): Promise<KernelEntry[]> {
  const { kernels } = await new Resolver([row], options).index(row);
  return unique(row, kernels).sort((a, b) => compareReleases(a.release, b.release));
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
      requireDebian(row);
      index = mirrorsOf(row, this.options).then((mirrors) =>
        listKernels({
          ...this.options,
          mirror: mirrors.main,
          securityMirror: mirrors.security,
          suites: row.suites,
          arch: DEB_ARCH[this.arch],
        }),
      );
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
      .sort((a, b) => compareVersions(b.packageVersion, a.packageVersion))[0];
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
    const expression = globExpression(pattern);
    const found: { row: DistroRow; kernel: KernelEntry }[] = [];
    const places: Place[] = [];
    const all: KernelEntry[] = [];
    for (const row of rows) {
      const index = await this.index(row);
      places.push(...placesOf(index, row));
      const kernels = unique(row, index.kernels);
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

  /** The distros that a glob's fixed beginning points to; all of them when it says too little. */
  private rowsOfGlob(pattern: string): readonly DistroRow[] {
    const debian = this.rows.filter(({ family }) => family === 'debian');
    const suffix = /\+deb\d+(?=[.*?-]|$)/.exec(pattern)?.[0];
    const fixed =
      suffix !== undefined
        ? `1.0.0${suffix}`
        : /^\d+\.\d+\.\d+(?:-|\+deb\d+)(?=[*?[\d.+-])/.exec(pattern)?.[0];
    if (fixed === undefined) return debian;
    try {
      return candidatesFor(fixed.endsWith('-') ? `${fixed}1-amd64` : `${fixed}-amd64`, this.rows);
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
    for (const row of rows) {
      const index = await this.index(row);
      places.push(...placesOf(index, row));
      const kernels = unique(row, index.kernels);
      all.push(...kernels);
      const kernel = kernels.find((entry) => entry.release === release);
      if (kernel) found.push({ row, kernel });
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
      const target = await this.fromArchive(release, row, places);
      if (target) archived.push(target);
    }
    if (archived.length > 1) throw ambiguous(release, rows);
    if (archived[0]) return archived[0];
    const near = nearest(release, all);
    throw new Dkms2binError('not-found', `There is no kernel ${release}${listed(places)}`, {
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

  private async fromArchive(
    release: string,
    row: DistroRow,
    places: Place[],
  ): Promise<KernelTarget | undefined> {
    const base = (
      this.options.archiveUrl ?? (row.archive?.kind === 'snapshot' ? row.archive.url : undefined)
    )?.replace(/\/+$/, '');
    if (base === undefined) return undefined;
    if (this.options.offline) {
      places.push({ where: base, outcome: 'not asked (--offline)' });
      return undefined;
    }
    try {
      const target = await this.snapshot(base, release, row);
      if (target === undefined) {
        const where = `${base} (${row.id})`;
        if (!places.some((place) => place.where === where)) places.push({ where, outcome: 'not there' });
      }
      return target;
    } catch (error) {
      // The live mirrors answered. An archive that cannot even be connected to from here is one more place without the
      // kernel; one that breaks off is worth a retry.
      const code = codeOf(error);
      if (
        code === undefined ||
        !['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'ENETUNREACH', 'EHOSTUNREACH'].includes(code)
      ) {
        throw error;
      }
      if (!places.some((place) => place.where === base)) {
        places.push({ where: base, outcome: `cannot be reached from this host (${code})` });
      }
      return undefined;
    }
  }

  /** Asks the snapshot API where and when the image package was seen, then which suite held it then. */
  private async snapshot(base: string, release: string, row: DistroRow): Promise<KernelTarget | undefined> {
    const name = `linux-image-${release}`;
    const path = `${base}/mr/binary/${encodeURIComponent(name)}/`;
    const versions = resultOf(await this.json(path), 'binary_version').sort((a, b) => compareVersions(b, a));
    for (const version of versions) {
      const answer = await this.json(`${path}${encodeURIComponent(version)}/binfiles?fileinfo=1`);
      for (const { archiveName, timestamp } of seen(answer, DEB_ARCH[this.arch])) {
        const uri = `${base}/archive/${archiveName}/${timestamp}/`;
        for (const suite of archiveSuites(archiveName, row, version)) {
          const index = await listKernels({
            ...this.options,
            mirror: uri,
            suites: [{ name: suite, mirror: 'main' }],
            arch: DEB_ARCH[this.arch],
            maxAge: Infinity,
            expiredKeys: true,
            components: ['main'],
          });
          if (!index.kernels.some((entry) => entry.release === release)) continue;
          return {
            release,
            distro: row.id,
            arch: this.arch,
            packageVersion: version,
            suite,
            archive: { uri, suite },
          };
        }
      }
    }
    return undefined;
  }

  private async json(url: string): Promise<unknown> {
    const bytes = await fetchBytes(url, MAX_JSON_BYTES, this.options);
    if (bytes === undefined) return undefined;
    try {
      return JSON.parse(bytes.toString('utf8')) as unknown;
    } catch (error) {
      throw new Dkms2binError('transient', `${url} did not answer with JSON`, { cause: error });
    }
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
): Promise<{ main: string; security: string | undefined }> {
  const host = row.family === 'debian' ? await hostMirrors() : {};
  const given = options.mirror?.replace(/\/+$/, '');
  const derived = given !== undefined && /\/debian$/.test(given) ? `${given}-security` : undefined;
  return {
    main: given ?? host.main ?? row.mirrors.main,
    security: options.securityMirror ?? derived ?? host.security ?? row.mirrors.security,
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

export function requireDebian(row: DistroRow): void {
  if (row.family === 'debian') return;
  throw new Dkms2binError('not-found', `Packages of ${row.id} cannot be looked up yet`, {
    hint: 'Debian is the only family for now.',
  });
}

/** One entry per release: several suites may carry it, and the row's order of preference decides between equals. */
function unique(row: DistroRow, kernels: readonly KernelEntry[]): KernelEntry[] {
  const rank = (suite: string): number => row.suites.findIndex(({ name }) => name === suite);
  const best = new Map<string, KernelEntry>();
  for (const kernel of kernels) {
    const known = best.get(kernel.release);
    const order = known === undefined ? 1 : compareVersions(kernel.packageVersion, known.packageVersion);
    if (known === undefined || order > 0 || (order === 0 && rank(kernel.suite) < rank(known.suite))) {
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

/** Up to five existing releases of the same flavour around `release`, in order. */
export function nearest(
  release: string,
  kernels: readonly Pick<KernelEntry, 'release'>[],
  count = 5,
): string[] {
  const flavour = /-((?:cloud-|rt-)?[a-z0-9]+)$/.exec(release)?.[1];
  const all = [...new Set(kernels.map((kernel) => kernel.release))].sort(compareReleases);
  const same = all.filter((other) => /-((?:cloud-|rt-)?[a-z0-9]+)$/.exec(other)?.[1] === flavour);
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

function globExpression(pattern: string): RegExp {
  const source = pattern
    .replace(/[.+^${}()|\\]/g, '\\$&')
    .replace(/\*+/g, '.*')
    .replace(/\?/g, '.')
    .replace(/\[!/g, '[^');
  try {
    return new RegExp(`^${source}$`);
  } catch (error) {
    throw new Dkms2binError('usage', `Not a pattern of kernel releases: ${pattern}`, { cause: error });
  }
}

/** Values of `key` in a snapshot answer's `result` array. */
function resultOf(answer: unknown, key: string): string[] {
  const result = (answer as { result?: unknown } | undefined)?.result;
  if (!Array.isArray(result)) return [];
  return result
    .map((item) => (item as Record<string, unknown>)[key])
    .filter((value): value is string => typeof value === 'string');
}

/** When and in which archive the files of one architecture were first seen; the security archive last. */
function seen(answer: unknown, arch: string): { archiveName: string; timestamp: string }[] {
  const { result, fileinfo } = (answer ?? {}) as {
    result?: { architecture?: string; hash?: string }[];
    fileinfo?: Record<string, { archive_name?: string; first_seen?: string }[]>;
  };
  if (!Array.isArray(result) || typeof fileinfo !== 'object' || fileinfo === null) return [];
  return result
    .filter((item) => item.architecture === arch && typeof item.hash === 'string')
    .flatMap((item) => fileinfo[item.hash!] ?? [])
    .filter(
      (info) =>
        /^\d{8}T\d{6}Z$/.test(info.first_seen ?? '') &&
        ['debian', 'debian-security', 'debian-backports'].includes(info.archive_name ?? ''),
    )
    .map((info) => ({ archiveName: info.archive_name!, timestamp: info.first_seen! }))
    .sort((a, b) => a.archiveName.localeCompare(b.archiveName));
}

/** Suites that may have held a package when an archive first saw it; the small ones come first. */
function archiveSuites(archiveName: string, row: DistroRow, version: string): string[] {
  const { codename } = row;
  if (codename === 'sid') return archiveName === 'debian' ? ['sid'] : [];
  if (archiveName === 'debian-security') return [`${codename}-security`];
  if (archiveName === 'debian-backports' || version.includes('~bpo')) return [`${codename}-backports`];
  // A kernel of a point release is first seen in proposed-updates.
  return [`${codename}-proposed-updates`, `${codename}-updates`, codename];
}

function codeOf(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    const { code } = at as NodeJS.ErrnoException;
    if (typeof code === 'string' && /^E[A-Z_]+$/.test(code) && !code.startsWith('ERR_')) return code;
  }
  return undefined;
}
