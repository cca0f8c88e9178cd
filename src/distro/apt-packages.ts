import { z } from 'zod';
import { paragraphsWith, type Paragraph } from '../formats/deb822.js';
import { compareVersions } from '../formats/versions.js';
import type { KernelEntry, MetaEntry } from './kernel-index.js';
import { flavourOf } from './release.js';

/** One package that carries DKMS modules, or depends on dkms; its names and paths are fit for a URL. */
export const DkmsPackage = z.object({
  name: z.string().regex(/^[a-z0-9][a-z0-9+.-]+$/),
  version: z.string().regex(/^[0-9A-Za-z][0-9A-Za-z.+~:-]*$/),
  suite: z.string(),
  architecture: z.string().regex(/^[a-z0-9-]+$/),
  /** Where the mirror has it, without a leading slash: `pool/main/a/acpi-call/acpi-call-dkms_1.2.2-2_all.deb`. */
  filename: z
    .string()
    .regex(/^[\w.+~%:-]+(?:\/[\w.+~%:-]+)*$/)
    .refine((path) => !path.split('/').includes('..')),
  /** Bytes. */
  size: z.int().nonnegative(),
  /** Bytes on the disk, as its Installed-Size has them. */
  installedBytes: z.int(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  /** Its fields as they stand there, empty without. */
  depends: z.string(),
  preDepends: z.string(),
  provides: z.string(),
});
export type DkmsPackage = z.infer<typeof DkmsPackage>;

/** What a Packages file has of kernels. */
export interface KernelPackagesOf {
  kernels: KernelEntry[];
  metas: MetaEntry[];
  /** Kernel releases that it has headers of. */
  headers: string[];
}

/** Kernel images, metapackages and headers of a Packages file. */
export function parsePackages(bytes: Buffer, suite: string): KernelPackagesOf {
  const kernels = new Map<string, KernelEntry>();
  const unsigned = new Map<string, KernelEntry>();
  const metas = new Map<string, MetaEntry>();
  for (const paragraph of paragraphsWith(bytes, 'Package: linux-image-')) {
    const name = paragraph.get('Package') ?? '';
    const packageVersion = paragraph.get('Version');
    // linux-image-extra-* of old Ubuntus holds modules and depends on its image as a metapackage does; -fde wraps another
    // flavour's kernel for encrypted disks.
    if (packageVersion === undefined || /-(dbg|fde|signed-template)$|^linux-image-extra-/.test(name))
      continue;
    const target = /(?:^|, )linux-image-(\d[^ ,|]*)/.exec(paragraph.get('Depends') ?? '')?.[1];
    if (target !== undefined) {
      keepNewest(metas, name, { name, release: target, packageVersion, suite });
      continue;
    }
    const release = name.replace('linux-image-', '').replace(/^unsigned-|-unsigned$/, '');
    const flavour = flavourOf(release);
    if (!/^\d/.test(release) || flavour === undefined) continue;
    const source = paragraph.get('Source')?.split(' ')[0];
    const entry = { release, packageVersion, suite, flavour, ...(source !== undefined && { source }) };
    // Unsigned twins of signed images are the same kernel; the signed one is what a machine runs. Some have no twin.
    keepNewest(name === `linux-image-${release}` ? kernels : unsigned, release, entry);
  }
  for (const [release, entry] of unsigned) if (!kernels.has(release)) kernels.set(release, entry);
  return { kernels: [...kernels.values()], metas: [...metas.values()], headers: headersOf(bytes) };
}

function keepNewest<T extends { packageVersion: string }>(into: Map<string, T>, key: string, entry: T): void {
  const known = into.get(key);
  if (known === undefined || compareVersions(entry.packageVersion, known.packageVersion) > 0)
    into.set(key, entry);
}

function headersOf(bytes: Buffer): string[] {
  return [...paragraphsWith(bytes, 'Package: linux-headers-')].flatMap(
    (paragraph) => /^linux-headers-(\d.*)$/.exec(paragraph.get('Package') ?? '')?.[1] ?? [],
  );
}

/**
 * Packages of a Packages file that are named after dkms, depend on it, recommend it or provide what is named after it.
 * One whose fields are not fit for a path or a URL is passed over.
 */
export function parseDkmsPackages(bytes: Buffer, suite: string): DkmsPackage[] {
  return [...paragraphsWith(bytes, 'dkms')].filter(isAboutDkms).flatMap((paragraph) => {
    const field = (key: string): string => paragraph.get(key) ?? '';
    const parsed = DkmsPackage.safeParse({
      name: field('Package'),
      version: field('Version'),
      suite,
      architecture: field('Architecture'),
      filename: field('Filename').replace(/^\.\//, ''),
      size: /^\d+$/.test(field('Size')) ? Number(field('Size')) : NaN,
      installedBytes: Number(field('Installed-Size')) * 1024,
      sha256: field('SHA256').toLowerCase(),
      depends: field('Depends'),
      preDepends: field('Pre-Depends'),
      provides: field('Provides'),
    });
    return parsed.success ? [parsed.data] : [];
  });
}

function isAboutDkms(paragraph: Paragraph): boolean {
  const names = ['Package', 'Provides'].map((key) => paragraph.get(key) ?? '');
  const needs = ['Depends', 'Pre-Depends', 'Recommends'].map((key) => paragraph.get(key) ?? '');
  return (
    names.some((text) => text.includes('dkms')) ||
    needs.some((list) => /(?:^|[\s,|])dkms(?![a-z0-9+.-])/.test(list))
  );
}
