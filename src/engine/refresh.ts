import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { localDigest, moduleNames } from '../cell/source.js';
import type { BuildContext, PlanContext } from '../model/context.js';
import { DEB_ARCH, type Arch, type CellResult, type ModuleSource } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { stateDir } from '../lib/paths.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { offeredKernels } from '../distro/kernels.js';
import { mirrorsOf } from '../distro/mirrors.js';
import { findDkmsPackage } from '../distro/dkms-package.js';
import { findRow, catalogueOf, type CatalogueRow } from '../distro/catalogue.js';
import {
  comingCells,
  missingCells,
  plannedCell,
  sourceOf,
  type BlockedCell,
  type PublishedModule,
  type Missing,
  type NamedSource,
  type Offer,
  type RefreshPlan,
  type SourceNow,
  type TriedCell,
} from './plan/refresh.js';
import { parseModuleSource, sourceOptions } from './plan/source.js';
import type { BuildPlan } from './plan/types.js';
import type { BuildRequest } from '../options/request.js';
import { readPublished, readTried, writeTried } from './published-modules.js';
import { placesOf, resolveOptions } from './asking.js';
import { build } from './local.js';
import { once } from './once.js';
import { parseAddress } from '../source/address.js';
import { deepFreeze } from './plan/plan.js';

export interface RefreshOptions {
  /** Of each line of kernels only the newest. */
  newest: boolean;
  /** Coming kernels to try instead: `proposed`, `backports`, `next` or a distro's id. */
  validate: readonly string[];
}

/**
 * Compares what the request's out-dir holds with what the distros offer now; `dkms` says where sources are that the provenance
 * cannot tell. Starts no VM and changes nothing in the out-dir. Throws `not-found` when it holds nothing to refresh.
 */
export async function planRefresh(
  request: BuildRequest,
  { newest, validate }: RefreshOptions,
  context: PlanContext,
): Promise<RefreshPlan> {
  const outDir = resolve(request.cwd, request.outDir);
  const rows = await catalogueOf(request);
  const published = await readPublished(outDir, context);
  const ask: Ask = { request, rows, context };
  const sources = await Sources.of(ask);
  const blocked: BlockedCell[] = [];
  let missing: Missing;
  let tried: TriedCell[] = [];
  if (validate.length > 0) {
    const coming: { of: string; offer: Offer; why: string }[] = [];
    for (const what of validate) coming.push(...(await offersToCome(what, published, ask)));
    const distros = coming.map(({ offer }) => offer.distro);
    missing = comingCells(published, coming, await sources.find(published, distros));
  } else {
    const { offers, ...unasked } = await offersNow(published, ask);
    blocked.push(...unasked.blocked);
    tried = (await readTried(outDir, context.emit)).filter((each) =>
      offers.some(
        ({ distro, kernels }) => distro === each.distro && kernels.some((k) => k.release === each.kernel),
      ),
    );
    const find = await sources.find(published, null);
    missing = missingCells(published, offers, find, { tried, newest, force: request.force });
  }
  return deepFreeze({
    request: { ...request },
    cells: missing.cells.map((cell) => plannedCell(cell, request)),
    otherSources: sources.named.map(({ source }) => source),
    wanted: missing.cells,
    blocked: [...blocked, ...missing.blocked],
    tried,
    validate: validate.length > 0,
  });
}

export interface RefreshOutcome {
  run: string | null;
  accelerator: string | null;
  cells: CellResult[];
}

/**
 * Builds what a plan wants, and remembers in the out-dir which cells gave no package. For `validate` in a folder that goes
 * away; logs of failures stay in the state folder. What is blocked is a row of the result, too.
 */
export async function refresh(plan: RefreshPlan, context: BuildContext): Promise<RefreshOutcome> {
  const rows = plan.blocked.flatMap(blockedResults);
  if (plan.cells.length === 0) return { run: null, accelerator: null, cells: rows };
  const { request } = plan;
  if (!plan.validate) {
    const outcome = await buildAll(plan, context);
    await writeTried(resolve(request.cwd, request.outDir), plan, outcome.cells);
    return { ...outcome, cells: [...outcome.cells, ...rows] };
  }
  const outDir = await mkdtemp(join(tmpdir(), 'dkms2bin-validate-'));
  try {
    // Nobody installs these: no key is asked for.
    const { signKey: _key, signCert: _cert, provenanceKey: _other, ...unsigned } = request;
    const outcome = await buildAll({ ...plan, request: { ...unsigned, outDir } }, context);
    const cells = await Promise.all(
      outcome.cells.map(async (cell) => {
        const { log } = cell;
        const keep = cell.verdict === 'failed' && log !== null;
        return { ...cell, package: null, log: keep ? await keepLog(log) : null };
      }),
    );
    return { ...outcome, cells: [...cells, ...rows] };
  } finally {
    await rm(outDir, { recursive: true, force: true });
  }
}

