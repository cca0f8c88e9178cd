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

/** How a repository of kernels names its packages. */
export interface KernelNames {
  /** Templates with `{release}`, the preferred ones first. */
  image: readonly string[];
  headers: readonly string[];
  /** What its releases look like; the group `flavour` is what tells lines of kernels apart. */
  releases: string;
}

/**
 * The same of a Packages file whose packages have names of their own. Metapackages are what depends on an image, and what
 * depends on such a package.
 */
export function parseNamedPackages(bytes: Buffer, suite: string, names: KernelNames): KernelPackagesOf {
  const images = readersOf(names.image, names.releases);
  const headers = readersOf(names.headers, names.releases);
  const found: KernelPackagesOf = { kernels: [], metas: [], headers: [] };
  const kernels = new Map<string, KernelEntry & { rank: number }>();
  const others: Other[] = [];
  for (const paragraph of paragraphsNaming(bytes, [...names.image, ...names.headers])) {
    const name = paragraph.get('Package') ?? '';
    const packageVersion = paragraph.get('Version');
    if (packageVersion === undefined) continue;
    const read = images(name);
    const ofHeaders = headers(name);
    if (ofHeaders) found.headers.push(ofHeaders.release);
    if (!read) {
      if (!ofHeaders) others.push({ name, packageVersion, depends: paragraph.get('Depends') ?? '' });
      continue;
    }
    const { release, flavour, rank } = read;
    const known = kernels.get(release);
    const newer = known ? compareVersions(packageVersion, known.packageVersion) : 1;
    if (newer > 0 || (newer === 0 && known && rank < known.rank))
      kernels.set(release, { release, packageVersion, suite, flavour, rank });
  }
  found.kernels = [...kernels.values()].map(({ rank: _, ...entry }) => entry);
  found.metas = metasOf(others, images, suite);
  return found;
}

interface Other {
  name: string;
  packageVersion: string;
  depends: string;
}

/** Those among packages that lead to a kernel, at first hand or over one another. */
function metasOf(packages: readonly Other[], images: ReleaseReader, suite: string): MetaEntry[] {
  const metas = new Map<string, MetaEntry>();
  let left = packages;
  for (let before = -1; before !== metas.size;) {
    before = metas.size;
    const waiting: Other[] = [];
    const known = new Map(metas);
    for (const each of left) {
      const { name, packageVersion, depends } = each;
      const wanted = depends.split(/[,|]/).map((one) => one.trim().split(/[\s(:]/)[0] ?? '');
      const release = wanted.map((one) => images(one)?.release ?? known.get(one)?.release).find(Boolean);
      if (release === undefined) waiting.push(each);
      else keepNewest(metas, name, { name, release, packageVersion, suite });
    }
    left = waiting;
  }
  return [...metas.values()];
}

type ReleaseReader = (name: string) => { release: string; flavour: string; rank: number } | undefined;

/** Reads the kernel release out of a package's name; `rank` is the place of the template that it fits. */
function readersOf(templates: readonly string[], releases: string): ReleaseReader {
  const form = new RegExp(releases);
  return (name) => {
    for (const [rank, template] of templates.entries()) {
      const [head = '', tail = ''] = template.split('{release}');
      if (!name.startsWith(head) || !name.endsWith(tail) || name.length <= head.length + tail.length)
        continue;
      const release = name.slice(head.length, name.length - tail.length);
      const match = form.exec(release);
      if (match) return { release, rank, flavour: match.groups?.flavour ?? flavourOf(release) ?? '' };
    }
    return undefined;
  };
}

/** Paragraphs in which the beginning of a template stands, each once. */
function* paragraphsNaming(bytes: Buffer, templates: readonly string[]): Generator<Paragraph> {
  const seen = new Set<string>();
  for (const head of new Set(templates.map((each) => each.replace(/\{.*$/, '')))) {
    for (const paragraph of paragraphsWith(bytes, head)) {
      const key = `${paragraph.get('Package') ?? ''} ${paragraph.get('Version') ?? ''}`;
      if (seen.has(key)) continue;
      seen.add(key);
      yield paragraph;
    }
  }
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
