import { z } from 'zod';
import { identityOf, identityOptions, type SourceContent } from '../../cell/identity.js';
import { DEB_ARCH, type Arch, type CellResult } from '../../model/cell.js';
import { packageVersion } from '../../lib/paths.js';

/** What coordinator and workers say to each other. Nothing in it is secret: whoever can read Redis may read all of it. */

/** Versions of dkms2bin do not share queues: they could build the same input differently. */
export const prefixOf = (version = packageVersion()): string => `dkms2bin-${version}`;

/** Times in ms. Tests take shorter ones. */
export interface Timing {
  /** A cell is given to another worker when its own has not been heard of for so long. */
  lock: number;
  /** How often a worker says that it still builds a cell. */
  renew: number;
  /** How often the queues are searched for cells whose lock has run out. */
  stalled: number;
  /** How often an idle worker looks for work that nobody told it of, and a coordinator for results. */
  sweep: number;
  /** How often worker and coordinator say that they are there. They count as gone after three times that. */
  heartbeat: number;
  /** Pause before a cell with a passing fault is tried again; it doubles each time. */
  backoff: number;
}

export const TIMING: Timing = {
  lock: 60_000,
  renew: 15_000,
  stalled: 20_000,
  sweep: 5_000,
  heartbeat: 10_000,
  backoff: 30_000,
};

/** Times that a cell is tried when the fault is a passing one. */
export const ATTEMPTS = 3;

/** Times that a cell may lose its worker: one that kills its workers must not take all of them. */
export const MAX_LOST = 3;

/** How long a finished cell is found again, in seconds, and how many of them in one queue. */
export const KEPT = { age: 7 * 86400, count: 200_000 };

/** What a queue's cells ask of a worker. */
export interface Need {
  distro: string;
  arch: Arch;
  /** Null: any. */
  accelerator: 'kvm' | 'tcg' | null;
  /** Fingerprint of the certificate that the worker has to sign with; null: the modules stay unsigned. */
  signer: string | null;
}

/** Names the queue of such cells. */
export function queueOf({ distro, arch, accelerator, signer }: Need): string {
  return [distro, arch, accelerator ?? 'any', signer === null ? 'unsigned' : signer.slice(0, 16)].join('.');
}

const need = z.object({
  distro: z.string(),
  arch: z.enum(Object.keys(DEB_ARCH) as [Arch, ...Arch[]]),
  accelerator: z.enum(['kvm', 'tcg']).nullable(),
  signer: z
    .string()
    .regex(/^[0-9a-f]+$/)
    .nullable(),
});

/** The queues that there are, as Redis has them: name → need. */
export const parseNeed = (text: string): Need => need.parse(JSON.parse(text));

const HEX = z.string().regex(/^[0-9a-f]{64}$/);
/** A file's own name: it becomes a path on another machine. */
const FILE = z
  .string()
  .regex(/^[^/\0]+$/)
  .refine((name) => name !== '.' && name !== '..');

const source = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('repo'), text: z.string(), name: z.string(), version: z.string().optional() }),
  z.object({ kind: z.enum(['deb', 'rpm', 'tarball', 'folder']), text: z.string(), file: FILE, sha256: HEX }),
]);

/** A module's source as a job names it: a local one lies in the store, a folder as its tar. */
export type SharedSource = z.infer<typeof source>;

const job = z.object({
  source,
  /** What this source's BUILD_DEPENDS name. */
  otherSources: z.array(source),
  target: z.object({
    release: z.string(),
    distro: z.string(),
    arch: z.enum(Object.keys(DEB_ARCH) as [Arch, ...Arch[]]),
    packageVersion: z.string().optional(),
    suite: z.string().optional(),
    archive: z.object({ uri: z.string(), suite: z.string() }).optional(),
    files: z.array(z.object({ url: z.string(), sha256: z.string().optional() })).optional(),
  }),
  kernelPackages: z.array(z.object({ file: FILE, sha256: HEX })),
  need,
  /** `auto`, `official` or `bootstrap`. */
  image: z.enum(['auto', 'official', 'bootstrap']),
  mirror: z.string().optional(),
  archive: z.string().optional(),
  nameStyle: z.enum(['seed', 'dkms']),
  verify: z.boolean(),
  debugSymbols: z.boolean(),
  checkReproducible: z.boolean(),
  timeoutSeconds: z.number(),
});

