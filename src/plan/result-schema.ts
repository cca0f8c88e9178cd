import { z } from 'zod';
import { ARCHES, type CellResult } from '../core/cell.js';

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
}) satisfies z.ZodType<CellResult>;

/** The document that `--json` prints. A field may be added under one schemaVersion; none changes or goes. */
export const ResultDocument = z.strictObject({
  schemaVersion: z.literal(1),
  run: z.string().nullable().describe('Id of the run, null when it ended before it began'),
  accelerator: z.string().nullable().describe('kvm or tcg, null when no VM ran'),
  cells: z.array(Cell),
  error: z
    .strictObject({
      fault: z.enum(['module', 'usage', 'not-found', 'host', 'transient', 'interrupted']),
      message: z.string(),
      hint: z.string().nullable(),
    })
    .optional()
    .describe('What ended the run before it had cells to report'),
});
export type ResultDocument = z.infer<typeof ResultDocument>;

/** JSON Schema of the `--json` document, published as schema/result.schema.json. */
export function resultJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(ResultDocument), title: 'dkms2bin --json' };
}
