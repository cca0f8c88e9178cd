import { basename } from 'node:path';
import type { Arch, ModuleSource, SourceOrigin } from '../../model/cell.js';
import { Dkms2binError, type Fault } from '../../model/errors.js';
import { parseRelease } from '../../distro/release.js';
import { compareReleases, compareVersions } from '../../formats/versions.js';
import { parseRepositoryName } from './source.js';
import type { BuildPlan, PlannedCell } from './types.js';

/** One module for one kernel that a repository holds, as the package's provenance tells. */
export interface PublishedModule {
  module: string;
  version: string;
  /** Kernel release. */
  kernel: string;
  distro: string;
  arch: Arch;
  /** As it was asked for; of a path the last part. */
  source: { kind: ModuleSource['kind']; name: string; origin?: SourceOrigin };
  /** SHA-256 of the source; null when it is not known. */
  digest: string | null;
  /** The distro's version of the source; null for a file or folder. */
  sourceVersion: string | null;
}

interface OfferedKernel {
  release: string;
  packageVersion: string;
  suite: string;
  /** An extra apt source that it needs. */
  archive?: { uri: string; suite: string };
}

/** What a distro's archive has for one architecture. */
export interface Offer {
  distro: string;
  arch: Arch;
  kernels: readonly OfferedKernel[];
  /** Of a repository of kernels: what its releases look like, with the group `flavour`. */
  releases?: string | undefined;
  /** Releases that metapackages point to; none where the distro has no metapackages. */
  heads: readonly string[];
}

/** What a published module's source is now. */
export type SourceNow =
  { module: ModuleSource; digest: string; version: string | null } | { fault: Fault; reason: string };

/**
 * A cell that gave no new package, so that it is not tried again before something changed. `built`: the package was there,
 * made of another source with the same outcome.
 */
export interface TriedCell {
  module: string;
  kernel: string;
  packageVersion: string;
  distro: string;
  arch: Arch;
  digest: string;
  verdict: 'built' | 'skipped' | 'failed';
  reason: string;
}

/** A cell to build, in words; `modules` are those that are missing or out of date. */
export interface WantedCell {
  modules: string[];
  source: ModuleSource;
  /** What is built: the distro's version of the source, or the module's when it did not change; null when unknown. */
  version: string | null;
  digest: string;
  kernel: OfferedKernel;
  distro: string;
  arch: Arch;
  /** `new kernel`, `new module version 1-1 → 1-2`, `changed source`. */
  why: string;
}

/** A cell that is wanted and cannot be built. */
export interface BlockedCell {
  modules: string[];
  source: string;
  kernel: string;
  distro: string;
  arch: Arch;
  fault: Fault;
  reason: string;
}

export interface Missing {
  cells: WantedCell[];
  blocked: BlockedCell[];
}

/** What `refresh` will do: a build plan and what stands behind it. */
export interface RefreshPlan extends BuildPlan {
  readonly wanted: readonly WantedCell[];
  readonly blocked: readonly BlockedCell[];
  /** What earlier runs tried and still holds. */
  readonly tried: readonly TriedCell[];
  readonly validate: boolean;
}

/** The first two numbers of a release: 6.1 of `6.1.0-56-amd64`. */
function seriesOf(release: string): number {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? [];
  return Number(major ?? 0) * 100_000 + Number(minor ?? 0);
}

/** The flavour in a release of an offer's distro; '' for a kernel of the user's own. */
export function flavourOf(release: string, { releases }: Pick<Offer, 'releases'>): string {
  const named = releases === undefined ? null : new RegExp(releases).exec(release);
  if (named) return named.groups?.flavour ?? '';
  try {
    return parseRelease(release).flavour;
  } catch {
    return '';
  }
}

/**
 * The series that each flavour's machines are led to, in order. A metapackage leads to its kernel's series; where there is
 * none, to the newest kernel's.
 */
function heads(offer: Offer, flavour: string): number[] {
  const of = (releases: readonly string[]): string[] =>
    releases.filter((release) => flavourOf(release, offer) === flavour);
  const named = of(offer.heads);
  const ends =
    named.length > 0
      ? named
      : of(offer.kernels.map((k) => k.release))
          .sort(compareReleases)
          .slice(-1);
  return [...new Set(ends.map(seriesOf))].sort((a, b) => a - b);
}

/**
 * The series that a machine with this kernel gets its next one from: its own while a metapackage stays on it (6.1 and 6.12 of
 * Debian 12), else the nearest one above, where the metapackage that it follows has gone (backports, testing). Null when
 * nothing offered is as new as it.
 */
export function lineOf(release: string, offer: Offer): number | null {
  return heads(offer, flavourOf(release, offer)).find((series) => series >= seriesOf(release)) ?? null;
}

const byRelease = (a: { release: string }, b: { release: string }): number =>
  compareReleases(a.release, b.release);

