import type { Machine } from '../environment/boot.js';
import { buildPackagesOf } from './build-packages.js';
import { imageOutlook, kernelOutlook, type ImageOutlook } from '../environment/outlook.js';
import type { Variant } from '../environment/base-image.js';
import { readTimings, writeTimings, type Taken } from '../cache/timings.js';
import { findRow, type CatalogueRow } from '../distro/catalogue.js';
import { baseId } from '../distro/row.js';
import { contentDigest } from '../cache/entries.js';
import type { KernelTarget } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { CourseStep, Emit, Event } from '../model/events.js';

import { resolve } from 'node:path';
import type { CellDone } from './executor.js';
import type { BuildRequest } from '../options/request.js';

type CourseEvent = Extract<Event, { type: 'course' }>;

/** What a run is going to do: kernels to make ready, and cells to build on them. */
export interface Undertaking {
  request: BuildRequest;
  targets: readonly KernelTarget[];
  /** Of each cell its label and its source. */
  cells: readonly { label: string; source: string }[];
  variant?: Variant;
  /** VMs side by side. */
  jobs: number;
}

/** Where what is there, and what is ahead, is listed. */
interface Found {
  machine: Machine;
  ahead: CourseStep[];
  there: string[];
}

/** Seconds on two cores, until this machine has shown its own: see docs/benchmarks.md. */
const USUAL: Record<string, Record<'kvm' | 'tcg', number>> = {
  download: { kvm: 45, tcg: 45 },
  'image root': { kvm: 12, tcg: 12 },
  'bootstrap packages': { kvm: 80, tcg: 80 },
  'bootstrap filesystem': { kvm: 20, tcg: 20 },
  'bootstrap convert': { kvm: 3, tcg: 3 },
  'native layer': { kvm: 40, tcg: 40 },
  'VM layer': { kvm: 90, tcg: 900 },
  snapshot: { kvm: 12, tcg: 90 },
  cell: { kvm: 15, tcg: 60 },
};

/** Bytes of packages, about, where no index tells. */
const PACKAGES = { bootstrap: 260e6, official: 148e6, made: 85e6 };

/** Reckons a run before it begins, from the cache, the servers' word and what steps took before; and learns from it. */
class Reckoner {
  /** Kinds of steps by the names that events have for them. */
  readonly #kinds = new Map<string, string>();
  readonly #taken = new Map<string, Taken>();
  readonly #running = new Map<string, { since: number; lines: number }>();

  private constructor(
    private readonly accel: 'kvm' | 'tcg',
    private readonly known: Readonly<Record<string, Taken>>,
  ) {}

  static async open(accel: 'kvm' | 'tcg'): Promise<Reckoner> {
    return new Reckoner(accel, await readTimings());
  }

