import { z } from 'zod';
import { ARCHES } from '../model/cell.js';
import { Expression, Fingerprint, Id, PackageSet, PackageTemplate, Template, UrlTemplate } from './forms.js';

/** A place with the files of each version of a kernel, of which a signed list of checksums tells (Ubuntu's mainline builds). */
export const FilesArchive = z.strictObject({ kind: z.literal('mainline'), url: UrlTemplate });

/** The public key that signs a repository, pinned by its primary key's full fingerprint. */
const OverlayKey = z.strictObject({
  keyFingerprint: Fingerprint,
  /** File with the public key, armored or not, relative to the folder of the catalogue; absolute once loaded. */
  keyFile: z.string().min(1).optional(),
  /** Where to get it. It is checked against the fingerprint, so the place need not be trusted. */
  keyUrl: UrlTemplate.optional(),
});

/** An apt suite, or without `suite` a folder that has `repodata/`. */
const Repository = z.strictObject({
  url: UrlTemplate,
  suite: Template.optional(),
  components: z.array(z.string().regex(/^[A-Za-z0-9._-]+(?:\/[A-Za-z0-9._-]+)*$/)).default(['main']),
});

/** A repository of kernels on top of a distro: everything but the kernels is the distro's. */
export const OverlayInput = z.strictObject({
  id: Id,
  aliases: z.array(Id).default([]),
  /**
   * Ids of the rows that it goes on top of; there is a row for each. A kernel release alone picks the first, which is called
   * like the overlay; the others are called ID-ROW.
   */
  on: z.array(Id).min(1),
  /** Which of the base's architectures it has kernels for. */
  arches: z.array(z.enum(ARCHES)).min(1).default(['x86_64']),
  /** What its kernel releases look like. The group `flavour` tells kernels apart that machines do not move between. */
  releases: Expression,
  /** Asked for kernels; may be none where they lie as single files only. `{codename}` is the base's. */
  repositories: z.array(Repository).default([]),
  /** Absent for a repository that nobody signs: its packages are then taken from it unchecked. */
  key: OverlayKey.optional(),
  /** Image and headers are names of which the first that exists is taken; apt brings what they depend on. */
  packages: PackageSet.extend({
    variants: z.array(PackageSet.extend({ match: Expression })).default([]),
  }),
  /** Package that leads to its current kernel (`--kernel latest`); without one the newest kernel is. `{debArch}` may stand in it. */
  defaultKernel: PackageTemplate.optional(),
  /** Where its old kernels are. */
  archives: z.array(FilesArchive).default([]),
});
export type OverlayInput = z.output<typeof OverlayInput>;