/** Offered kernels of a flavour and series, oldest first. */
function kernelsOf(offer: Offer, flavour: string, series: number): OfferedKernel[] {
  return offer.kernels
    .filter(({ release }) => flavourOf(release, offer) === flavour && seriesOf(release) === series)
    .sort(byRelease);
}

const place = ({ distro, arch }: { distro: string; arch: Arch }): string => `${distro} ${arch}`;

/** Newest kernel last, of one kernel the newest module version last. */
const byAge = (a: PublishedModule, b: PublishedModule): number =>
  compareReleases(a.kernel, b.kernel) ||
  compareVersions(a.version, b.version) ||
  compareVersions(a.sourceVersion ?? '', b.sourceVersion ?? '');

/**
 * What a repository lacks: for each module that it holds and each line of kernels that it holds it for, the kernels that are
 * newer than the newest one there, of the series that the line has come to; and the newest kernel again when the source has
 * changed since. `newest`: of each line only the newest kernel.
 */
export function missingCells(
  published: readonly PublishedModule[],
  offers: readonly Offer[],
  sourceNow: (module: PublishedModule, distro: string) => SourceNow,
  options: { tried: readonly TriedCell[]; newest: boolean; force: boolean },
): Missing {
  const found = new Collector();
  /** The newest of each module and line. */
  const newest = new Map<string, Line>();
  for (const module of [...published].sort(byAge)) {
    const offer = offers.find((each) => place(each) === place(module));
    const series = offer ? lineOf(module.kernel, offer) : null;
    if (!offer || series === null) continue;
    const flavour = flavourOf(module.kernel, offer);
    const key = [module.module, place(module), flavour, series].join(' ');
    newest.set(key, { module, kernels: kernelsOf(offer, flavour, series) });
  }
  for (const { module, kernels } of newest.values()) {
    const source = sourceNow(module, module.distro);
    const newer = kernels.filter(({ release }) => compareReleases(release, module.kernel) > 0);
    const want = (kernel: OfferedKernel, why: string): void => {
      const on: Place = { kernel, distro: module.distro, arch: module.arch };
      const before = 'fault' in source ? undefined : triedBefore(options.tried, module, source, kernel);
      if (!before || options.force) found.add(module, source, on, why);
      else if (before.verdict === 'failed') {
        const reason = `it failed before, and nothing has changed since: ${before.reason}\n--force tries it again.`;
        found.block(module, on, { fault: 'module', reason });
      }
    };
    for (const kernel of options.newest ? newer.slice(-1) : newer) want(kernel, 'new kernel');
    const own = kernels.find(({ release }) => release === module.kernel);
    if (newer.length > 0 || !own || 'fault' in source) continue;
    const change = changeOf(module, source);
    if (change !== null) want(own, change);
  }
  return found.result();
}

/** The newest module of a line of kernels, and what the line offers now, oldest first. */
interface Line {
  module: PublishedModule;
  kernels: OfferedKernel[];
}

/** What an earlier run found out about this very cell. */
function triedBefore(
  tried: readonly TriedCell[],
  module: PublishedModule,
  { digest }: Exclude<SourceNow, { fault: Fault }>,
  { release, packageVersion }: OfferedKernel,
): TriedCell | undefined {
  return tried.find(
    (each) =>
      each.module === module.module &&
      place(each) === place(module) &&
      each.kernel === release &&
      each.packageVersion === packageVersion &&
      each.digest === digest &&
      (each.verdict !== 'built' || each.kernel === module.kernel),
  );
}

function changeOf(before: PublishedModule, now: Exclude<SourceNow, { fault: Fault }>): string | null {
  const { commit } = before.source.origin ?? {};
  const newCommit = now.module.kind === 'repo' ? undefined : now.module.origin?.commit;
  if (commit !== undefined && newCommit !== undefined && commit !== newCommit)
    return `new commit ${commit.slice(0, 12)} → ${newCommit.slice(0, 12)}`;
  if (before.digest === null || before.digest === now.digest) return null;
  if (before.sourceVersion === null || now.version === null) return 'changed source';
  return compareVersions(now.version, before.sourceVersion) > 0
    ? `new module version ${before.sourceVersion} → ${now.version}`
    : null;
}

/**
 * What to try on coming kernels: each module and flavour that is published for the offer's `of` on the newest kernel of the
 * offer's lowest series, which is the one that its distro boots by default; nothing where one for a kernel as new is there.
 */
