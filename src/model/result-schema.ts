import { z } from 'zod';
import { ARCHES, type CellResult } from './cell.js';
import type { MatrixCell, MatrixRun } from './matrix.js';
import type { Notification } from './notification.js';
import type { Proof } from './proof.js';
import type { UpgradeProof } from './upgrade-proof.js';

/** One row of a result. */
export const Cell = z.strictObject({
  module: z.string().describe('Name of the DKMS module'),
  version: z.string().nullable().describe("The module's version, null when it was never learnt"),
  kernel: z.string().describe('Kernel release, as uname -r prints it'),
  distro: z.string().describe('Catalogue id, such as debian-12'),
  arch: z.enum(ARCHES).describe("The kernel's name of the architecture"),
  verdict: z.enum(['built', 'skipped', 'failed', 'error']),
  reason: z
    .string()
    .nullable()
    .describe(
      'Why it is not built; for a built one what is worth knowing: up to date, no hardware to load it for',
    ),
  package: z.string().nullable().describe('Absolute path of the package, null unless built'),
  otherPackages: z
    .array(z.string())
    .optional()
    .describe(
      'Absolute paths of the packages that came with it: the common one, which it needs, and debug symbols; absent when there are none',
    ),
  log: z.string().nullable().describe('Absolute path of make.log, null when no build ran'),
  phases: z
    .record(z.string(), z.number().nonnegative())
    .describe("Wall seconds by phase; build is the guest's own dkms build"),
  kept: z.string().nullable().describe('Kept run to log in to'),
  fault: z
    .enum(['module', 'usage', 'not-found', 'host', 'transient', 'interrupted'])
    .nullable()
    .describe('Whose fault a failed or error verdict is; decides the exit code'),
  notes: z
    .array(z.string())
    .optional()
    .describe('What whoever installs the package should know; absent when there is nothing'),
  reproducible: z
    .boolean()
    .optional()
    .describe('Whether a second build gave the same packages to the byte; absent when that was not checked'),
}) satisfies z.ZodType<CellResult>;

const EndedBy = z.strictObject({
  fault: z.enum(['module', 'usage', 'not-found', 'host', 'transient', 'interrupted']),
  message: z.string(),
  hint: z.string().nullable(),
});

/** The document that `--json` prints. A field may be added under one schemaVersion; none changes or goes. */
export const ResultDocument = z.strictObject({
  schemaVersion: z.literal(1),
  run: z.string().nullable().describe('Id of the run, null when it ended before it began'),
  accelerator: z.string().nullable().describe('kvm or tcg, null when no VM ran'),
  cells: z.array(Cell),
  error: EndedBy.optional().describe('What ended the run before it had cells to report'),
});
export type ResultDocument = z.infer<typeof ResultDocument>;

const Fault = z.enum(['module', 'usage', 'not-found', 'host', 'transient', 'interrupted']);
const Wanted = {
  modules: z.array(z.string()).min(1).describe('Names of the DKMS modules that are missing or out of date'),
  source: z
    .string()
    .describe('What they are built from, as --dkms takes it; of a path the last part when blocked'),
  kernel: z.string().describe('Kernel release, as uname -r prints it'),
  distro: z.string().describe('Catalogue id, such as debian-12'),
  arch: Cell.shape.arch,
};

/** The document that `refresh --dry-run --json` prints. */
export const RefreshDocument = z.strictObject({
  schemaVersion: z.literal(1),
  missing: z.array(
    z.strictObject({
      ...Wanted,
      version: z
        .string()
        .nullable()
        .describe("The distro's version of the source, else the module's; null when it is not known yet"),
      reason: z
        .string()
        .describe('new kernel, new module version OLD → NEW, changed source, or what is tried'),
    }),
  ),
  blocked: z.array(
    z.strictObject({
      ...Wanted,
      reason: z.string().describe('Why it cannot be built'),
      fault: Fault.describe('Whose fault that is; decides the exit code when nothing is missing'),
    }),
  ),
});

export type RefreshDocument = z.infer<typeof RefreshDocument>;

/** JSON Schema of that document, published as schema/refresh.schema.json. */
export function refreshJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(RefreshDocument), title: 'dkms2bin refresh --dry-run --json' };
}

/** JSON Schema of the `--json` document, published as schema/result.schema.json. */
export function resultJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(ResultDocument), title: 'dkms2bin --json' };
}

const Found = z.strictObject({
  schemaVersion: z.literal(1),
  status: z
    .enum(['found', 'ambiguous'])
    .describe('found: firstBad follows lastGood; ambiguous: kernels between them gave no answer'),
  lastGood: z.string().describe('The newest kernel before firstBad for which the module builds'),
  firstBad: z.string().describe('The oldest kernel after lastGood for which the module fails'),
  untested: z.array(z.string()).describe('Kernels between the two that gave no answer, oldest first'),
  steps: z
    .array(
      z.strictObject({
        kernel: z.string(),
        answer: z.enum(['good', 'bad', 'untested']).describe('untested: skipped, or an error'),
        cells: z.array(Cell),
      }),
    )
    .describe('In the order asked'),
});