/** All that a worker has to know of a cell. */
export type CellJob = z.infer<typeof job>;

export const parseJob = (data: unknown): CellJob => job.parse(data);

/**
 * A cell's name in the queue: the same inputs are the same job, whoever asks for them and when. `sourceDigest` is what
 * the distro's index says of a package now; null when that is not known.
 */
export function jobIdOf(job: CellJob, sourceDigest: string | null): string {
  const contentOf = (each: SharedSource): SourceContent => {
    if (each.kind !== 'repo') return { kind: each.kind, sha256: each.sha256 };
    if (sourceDigest === null) return { kind: 'unknown', name: `${each.name}=${each.version ?? ''}` };
    return { kind: each.kind, sha256: sourceDigest };
  };
  const identity = identityOf({
    sources: [job.source, ...job.otherSources].map(contentOf),
    target: job.target,
    signer: job.need.signer,
    options: identityOptions(job),
    order: job,
    kernelPackages: job.kernelPackages.map(({ sha256 }) => sha256),
    // The worker's own key.
    attester: null,
  });
  return `cell-${identity.slice(0, 40)}`;
}

const delivery = z.object({
  results: z.array(z.custom<CellResult>((value) => typeof value === 'object' && value !== null)),
  /** What the worker made, by its name in the out-dir. */
  files: z.array(z.object({ name: FILE, sha256: HEX, size: z.number().int() })),
  worker: z.string(),
  accelerator: z.string().nullable(),
  seconds: z.number(),
});

/** How a cell ended: paths in its results are names in `files`. */
export type Delivery = z.infer<typeof delivery>;

export const parseDelivery = (data: unknown): Delivery => delivery.parse(data);

/** What a worker tells of itself while it is there. */
export interface WorkerInfo {
  name: string;
  version: string;
  distros: string[];
  arches: string[];
  accelerator: string;
  signer: string | null;
  /** VMs at once. */
  vms: number;
  /** Cells that it builds now. */
  running: number;
}

/** Whether a worker takes cells with this need. */
export function canDo(worker: WorkerInfo, { distro, arch, accelerator, signer }: Need): boolean {
  return missingOf(worker, { distro, arch, accelerator, signer }).length === 0;
}

/** What a worker lacks for cells with this need, in words. */
export function missingOf(worker: WorkerInfo, { distro, arch, accelerator, signer }: Need): string[] {
  return [
    ...(worker.version === packageVersion()
      ? []
      : [`is dkms2bin ${worker.version}, not ${packageVersion()}`]),
    ...(worker.distros.includes(distro) ? [] : [`does not do ${distro}`]),
    ...(worker.arches.includes(arch) ? [] : [`does not do ${arch}`]),
    ...(accelerator === null || worker.accelerator === accelerator
      ? []
      : [`has ${worker.accelerator}, not ${accelerator}`]),
    ...(signer === null || worker.signer === signer ? [] : ['does not sign with the certificate asked for']),
  ];
}

/** What a worker says while it builds a cell, to whoever listens. */
export type Told =
  | { type: 'begun'; worker: string }
  | { type: 'phase'; state: 'start' | 'end'; phase: string; seconds?: number }
  | { type: 'output'; lines: string[] }
  | { type: 'done' };

/** Names in Redis besides BullMQ's own, below its prefix. */
export const names = (prefix: string) => ({
  /** Hash: queue → need. */
  queues: `${prefix}:queues`,
  /** Channel: a queue has work. */
  wake: `${prefix}:wake`,
  /** Channel: a job that nobody wants any more. */
  cancel: `${prefix}:cancel`,
  /** Channel of one job. */
  told: (job: string) => `${prefix}:told:${job}`,
  /** Sorted set of coordinators by when they were last heard of. */
  coordinators: `${prefix}:coordinators`,
  /** Set of the jobs that one of them waits for; goes when it is not heard of. */
  wants: (coordinator: string) => `${prefix}:wants:${coordinator}`,
});

/** Workers of all versions, so that one can be told of another's: sorted set by when they were last heard of. */
export const WORKERS = 'dkms2bin:workers';
/** One worker's WorkerInfo; goes when it is not heard of. */
export const workerKey = (name: string): string => `dkms2bin:worker:${name}`;
