import { z } from 'zod';

// Forms that the catalogue's rows and overlays are made of.

export const Id = z
  .string()
  .regex(/^[a-z0-9][a-z0-9.-]*$/, 'lower-case letters, digits, dots and dashes only');
export const PackageName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9+._-]*$/, 'not a package name');
export const PackageTemplate = z
  .string()
  .regex(/^[A-Za-z0-9{][A-Za-z0-9+._{}-]*$/, 'not a package name with {placeholders}');
const PackageTemplates = z.array(PackageTemplate);
export const Expression = z.string().refine((text) => {
  try {
    return new RegExp(text) instanceof RegExp;
  } catch {
    return false;
  }
}, 'not a regular expression');
export const Template = z.string().min(1).regex(/^\S+$/, 'must hold no blanks');
export const UrlTemplate = Template.regex(/^https?:\/\//, 'must be an http or https URL');
export const Fingerprint = z
  .string()
  .regex(/^(?:[0-9A-F]{40}|[0-9A-F]{64})$/, 'a full fingerprint: 40 or 64 upper-case hex digits, no blanks');

/** The packages of one kernel. dnf and zypper rows name them without a version; `src/distro/packages.ts` fills them in. */
export const PackageSet = z.strictObject({
  /** The image; the first that exists is taken. */
  image: PackageTemplates.min(1),
  /** What must come with it. */
  modules: PackageTemplates.default([]),
  /** More of the same kernel, taken where they exist. */
  extra: PackageTemplates.default([]),
  /** What modules are built against, all of them. */
  headers: PackageTemplates.min(1),
});
