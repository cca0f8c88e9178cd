import { z } from 'zod';
import { identityOf, sourceContent, type SourceContent } from '../../cell/identity.js';
import { identityOptions } from '../../options/request.js';
import { ARCHES } from '../../model/cell.js';
import { Dkms2binError } from '../../model/errors.js';
import {
  DistroId,
  FileName,
  GitCommit,
  Label,
  PackageName,
  Release,
  Sha256,
  SourceUrl,
  Version,
  Words,
  wordsOf,
} from '../../model/forms.js';
import { Cell } from '../../model/result-schema.js';
import { stage } from '../../model/stages.js';
import { packageVersion } from '../../lib/paths.js';

/**
 * What coordinators and workers say to each other, and where in Redis. Nothing in it is secret: whoever can read Redis may
 * read all of it. Whoever can write there may say anything, so all of it is read through these forms.
 */

const need = z.strictObject({
  distro: DistroId,
  arch: z.enum(ARCHES),
  /** Null: any. */
  accelerator: z.enum(['kvm', 'tcg']).nullable(),
  /** Fingerprint of the certificate that the worker has to sign with; null: the modules stay unsigned. */
  signer: Sha256.nullable(),
});

/** What a queue's cells ask of a worker. */
export type Need = z.infer<typeof need>;

/** A queue's need, as Redis has it; null for what is none. */
export const parseNeed = (text: string): Need | null => read(need, text);

const source = z.discriminatedUnion('kind', [
  z.strictObject({
    ...{ kind: z.literal('repo'), text: Label, name: PackageName },
    ...{ version: Version.exactOptional(), module: PackageName.exactOptional() },
  }),
  z.strictObject({
    kind: z.enum(['deb', 'rpm', 'tarball', 'folder']),
    text: Label,
    file: FileName,
    sha256: Sha256,
    /** Where the coordinator fetched it, for the provenance: a worker takes it from the store. */
    origin: z.strictObject({ url: SourceUrl, commit: GitCommit.exactOptional() }).exactOptional(),
  }),
]);

/** A module's source as a job names it: a local one lies in the store, a folder as its tar. */
export type SharedSource = z.infer<typeof source>;

/** A list longer than this is an attack. */
const MAX_ENTRIES = 1000;
const MAX_TIMEOUT_SECONDS = 30 * 86_400;

const job = z.strictObject({
  source,
  /** What this source's BUILD_DEPENDS name. */
  otherSources: z.array(source).max(MAX_ENTRIES),
  /** Where it comes from is the worker's own affair: it looks in its own catalogue, mirrors and archives. */
  kernel: z.strictObject({
    release: Release,
    /** The distro's version of the image package; absent when only files were given that do not tell. */
    packageVersion: Version.optional(),
  }),
  kernelPackages: z.array(z.strictObject({ file: FileName, sha256: Sha256 })).max(MAX_ENTRIES),
  /** Packages that the source needs to build: of the distro by name, or files. */
  buildPackages: z
    .array(
      z.union([
        // What ends so would be a file of the worker's own folder.
        z.strictObject({ name: PackageName.regex(/^(?!.*\.deb$)/i, 'not a package name') }),
        z.strictObject({ file: FileName.regex(/\.deb$/), sha256: Sha256 }),
      ]),
    )
    .max(MAX_ENTRIES),
  need,
  image: z.enum(['auto', 'official', 'bootstrap']),
  nameStyle: z.enum(['release', 'dkms']),
  verify: z.boolean(),
  strict: z.boolean(),
  debugSymbols: z.boolean(),
  checkReproducible: z.boolean(),
  timeoutSeconds: z.number().positive().max(MAX_TIMEOUT_SECONDS),
});

/** All that a worker has to know of a cell. */
export type CellJob = z.infer<typeof job>;

/** Throws fault `usage` for what is no job. */
export function parseJob(data: unknown): CellJob {
  const { data: parsed, error } = job.safeParse(data);
  if (!error) return parsed;
  const why = wordsOf(z.prettifyError(error)).slice(0, 2000);
  throw new Dkms2binError('usage', `The queue holds a job that cannot be read: ${why}`);
}

/** The cell of a job in words. */
export const labelOf = ({ source: { text }, kernel }: CellJob): string => `${text} × ${kernel.release}`;

/**
 * A cell's name in the queue: the same inputs are the same job, whoever asks for them and when. `sourceDigest` is what
 * the distro's index says of a package now; null when that is not known.
 */