/** One architecture after the other: the VMs of a build are all of one. */
async function buildAll(plan: BuildPlan, context: BuildContext): Promise<RefreshOutcome> {
  const outcomes = [];
  for (const arch of new Set(plan.cells.map((cell) => cell.arch))) {
    outcomes.push(await build({ ...plan, cells: plan.cells.filter((cell) => cell.arch === arch) }, context));
  }
  return {
    run: outcomes[0]?.run ?? null,
    accelerator: [...new Set(outcomes.map(({ accelerator }) => accelerator))].join(', '),
    cells: outcomes.flatMap(({ cells }) => cells),
  };
}

async function keepLog(log: string): Promise<string> {
  const to = join(stateDir(), 'validate', basename(log));
  await mkdir(dirname(to), { recursive: true });
  await writeAtomic({ file: log }, to);
  return to;
}

function blockedResults({ modules, kernel, distro, arch, fault, reason }: BlockedCell): CellResult[] {
  return modules.map((module) => ({
    ...{ module, version: null, kernel, distro, arch, reason, fault },
    verdict: fault === 'module' ? 'failed' : 'error',
    ...{ package: null, log: null, phases: {}, kept: null },
  }));
}

// --- what is offered --------------------------------------------------------------------------------------------------

function rowOf(rows: readonly CatalogueRow[], distro: string, arch: Arch): CatalogueRow {
  if (Object.hasOwn(DEB_ARCH, arch)) return findRow(rows, distro);
  throw new Dkms2binError('usage', `${arch} is not an architecture that this version can build for`);
}

/** What the distros are asked with. */
interface Ask {
  request: BuildRequest;
  rows: readonly CatalogueRow[];
  context: PlanContext;
}

/** A distro that cannot be asked blocks its own cells alone. */
async function offersNow(
  published: readonly PublishedModule[],
  { rows, request, context }: Ask,
): Promise<{ offers: Offer[]; blocked: BlockedCell[] }> {
  const offers: Offer[] = [];
  const blocked: BlockedCell[] = [];
  for (const { distro, arch } of placesOf(published)) {
    try {
      offers.push({
        ...(await offeredKernels(rowOf(rows, distro, arch), resolveOptions(request, arch, context))),
        ...{ distro, arch },
      });
    } catch (error) {
      if (!(error instanceof Dkms2binError) || context.signal.aborted) throw error;
      const its = published.filter((each) => each.distro === distro && each.arch === arch);
      for (const { module, kernel, source } of new Map(its.map((each) => [each.module, each])).values()) {
        const { fault, message: reason } = error;
        blocked.push({ modules: [module], source: source.name, kernel, distro, arch, fault, reason });
      }
    }
  }
  return { offers, blocked };
}

/** For each distro that there are packages for, what `what` means for it. */
async function offersToCome(
  what: string,
  published: readonly PublishedModule[],
  { rows, request, context }: Ask,
): Promise<{ of: string; offer: Offer; why: string }[]> {
  const coming: { of: string; offer: Offer; why: string }[] = [];
  for (const { distro: of, arch } of placesOf(published)) {
    const row = rowOf(rows, of, arch);
    const there = comingRow(what, row, rows);
    if (!there) {
      context.emit({ type: 'note', level: 'warn', message: `${of} has no ${what}` });
      continue;
    }
    const options = resolveOptions(request, arch, context);
    const { kernels, heads } = await offeredKernels(there, options);
    // Images and guests do not have this suite among their sources.
    const archive =
      what === 'proposed' && row.proposed !== undefined
        ? { uri: (await mirrorsOf(row, options)).main, suite: row.proposed }
        : null;
    const why = there.id === of ? there.suites.map(({ name }) => name).join(', ') : there.id;
    if (kernels.length === 0)
      context.emit({ type: 'note', level: 'info', message: `${why} has no kernel now` });
    const offer = {
      ...{ distro: there.id, arch, heads },
      kernels: kernels.map((kernel) => ({ ...kernel, ...(archive && { archive }) })),
    };
    coming.push({ of, offer, why });
  }
  if (coming.length > 0) return coming;
  throw new Dkms2binError('usage', `--validate ${what}: none of the packages' distros has that`);
}