  async course(undertaking: Undertaking, rows: CatalogueRow[], machine: Machine): Promise<CourseEvent> {
    const { request, targets, cells, variant = 'build', jobs } = undertaking;
    const ahead: CourseStep[] = [];
    const there: string[] = [];
    const images = await this.#images(undertaking, { rows, machine, ahead, there });
    const local = await localDigests(request);
    const asked = await buildDigests(request, variant);
    for (const target of targets) {
      const outlook = images.get(target.distro);
      const digests = local && archivedDigests(target, local);
      const more = digests && [...digests, ...asked.names, ...asked.digests];
      const native = digests?.length === 0 && asked.digests.length === 0;
      if (outlook)
        await this.#kernel({ target, outlook, digests: more, native, variant }, { machine, ahead, there });
    }
    const building = cells.map(({ label, source }) => this.#cell(label, source));
    return {
      type: 'course',
      ahead: [...ahead, ...building],
      there,
      ...(machine.accel === 'tcg' && cells.length > 0 && variant === 'build'
        ? { compiles: machine.compileOnHost ? 'host' : 'guest' }
        : {}),
      seconds: sumOf(ahead) + sumOf(building) / Math.max(1, Math.min(jobs, building.length)),
    };
  }

  /** Writes down what was heard. */
  async close(): Promise<void> {
    await writeTimings(this.#taken);
  }

  #image(row: CatalogueRow, { road, base, bytes, download, unpack }: ImageOutlook): CourseStep[] {
    if (base !== null || road === 'given') return [];
    if (road === 'bootstrap') {
      const about = { image: true, bytes: PACKAGES.bootstrap } as const;
      return [
        {
          ...this.#stage('bootstrap packages', 'bootstrap packages', `${row.id} image from packages`),
          ...about,
        },
        { ...this.#stage('bootstrap filesystem', 'bootstrap filesystem', 'its file system'), image: true },
        { ...this.#stage('bootstrap convert', 'bootstrap convert', 'its disk'), image: true },
      ];
    }
    const key = `${row.id} image`;
    this.#kinds.set(key, 'download');
    const loading = {
      kind: 'download',
      key,
      what: `official ${key}`,
      seconds: this.#seconds('download'),
    } as const;
    return [
      ...(download ? [{ ...loading, image: true as const, ...(bytes && { bytes }) }] : []),
      ...(unpack
        ? [{ ...this.#stage('image root', 'image root', 'its root folder'), image: true as const }]
        : []),
    ];
  }

  #layer(
    { release }: KernelTarget,
    { road }: ImageOutlook,
    { native, variant }: { native: boolean; variant: Variant },
  ): CourseStep {
    const name = `${variant === 'build' ? 'kernel' : 'runtime'} layer ${release}`;
    const bytes = road === 'official' ? PACKAGES.official : PACKAGES.made;
    return {
      ...this.#stage(native ? 'native layer' : 'VM layer', name),
      ...(variant === 'build' && { bytes }),
    };
  }

  #stage(kind: string, key: string, what = key): CourseStep {
    this.#kinds.set(key, kind);
    const { lines } = this.known[this.#name(kind)] ?? {};
    return { kind: 'stage', key, what, seconds: this.#seconds(kind), ...(lines && { lines }) };
  }

  #cell(label: string, source: string): CourseStep {
    const own = `cell ${source}`.slice(0, 150);
    this.#kinds.set(label, own);
    const { lines } = this.known[this.#name(own)] ?? {};
    const seconds = this.known[this.#name(own)]?.seconds ?? this.#seconds('cell');
    return { kind: 'cell', key: label, what: label, seconds, ...(lines && { lines }) };
  }

  #seconds(kind: string): number {
    return this.known[this.#name(kind)]?.seconds ?? USUAL[kind]?.[this.accel] ?? 60;
  }

  #name(kind: string): string {
    return `${kind} ${this.accel}`;
  }

  async #images(
    { request, targets, variant = 'build' }: Undertaking,
    { rows, machine, ahead, there }: Found & { rows: CatalogueRow[] },
  ): Promise<Map<string, ImageOutlook>> {
    const images = new Map<string, ImageOutlook>();
    for (const distro of new Set(targets.map((each) => each.distro))) {
      const own = findRow(rows, distro);
      const row = findRow(rows, baseId(own));
      const found = await imageOutlook(row, { ...machine, ...request, arch: machine.arch, variant });
      const outlook = { ...found, base: found.base && { ...found.base, row: own } };
      images.set(distro, outlook);
      const steps = this.#image(row, outlook);
      if (steps.length === 0 && outlook.base) there.push(`${nameOf(outlook)} image of ${distro}`);
      ahead.push(...steps);
    }
    return images;
  }

  async #kernel(
    {
      target,
      outlook,
      digests,
      variant,
      ...asked
    }: {
      target: KernelTarget;
      outlook: ImageOutlook;
      digests: readonly string[] | null;
      /** Whether no package is given as a file. */
      native: boolean;
      variant: Variant;
    },
    { machine, ahead, there }: Found,
  ): Promise<void> {
    const base = digests === null ? null : outlook.base;
    const found = await kernelOutlook({ base, target, variant, digests: digests ?? [] }, machine);
    const parts = [...(found.layer ? ['layer'] : []), ...(found.snapshot ? ['snapshot'] : [])];
    if (parts.length > 0) there.push(`${parts.join(' and ')} of ${target.release}`);
    const native = outlook.native && asked.native;
    if (!found.layer) ahead.push(this.#layer(target, outlook, { native, variant }));
    if (!found.snapshot) ahead.push(this.#stage('snapshot', `memory snapshot ${target.release}`));
  }

  /** Hears what steps take. */
  hear(event: Event): void {
    switch (event.type) {
      case 'phase':
        return this.#phase(event);
      case 'progress':
        if (this.#kinds.get(event.what) !== 'download') return;
        if (event.total !== undefined && event.done >= event.total) this.#end(event.what);
        else this.#begin(event.what);
        return;
      case 'output': {
        const shared = [...this.#running.keys()].findLast(
          (key) => !this.#kinds.get(key)?.startsWith('cell '),
        );
        const at = this.#running.get(event.cell ?? shared ?? '');
        if (at) at.lines += 1;
      }
    }
  }

  #phase({ phase, state, cell }: Extract<Event, { type: 'phase' }>): void {
    if (cell !== undefined) {
      if (phase === 'boot' && state === 'start') this.#begin(cell);
    } else if (state === 'start') this.#begin(phase);
    else this.#end(phase);
  }

  /** A cell's results are there. One that was up to date, or could not be tried, tells nothing of how long a build takes. */
  built(label: string, { results, accelerator }: CellDone): void {
    const tells = results.every(({ verdict }) => verdict === 'built' || verdict === 'failed');
    if (tells && accelerator !== null) this.#end(label);
    this.#running.delete(label);
  }

  #begin(key: string): void {
    if (!this.#kinds.has(key) || this.#running.has(key)) return;
    this.#running.set(key, { since: performance.now(), lines: 0 });
  }

  #end(key: string): void {
    const at = this.#running.get(key);
    const kind = this.#kinds.get(key);
    this.#running.delete(key);
    if (!at || kind === undefined) return;
    const seconds = Math.max(0.1, (performance.now() - at.since) / 1000);
    const taken = { seconds, lines: at.lines };
    this.#taken.set(this.#name(kind), taken);
    // For modules that were never built here.
    if (kind.startsWith('cell ')) this.#taken.set(this.#name('cell'), taken);
  }
}

/** Reckons one run: `emit` hears what it takes from `begin` on. */
export function reckon(emit: Emit): {
  emit: Emit;
  begin: (undertaking: Undertaking, rows: CatalogueRow[], machine: Machine) => Promise<void>;
  built: (label: string, done: CellDone) => void;
  end: () => Promise<void>;
} {
  let reckoner: Reckoner | undefined;
  return {
    emit: (event) => {
      reckoner?.hear(event);
      emit(event);
    },
    begin: async (undertaking, rows, machine) => {
      const opened = await Reckoner.open(machine.accel);
      try {
        emit(await opened.course(undertaking, rows, machine));
      } catch (error) {
        // What is wrong is told by the cells that it concerns.
        if (!(error instanceof Dkms2binError) || error.fault === 'interrupted') throw error;
      }
      reckoner = opened;
    },
    built: (label, done) => reckoner?.built(label, done),
    end: async () => reckoner?.close(),
  };
}

const sumOf = (steps: readonly CourseStep[]): number => steps.reduce((sum, { seconds }) => sum + seconds, 0);

const nameOf = ({ road }: ImageOutlook): string =>
  road === 'given' ? 'given' : road.replace('strap', 'strapped');

/** Of the --kernel-package files; null when some are to be downloaded first. */
async function localDigests({ kernelPackages, cwd }: BuildRequest): Promise<string[] | null> {
  if (kernelPackages.some((each) => /^https?:/.test(each))) return null;
  // One that cannot be read is told by who needs it.
  const digests = kernelPackages.map((each) => contentDigest(resolve(cwd, each)).catch(() => ''));
  return Promise.all(digests);
}

/** What --build-package names, as a layer is known by it; one that cannot be used is told by who needs it. */
async function buildDigests(
  request: BuildRequest,
  variant: Variant,
): Promise<{ names: string[]; digests: string[] }> {
  const none = { names: [], files: [] };
  const { names, files } = variant === 'build' ? await buildPackagesOf(request).catch(() => none) : none;
  return { names, digests: await Promise.all(files.map((file) => contentDigest(file).catch(() => ''))) };
}

function archivedDigests({ files = [] }: KernelTarget, local: readonly string[]): string[] | null {
  const digests = files.map(({ sha256 }) => sha256);
  return digests.every((each) => each !== undefined) ? [...local, ...digests] : null;
}
