import { z } from 'zod';
import { identityOf, identityOptions, type SourceContent } from '../../cell/identity.js';
import { ARCHES } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import { Cell } from '../../model/result-schema.js';
import { stage } from '../../model/stages.js';
import { packageVersion } from '../../lib/paths.js';

/**
 * What coordinators and workers say to each other, and where in Redis. Nothing in it is secret: whoever can read Redis may
 * read all of it. Whoever can write there may say anything, so all of it is read through these forms.
 */

const need = z.object({
  distro: z.string(),
  arch: z.enum(ARCHES),
  /** Null: any. */
  accelerator: z.enum(['kvm', 'tcg']).nullable(),
  /** Fingerprint of the certificate that the worker has to sign with; null: the modules stay unsigned. */
  signer: z
    .string()
    .regex(/^[0-9a-f]+$/)
    .nullable(),
});

/** What a queue's cells ask of a worker. */
export type Need = z.infer<typeof need>;

/** A queue's need, as Redis has it; null for what is none. */
export const parseNeed = (text: string): Need | null => read(need, text);

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
    arch: z.enum(ARCHES),
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

/** Throws fault `usage` for what is no job. */
export function parseJob(data: unknown): CellJob {
  const { data: parsed, error } = job.safeParse(data);
  if (error)
    throw new Dkms2binError('usage', `The queue holds a job that cannot be read: ${z.prettifyError(error)}`);
  return parsed;
}

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
  /** Paths are names in `files`. */
  results: z.array(Cell.extend({ package: FILE.nullable(), log: FILE.nullable() })),
  /** What the worker made, by its name in the out-dir. */
  files: z.array(z.object({ name: FILE, sha256: HEX, size: z.number().int() })),
  worker: z.string(),
  accelerator: z.string().nullable(),
  seconds: z.number(),
});

/** How a cell ended. */
export type Delivery = z.infer<typeof delivery>;

/** Null for what is none. */
export const parseDelivery = (data: unknown): Delivery | null => delivery.safeParse(data).data ?? null;

const workerInfo = z.object({
  name: z.string(),
  version: z.string(),
  distros: z.array(z.string()),
  arches: z.array(z.string()),
  accelerator: z.string(),
  signer: z.string().nullable(),
  /** VMs at once. */
  vms: z.number().int().nonnegative(),
  /** Cells that it builds now. */
  running: z.number().int().nonnegative(),
});

/** What a worker tells of itself while it is there. */
export type WorkerInfo = z.infer<typeof workerInfo>;

/** Null for what is none. */
export const parseWorkerInfo = (text: string): WorkerInfo | null => read(workerInfo, text);

const progress = z.object({ worker: z.string() });

/** The worker that a job's progress names; null while none has begun. */
export const workerOf = (data: unknown): string | null => progress.safeParse(data).data?.worker ?? null;

const told = z.discriminatedUnion('type', [
  z.object({ type: z.literal('begun'), worker: z.string() }),
  z.object({
    type: z.literal('phase'),
    state: z.enum(['start', 'end']),
    phase: stage,
    seconds: z.number().optional(),
  }),
  z.object({ type: z.literal('output'), lines: z.array(z.string()) }),
  z.object({ type: z.literal('done') }),
]);

/** What a worker says while it builds a cell, to whoever listens. */
export type Told = z.infer<typeof told>;

/** Null for what is none. */
export const parseTold = (text: string): Told | null => read(told, text);

/** JSON text in a form; null for what is neither. */
function read<T>(form: z.ZodType<T>, text: string): T | null {
  return form.safeParse(jsonOf(text)).data ?? null;
}

/** What a JSON text holds; undefined when it is none. */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** Versions of dkms2bin do not share queues: they could build the same input differently. All that BullMQ writes is below it, too. */
export const PREFIX = `dkms2bin-${packageVersion()}`;

/** Names in Redis besides BullMQ's own. */
export const NAMES = {
  /** Hash: queue → need. */
  queues: `${PREFIX}:queues`,
  /** Channel: a queue has work. */
  wake: `${PREFIX}:wake`,
  /** Channel: a job that nobody wants any more. */
  cancel: `${PREFIX}:cancel`,
  /** Channel of one job. */
  told: (job: string): string => `${PREFIX}:told:${job}`,
  /** Sorted set of coordinators by when they were last heard of. */
  coordinators: `${PREFIX}:coordinators`,
  /** Set of the jobs that one of them waits for; goes when it is not heard of. */
  wants: (coordinator: string): string => `${PREFIX}:wants:${coordinator}`,
  /** Workers of all versions, so that one can be told of another's: sorted set by when they were last heard of. */
  workers: 'dkms2bin:workers',
  /** One worker's WorkerInfo; goes when it is not heard of. */
  worker: (name: string): string => `dkms2bin:worker:${name}`,
};

/** What a worker says of a job that it ended because nobody waits for it. */
export const CANCELLED = 'cancelled: nobody waits for it';
