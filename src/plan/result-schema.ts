import { z } from 'zod';
import { ARCHES, type CellResult } from '../core/cell.js';
import type { Proof } from '../core/proof.js';

const Cell = z.strictObject({
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
  log: z.string().nullable().describe('Absolute path of make.log, null when no build ran'),
  phases: z
    .record(z.string(), z.number().nonnegative())
    .describe("Wall seconds by phase; build is the guest's own dkms build"),
  kept: z.string().nullable().describe('Kept run to log in to'),
  fault: z
    .enum(['module', 'usage', 'not-found', 'host', 'transient', 'interrupted'])
    .nullable()
    .describe('Whose fault a failed or error verdict is; decides the exit code'),
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
    .describe('All that apt installed'),
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
        .describe('What the packages in `of` would take there with all that apt brings along'),
      takes: z.strictObject(cost).describe('What the packages from the repository took'),
    })
    .nullable()
    .describe("null where the distro's package sources lack this kernel's headers"),
  phases: z.record(z.string(), z.number().nonnegative()).describe('Wall seconds by phase'),
}) satisfies z.ZodType<Proof & { schemaVersion: 1 }>;

/** The document that `prove --json` prints, under the same promise: a proof, or what ended it. */
export const ProofDocument = z.union([
  Proved,
  z.strictObject({ schemaVersion: z.literal(1), error: EndedBy }),
]);
export type ProofDocument = z.infer<typeof ProofDocument>;

/** JSON Schema of `prove --json`, published as schema/proof.schema.json. */
export function proofJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(ProofDocument), title: 'dkms2bin prove --json' };
}