function comingRow(what: string, row: CatalogueRow, rows: readonly CatalogueRow[]): CatalogueRow | undefined {
  const { proposed, next } = row;
  const released = (other: CatalogueRow): CatalogueRow => ({
    ...other,
    suites: other.suites.filter(({ role }) => role !== 'backports'),
  });
  switch (what) {
    case 'proposed':
      return proposed === undefined
        ? undefined
        : { ...row, suites: [{ name: proposed, role: 'updates', mirror: 'main' }] };
    case 'backports': {
      const suites = row.suites.filter(({ role }) => role === 'backports');
      return suites.length === 0 ? undefined : { ...row, suites };
    }
    case 'next':
      return next === undefined ? undefined : released(findRow(rows, next));
    default: {
      const other = rows.find(({ id, aliases }) => id === what || aliases.includes(what));
      if (other) return released(other);
      throw new Dkms2binError('usage', `--validate ${what}: there is no such distro`, {
        hint: `It takes proposed, backports, next or one of ${rows.map(({ id }) => id).join(', ')}.`,
      });
    }
  }
}

// --- sources ----------------------------------------------------------------------------------------------------------

/** Where the sources of published modules are now. */
class Sources {
  readonly #used = new Set<NamedSource>();
  readonly #fetched = new Map<string, Promise<ModuleSource>>();

  private constructor(
    /** Those of --dkms. */
    readonly named: readonly NamedSource[],
    private readonly ask: Ask,
  ) {}

  static async of(ask: Ask): Promise<Sources> {
    const { request } = ask;
    const { signal } = ask.context;
    const named = [];
    for (const text of request.dkms) {
      for (const source of await parseModuleSource(text, sourceOptions(request, ask.context))) {
        named.push({ source, names: await moduleNames(source, signal) });
      }
    }
    return new Sources(named, ask);
  }

  /** Looks up the sources of all published modules, in the distros given or else in the module's own. */
  async find(
    published: readonly PublishedModule[],
    distros: readonly string[] | null,
  ): Promise<(module: PublishedModule, distro: string) => SourceNow> {
    const known = new Map<string, SourceNow>();
    const key = ({ module, source, arch }: PublishedModule, distro: string): string =>
      [module, source.kind, source.name, arch, distro].join('\n');
    for (const each of published) {
      for (const distro of distros ?? [each.distro]) {
        if (!known.has(key(each, distro))) known.set(key(each, distro), await this.#now(each, distro));
      }
    }
    for (const each of this.named) {
      if (this.#used.has(each)) continue;
      const { source } = each;
      const message = `${source.text} is not the source of any package there; dkms2bin build adds it`;
      this.ask.context.emit({ type: 'note', level: 'warn', message });
    }
    return (each, distro) => {
      const now = known.get(key(each, distro));
      if (!now) throw new Error(`The source of ${each.module} was not looked up for ${distro}`);
      return now;
    };
  }

  /** What a URL or a repository has now. */
  async #fetch(text: string): Promise<ModuleSource> {
    return once(this.#fetched, text, async () => {
      const { request, context } = this.ask;
      const address = parseAddress(text);
      if (address?.kind !== 'git' && address?.kind !== 'file')
        throw new Dkms2binError('usage', `The provenance names ${text} as its source, which is no URL`);
      const [source, ...others] = await parseModuleSource(text, sourceOptions(request, context));
      if (source && others.length === 0) return source;
      throw new Dkms2binError('usage', `${text} is not one source`);
    });
  }

  async #now(published: PublishedModule, distro: string): Promise<SourceNow> {
    const { request, rows, context } = this.ask;
    const { signal } = context;
    try {
      const place = sourceOf(published, this.named);
      if ('named' in place && place.named) this.#used.add(place.named);
      const module = 'fetch' in place ? await this.#fetch(place.fetch) : place.source;
      if (module.kind !== 'repo') return { module, digest: await localDigest(module, signal), version: null };
      // The kernels were looked up a moment ago, and the indexes with them.
      const { maxAge: _, ...options } = resolveOptions(request, published.arch, context);
      const { sha256, version } = await findDkmsPackage(findRow(rows, distro), module, options);
      return { module, digest: sha256, version };
    } catch (error) {
      if (!(error instanceof Dkms2binError) || signal.aborted) throw error;
      const { fault, message, hint } = error;
      // Where no kernel is new, no row would say that nobody knows whether the source is.
      if (published.source.origin !== undefined) {
        const note = `Whether ${published.source.name}, the source of ${published.module}, has changed is not known: ${message}`;
        context.emit({ type: 'note', level: 'warn', message: note });
      }
      return { fault, reason: hint === undefined ? message : `${message}\n${hint}` };
    }
  }
}