/** The document that `bisect --json` prints: a search, or what ended it. */
export const BisectDocument = z.union([
  Found,
  z.strictObject({ schemaVersion: z.literal(1), error: EndedBy }),
]);
export type BisectDocument = z.infer<typeof BisectDocument>;

/** JSON Schema of that document, published as schema/bisect.schema.json. */
export function bisectJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(BisectDocument), title: 'dkms2bin bisect --json' };
}

const MatrixRow = Cell.extend({
  source: z.string().describe('As --dkms named it'),
  verdict: Cell.shape.verdict.nullable().describe('Null when it had no turn'),
  outcome: z
    .enum([
      ...(['built', 'up-to-date', 'skipped', 'expected-failure'] as const),
      ...(['unexpected-pass', 'failed', 'error', 'not-run'] as const),
    ])
    .describe(
      'How it counts; unexpected-pass: built although a failure was expected; not-run: it had no turn before the end',
    ),
  expected: z.string().nullable().describe('Why it is expected to fail; null where it is not'),
  signedBy: z
    .string()
    .nullable()
    .describe('SHA-256, in hex, of the certificate that signed the modules; null when they are not signed'),
  logTail: z
    .string()
    .nullable()
    .describe(
      'The last lines of make.log, at most 16 KiB, long ones shortened; null when there is none, and in what is kept of earlier runs',
    ),
  startedAt: z.string().nullable().describe('ISO 8601; null when it had no turn'),
  seconds: z
    .number()
    .nonnegative()
    .nullable()
    .describe('Wall seconds from its turn to its verdict, the waiting for a layer not included'),
  worker: z.string().nullable().describe('Name of the machine that built it; null when it was not built now'),
}) satisfies z.ZodType<MatrixCell>;

export const MatrixRunShape = z.strictObject({
  schemaVersion: z.literal(1),
  run: z.string().describe('Id of the run; sorts by time'),
  tool: z.string().describe('Version of dkms2bin'),
  startedAt: z.string().describe('ISO 8601'),
  endedAt: z.string().describe('ISO 8601'),
  complete: z.boolean().describe('Whether all cells had their turn'),
  accelerators: z.array(z.string()).describe('kvm, tcg; none when no VM ran'),
  kernels: z
    .array(
      z.strictObject({
        release: Cell.shape.kernel,
        distro: Cell.shape.distro,
        arch: Cell.shape.arch,
        packageVersion: z
          .string()
          .nullable()
          .describe("The distro's version of the image package; null when only files were given"),
      }),
    )
    .describe('By distro, newest first'),
  sources: z.array(z.string()).describe('In the order asked for'),
  cells: z.array(MatrixRow).describe('A row for each module of a source on each kernel'),
}) satisfies z.ZodType<MatrixRun>;

/** The document that `matrix --json` prints, under the same promise: a run, or what ended it. */
export const MatrixDocument = z.union([
  MatrixRunShape,
  z.strictObject({ schemaVersion: z.literal(1), error: EndedBy }),
]);

/** JSON Schema of `matrix --json`, published as schema/matrix.schema.json. */
export function matrixJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(MatrixDocument), title: 'dkms2bin matrix --json' };
}

const cost = {
  packages: z.number().int(),
  installedBytes: z.number().int().describe("On the disk, as the packages' Installed-Size has them"),
  downloadBytes: z.number().int(),
};

const Proved = z.strictObject({
  schemaVersion: z.literal(1),
  kernel: z.string().describe('Kernel release, as uname -r prints it'),
  distro: z.string().describe('Catalogue id, such as debian-12'),
  accelerator: z.string().describe('kvm or tcg'),
  repository: z.string().describe("Absolute path of the repository's folder"),
  signedBy: z.string().nullable().describe('Fingerprint of its key, null when it is not signed'),
  pristine: z.literal(true).describe('The machine had no compiler, make, headers or dkms, before and after'),
  enforced: z
    .string()
    .nullable()
    .describe(
      'Serial number of the certificate that the kernel trusted while it loaded nothing unsigned, null when it asked for no signatures',
    ),
  installed: z
    .array(z.strictObject({ package: z.string(), version: z.string() }))
    .describe('All that was installed'),
  fromDistro: z
    .array(z.string())
    .describe("Of these, what came from the distro's own package sources, because the packages depend on it"),
  modules: z.array(
    z.strictObject({
      package: z.string(),
      version: z.string(),
      module: z.string(),
      verdict: z
        .enum(['loaded', 'refused', 'failed'])
        .describe('refused: the kernel took it, but it found no hardware of its own or wants parameters'),
      reason: z.string().nullable(),
    }),
  ),
  saved: z
    .strictObject({
      ...cost,
      instead: z
        .strictObject({ ...cost, of: z.array(z.string()) })
        .describe('What the packages in `of` would take there with all that comes along'),
      takes: z.strictObject(cost).describe('What the packages from the repository took'),
    })
    .nullable()
    .describe("null where the distro's package sources lack this kernel's headers"),
  phases: z.record(z.string(), z.number().nonnegative()).describe('Wall seconds by phase'),
}) satisfies z.ZodType<Proof & { schemaVersion: 1 }>;

