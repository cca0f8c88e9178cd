import { z } from 'zod';
import type { Reach } from './fetch.js';
import type { IndexCacheOptions } from './index-cache.js';

/** One bootable kernel image package of a suite. */
export const KernelEntry = z.object({
  release: z.string(),
  packageVersion: z.string(),
  suite: z.string(),
  flavour: z.string(),
  /** The Source field of an apt package, without its version; absent when the package is called like its source. */
  source: z.string().optional(),
  /** No suite has its headers any more, as Debian's backports keep old images: nothing can be built for it from there. */
  headless: z.literal(true).optional(),
});
export type KernelEntry = z.infer<typeof KernelEntry>;

/** A package that depends on the current kernel of a flavour: `linux-image-cloud-amd64`. */
export const MetaEntry = z.object({
  name: z.string(),
  /** The kernel release that it points to. */
  release: z.string(),
  packageVersion: z.string(),
  suite: z.string(),
});
export type MetaEntry = z.infer<typeof MetaEntry>;

/** The kernels of an apt archive's suites or of a row's RPM repositories. */
export interface KernelIndex {
  kernels: KernelEntry[];
  metas: MetaEntry[];
  /** What was asked, in order, for an error that has to name every place tried. */
  places: { suite: string; url: string; present: boolean }[];
}

/** How indexes are read, whatever kind they are. */
export interface LookupOptions extends IndexCacheOptions, Reach {
  /**
   * Keyring for the signature of InRelease. `false` switches the check off. When the keyring or gpgv is missing on this
   * host the check is skipped with a warning: such an index only finds names, the guest's apt verifies what it installs.
   */
  keyring?: string | false | undefined;
}