export function comingCells(
  published: readonly PublishedModule[],
  coming: readonly { of: string; offer: Offer; why: string }[],
  sourceNow: (module: PublishedModule, distro: string) => SourceNow,
): Missing {
  const found = new Collector();
  for (const { of, offer, why } of coming) {
    const newest = new Map<string, PublishedModule>();
    for (const each of [...published].sort(byAge)) {
      if (each.distro === of && each.arch === offer.arch)
        newest.set([each.module, flavourOf(each.kernel, offer)].join(' '), each);
    }
    for (const module of newest.values()) {
      const flavour = flavourOf(module.kernel, offer);
      const [lowest] = heads(offer, flavour);
      const kernel = lowest === undefined ? undefined : kernelsOf(offer, flavour, lowest).at(-1);
      if (!kernel) continue;
      const there = published.some(
        (each) =>
          each.module === module.module &&
          place(each) === place(offer) &&
          flavourOf(each.kernel, offer) === flavour &&
          seriesOf(each.kernel) === lowest &&
          compareReleases(each.kernel, kernel.release) >= 0,
      );
      const { distro, arch } = offer;
      if (!there) found.add(module, sourceNow(module, distro), { kernel, distro, arch }, why);
    }
  }
  return found.result();
}

/** A kernel where it is offered. */
interface Place {
  kernel: OfferedKernel;
  distro: string;
  arch: Arch;
}

/** Modules of one source for one kernel are one cell. */
class Collector {
  readonly #cells = new Map<string, WantedCell>();
  readonly #blocked = new Map<string, BlockedCell>();

  add(published: PublishedModule, source: SourceNow, on: Place, why: string): void {
    if ('fault' in source) {
      this.block(published, on, source);
      return;
    }
    const { module, digest } = source;
    const key = [module.kind, module.text, place(on), on.kernel.release].join('\n');
    const version = source.version ?? (digest === published.digest ? published.version : null);
    const cell = this.#cells.get(key) ?? { modules: [], source: module, version, digest, ...on, why };
    if (!cell.modules.includes(published.module)) cell.modules.push(published.module);
    this.#cells.set(key, cell);
  }

  block(
    { module, source }: PublishedModule,
    { kernel: { release: kernel }, distro, arch }: Place,
    { fault, reason }: { fault: Fault; reason: string },
  ): void {
    const key = [source.kind, source.name, distro, arch, kernel, fault, reason].join('\n');
    const cell = this.#blocked.get(key) ?? {
      ...{ modules: [], source: source.name, kernel, distro, arch, fault, reason },
    };
    if (!cell.modules.includes(module)) cell.modules.push(module);
    this.#blocked.set(key, cell);
  }

  result(): Missing {
    return {
      cells: [...this.#cells.values()].sort(
        (a, b) => order(a.distro, b.distro) || byRelease(a.kernel, b.kernel),
      ),
      blocked: [...this.#blocked.values()].sort(
        (a, b) => order(a.distro, b.distro) || compareReleases(a.kernel, b.kernel),
      ),
    };
  }
}

const order = (a: string, b: string): number => Number(a > b) - Number(a < b);

/** A wanted cell in the words of a build plan. */
export function plannedCell(
  { source, kernel, distro, arch }: WantedCell,
  { image, nameStyle }: BuildPlan['request'],
): PlannedCell {
  const { release, packageVersion, suite, archive } = kernel;
  return {
    source: source.text,
    kernel: release,
    distro,
    arch,
    packageVersion,
    image,
    fileStyle: nameStyle,
    module: source,
    target: { release, distro, arch, packageVersion, suite, ...(archive && { archive }) },
  };
}

/** A source of --dkms, and the names of the modules that it seems to bring. */
export interface NamedSource {
  source: ModuleSource;
  names: readonly string[];
}

/** Where a source is now: known, or to be fetched from where the text says. */
export type SourcePlace = { source: ModuleSource; named?: NamedSource } | { fetch: string };

/**
 * Where a published module's source is now: the one of --dkms that brings the module or is called the same, else the package of
 * the distro, the URL or the repository that it came from. Throws `usage` for a file or folder that is not named.
 */
export function sourceOf(
  { module, source: { kind, name, origin } }: PublishedModule,
  known: readonly NamedSource[],
): SourcePlace {
  const plainName = (text: string): string => text.toLowerCase().replaceAll('_', '-');
  const typed = kind === 'repo' ? parseRepositoryName(name) : null;
  const called = ({ source }: NamedSource): boolean =>
    source.kind === 'repo'
      ? typed?.kind === 'repo' && typed.name === source.name
      : source.kind === kind && (source.origin ? source.text : basename(source.text)) === name;
  const named =
    known.find(({ names }) => names.some((each) => plainName(each) === plainName(module))) ??
    known.find(called);
  if (named) return { source: named.source, named };
  if (typed) return { source: typed };
  if (origin) return { fetch: name };
  const what = kind === 'folder' || kind === 'tarball' ? kind : `.${kind}`;
  throw new Dkms2binError('usage', `Its source was the ${what} ${name}, and its location is not recorded`, {
    hint: 'Name it with --dkms, here or in the config file.',
  });
}