const { distro: of, accelerator, repository, signedBy, phases, modules } = Proved.shape;

const UpgradeProved = z.strictObject({
  schemaVersion: z.literal(1),
  from: z.string().describe('Kernel release that the machine ran, with --from and --to'),
  to: z.string().describe('Kernel release that it came to'),
  ...{ distro: of, accelerator, repository, signedBy },
  follows: z
    .strictObject({ package: z.string(), version: z.string() })
    .describe("The distro's kernel metapackage, and its version that leads to the next kernel"),
  metapackages: z.array(z.string()).describe("The repository's metapackages that were installed"),
  held: z
    .array(
      z.strictObject({
        upgrade: z.string().describe('upgrade, upgrade --with-new-pkgs, dist-upgrade'),
        kept: z.boolean().describe('Whether it kept the old kernel, and changed nothing else'),
        said: z.string().describe("apt's own words"),
      }),
    )
    .describe('What upgrades did while the next kernel was offered, and no module for it'),
  upgraded: z
    .array(z.strictObject({ package: z.string(), version: z.string() }))
    .describe('What one upgrade brought once the module was there'),
  modules: z.array(modules.element.extend({ kernel: z.string() })),
  removed: z.array(z.string()).describe('What went along with the old kernel'),
  standIns: z
    .array(z.string())
    .describe('Versions of the kernel metapackage that the distro has no more, so that one like it stood in'),
  phases,
}) satisfies z.ZodType<UpgradeProof & { schemaVersion: 1 }>;

/** The document that `prove --json` prints, under the same promise: a proof, or what ended it. */
export const ProofDocument = z.union([
  Proved,
  UpgradeProved,
  z.strictObject({ schemaVersion: z.literal(1), error: EndedBy }),
]);
export type ProofDocument = z.infer<typeof ProofDocument>;

/** JSON Schema of `prove --json`, published as schema/proof.schema.json. */
export function proofJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(ProofDocument), title: 'dkms2bin prove --json' };
}

const { module, version, kernel, distro, arch, verdict, reason, log } = Cell.shape;

/** What `refresh --notify` posts, under the same promise. */
export const NotificationDocument = z.strictObject({
  schemaVersion: z.literal(1),
  text: z
    .string()
    .describe('The same for people, in a few lines, as many chat services show a field of this name'),
  tool: z.string().describe('Version of dkms2bin'),
  host: z.string().describe('Name of the machine'),
  repository: z.string().describe("Absolute path of the packages' folder there"),
  at: z.string().describe('ISO 8601'),
  built: z
    .array(
      z.strictObject({
        module,
        version,
        kernel,
        distro,
        arch,
        package: z.string().describe('Its file name'),
      }),
    )
    .describe('New packages, those of earlier rounds that could not be posted included'),
  failing: z
    .array(
      z.strictObject({
        ...{ module, version, kernel, distro, arch, verdict },
        reason: reason.describe('Why: of a module that does not compile the first error of the compiler'),
        log,
      }),
    )
    .describe('What fails now and did not when the last document was delivered'),
  held: z
    .array(
      z.strictObject({
        package: z.string().describe('The metapackage of ours that follows the kernel'),
        follows: z
          .string()
          .describe(
            "What is kept back: for apt the distro's kernel metapackage, such as linux-image-amd64; for dnf and zypper the package of the kernel's image, such as kernel-core or kernel-default",
          ),
        distro,
        kernel: z.string().describe('Kernel release that machines stay on'),
        waitsFor: z.string().describe('Kernel release that they wait for'),
        version: z.string().describe('The version of what is kept back that leads to it'),
        why: z.string(),
      }),
    )
    .describe(
      'Every kernel that waits for a module now, or comes without it where nothing holds it back (--no-hold, dnf without protected-kmods); only a round that publishes the repository knows',
    ),
  error: EndedBy.nullable().describe(
    'What ended the round before it had a result; then nothing is known of the rest',
  ),
}) satisfies z.ZodType<Notification>;

/** JSON Schema of that document, published as schema/notification.schema.json. */
export function notificationJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(NotificationDocument), title: 'dkms2bin refresh --notify' };
}