export function jobIdOf(job: CellJob, sourceDigest: string | null): string {
  const contentOf = (each: SharedSource): SourceContent => {
    if (each.kind !== 'repo') return sourceContent(each, each.sha256);
    if (sourceDigest === null) return { kind: 'unknown', name: `${each.name}=${each.version ?? ''}` };
    return { kind: each.kind, sha256: sourceDigest };
  };
  const identity = identityOf({
    sources: [job.source, ...job.otherSources].map(contentOf),
    target: { ...job.kernel, distro: job.need.distro, arch: job.need.arch },
    signer: job.need.signer,
    options: identityOptions(job),
    order: job,
    kernelPackages: job.kernelPackages.map(({ sha256 }) => sha256),
    buildPackages: job.buildPackages.map((each) => ('name' in each ? each.name : each.sha256)),
    // The worker's own key.
    attester: null,
  });
  return `cell-${identity.slice(0, 40)}`;
}

/** A guest hands over half a GiB at most; what is larger would only fill the disk of whoever takes it. */
const MAX_FILE_BYTES = 2 ** 30;
const MAX_FILES_BYTES = 4 * MAX_FILE_BYTES;

/** No cell takes so long, whoever says it. */
const seconds = z
  .number()
  .nonnegative()
  .max(100 * MAX_TIMEOUT_SECONDS);

const delivery = z.strictObject({
  /** Paths are names in `files`. */
  results: z
    .array(
      z.strictObject({
        ...Cell.shape,
        // An error's row is called what its source is.
        module: Label,
        version: Version.nullable(),
        kernel: Release,
        distro: DistroId,
        reason: Words.nullable(),
        package: FileName.nullable(),
        otherPackages: z.array(FileName).max(MAX_ENTRIES).optional(),
        log: FileName.nullable(),
        phases: z
          .record(Label, seconds)
          .refine((phases) => Object.keys(phases).length <= MAX_ENTRIES, 'too many phases'),
        kept: z.null(),
        notes: z.array(Label).max(MAX_ENTRIES).optional(),
      }),
    )
    .min(1)
    .max(MAX_ENTRIES),
  /** What the worker made, by its name in the out-dir. */
  files: z
    .array(
      z.strictObject({
        name: FileName,
        sha256: Sha256,
        size: z.number().int().nonnegative().max(MAX_FILE_BYTES),
      }),
    )
    .max(10 * MAX_ENTRIES)
    .refine((files) => files.reduce((sum, { size }) => sum + size, 0) <= MAX_FILES_BYTES, 'too much in all'),
  worker: Label,
  accelerator: z
    .string()
    .regex(/^(?:kvm|tcg)$/)
    .nullable(),
  seconds,
});

/** How a cell ended. */
export type Delivery = z.infer<typeof delivery>;

/** Throws fault `transient` for what is none; whether it is this cell's, `requireAskedFor` says. */
export function parseDelivery(data: unknown): Delivery {
  const { data: parsed, error } = delivery.safeParse(data);
  if (!error) return parsed;
  throw new Dkms2binError('transient', wordsOf(z.prettifyError(error)).slice(0, 2000));
}

const workerInfo = z.object({
  name: Label,
  version: Label,
  distros: z.array(DistroId).max(MAX_ENTRIES),
  arches: z.array(Label).max(MAX_ENTRIES),
  accelerator: Label,
  signer: Sha256.nullable(),
  /** VMs at once. */
  vms: z.number().int().nonnegative(),
  /** Cells that it builds now. */
  running: z.number().int().nonnegative(),
});

/** What a worker tells of itself while it is there. */
export type WorkerInfo = z.infer<typeof workerInfo>;

/** Null for what is none. */
export const parseWorkerInfo = (text: string): WorkerInfo | null => read(workerInfo, text);

const progress = z.object({ worker: Label });

/** The worker that a job's progress names; null while none has begun. */
export const workerOf = (data: unknown): string | null => progress.safeParse(data).data?.worker ?? null;

const told = z.discriminatedUnion('type', [
  z.object({ type: z.literal('begun'), worker: Label }),
  z.object({
    type: z.literal('phase'),
    state: z.enum(['start', 'end']),
    phase: stage.refine((name) => Label.safeParse(name).success),
    seconds: z.number().nonnegative().optional(),
  }),
  z.object({ type: z.literal('output'), lines: z.array(z.string().transform(wordsOf)).max(MAX_ENTRIES) }),
  z.object({ type: z.literal('done') }),
]);

/** What a worker says while it builds a cell, to whoever listens. */
export type Told = z.infer<typeof told>;

/** Null for what is none. */
export const parseTold = (text: string): Told | null => read(told, text);

/** Whether BullMQ choked on what Redis holds of a job: no JSON, or JSON of another kind. */
export const isNonsense = (error: unknown): boolean =>
  error instanceof SyntaxError || error instanceof TypeError;

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
