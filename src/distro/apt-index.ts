import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { z } from 'zod';
import { decompress, type Compression } from '../formats/decompress.js';
import type { ReleaseFile } from '../formats/deb822.js';
import { Dkms2binError } from '../model/errors.js';
import {
  DkmsPackage,
  parseDkmsPackages,
  parseNamedPackages,
  parsePackages,
  type KernelNames,
} from './apt-packages.js';
import { DEBIAN_KEYRING, readInRelease } from './apt-release.js';
import { fetchBytes } from './fetch.js';
import { cachedIndex } from './index-cache.js';
import { KernelEntry, MetaEntry, type KernelIndex, type LookupOptions } from './kernel-index.js';

export interface DkmsIndex {
  packages: (DkmsPackage & {
    /** The mirror that it was read from, without a trailing slash. */
    mirror: string;
    /** Whether a good signature vouches for `sha256`. */
    verified: boolean;
  })[];
  places: { suite: string; url: string; components: readonly string[] }[];
}

const COMPONENTS = ['main', 'contrib', 'non-free', 'non-free-firmware'] as const;

export interface IndexOptions extends LookupOptions {
  mirror: string;
  securityMirror?: string | undefined;
  suites: readonly { name: string; mirror: 'main' | 'security' }[];
  /** Debian's name of the architecture. */
  arch: string;
  /** Accept a signature by a key that has expired since: only for dated archives. */
  expiredKeys?: boolean | undefined;
  /** Debian's four by default, as far as the suite has them; kernels are in main. */
  components?: readonly string[] | undefined;
  /** Of a repository of kernels whose packages have names of their own, in any component. */
  names?: KernelNames | undefined;
}

/** What is kept of a suite. */
const SuiteIndex = z.object({
  /** Seconds since 1970. */
  fetchedAt: z.number(),
  present: z.boolean(),
  verified: z.boolean(),
  /** Those that the mirror has. */
  components: z.array(z.string()),
  kernels: z.array(KernelEntry),
  metas: z.array(MetaEntry),
  /** Kernel releases that it has headers of. */
  headers: z.array(z.string()),
  packages: z.array(DkmsPackage),
});
type SuiteIndex = z.infer<typeof SuiteIndex>;

const MAX_RELEASE_BYTES = 16 << 20;
const MAX_PACKAGES_BYTES = 256 << 20;
const MAX_UNPACKED_BYTES = 1 << 30;

/** Reads the kernel images of all `suites`; a suite that the mirror lacks counts as empty. */
export async function listKernels(options: IndexOptions): Promise<KernelIndex> {
  const indexes = await readIndexes(options);
  const headers = new Set(indexes.flatMap(({ index }) => index.headers));
  return {
    kernels: indexes.flatMap(({ index }) =>
      index.kernels.map((kernel) => (headers.has(kernel.release) ? kernel : { ...kernel, headless: true })),
    ),
    metas: indexes.flatMap(({ index }) => index.metas),
    places: indexes.map(({ suite, url, index }) => ({ suite, url, present: index.present })),
  };
}

/** The packages with DKMS modules of all `suites`, from the same cached indexes as the kernels. */
export async function listDkmsPackages(options: IndexOptions): Promise<DkmsIndex> {
  const indexes = await readIndexes(options);
  return {
    packages: indexes.flatMap(({ url, index }) =>
      index.packages.map((each) => ({ ...each, mirror: url, verified: index.verified })),
    ),
    places: indexes.map(({ suite, url, index }) => ({ suite, url, components: index.components })),
  };
}

function readIndexes(options: IndexOptions): Promise<{ suite: string; url: string; index: SuiteIndex }[]> {
  // All components of all suites are read at once, and each request listens to the one signal.
  if (options.signal) setMaxListeners(0, options.signal);
  return Promise.all(
    options.suites.map(async (suite) => {
      const base =
        suite.mirror === 'security'
          ? (options.securityMirror ?? `${options.mirror}-security`)
          : options.mirror;
      const url = base.replace(/\/+$/, '');
      return { suite: suite.name, url, index: await suiteIndex(url, suite.name, options) };
    }),
  );
}

async function suiteIndex(mirror: string, suite: string, options: IndexOptions): Promise<SuiteIndex> {
  const { arch, keyring = DEBIAN_KEYRING, components = COMPONENTS, names } = options;
  const key = createHash('sha256')
    .update(JSON.stringify([4, mirror, suite, arch, keyring, components, ...(names ? [names] : [])]))
    .digest('hex')
    .slice(0, 20);
  return cachedIndex(
    {
      name: `${suite.replaceAll('/', '_')}-${key}.json`,
      what: `the index of ${suite} at ${mirror}`,
      schema: SuiteIndex,
      read: () => readSuite(mirror, suite, options),
    },
    options,
  );
}

async function readSuite(mirror: string, suite: string, options: IndexOptions): Promise<SuiteIndex> {
  const base = `${mirror}/dists/${suite}`;
  const fetchedAt = Date.now() / 1000;
  const signed = await fetchBytes(`${base}/InRelease`, MAX_RELEASE_BYTES, options);
  const index: SuiteIndex = {
    fetchedAt,
    present: signed !== undefined,
    verified: false,
    components: [],
    kernels: [],
    metas: [],
    headers: [],
    packages: [],
  };
  if (signed === undefined) return index;
  const release = await readInRelease(signed, `${base}/InRelease`, options);
  index.verified = release.verified;
  // Valid-Until is left to the guest's apt: a mirror that lags a day still names its kernels rightly.
  const files = await Promise.all(
    (options.components ?? COMPONENTS).map(async (component) => ({
      component,
      bytes: await readPackages(base, `${component}/binary-${options.arch}`, release, options),
    })),
  );
  for (const { component, bytes } of files) {
    // A partial mirror may lack what InRelease names.
    if (bytes === undefined) continue;
    index.components.push(component);
    if (options.names) {
      const { kernels, metas, headers } = parseNamedPackages(bytes, suite, options.names);
      index.kernels.push(...kernels);
      index.metas.push(...metas);
      index.headers.push(...headers);
      continue;
    }
    if (component === 'main') Object.assign(index, parsePackages(bytes, suite));
    index.packages.push(...parseDkmsPackages(bytes, suite));
  }
  const wanted = options.names ? (options.components ?? COMPONENTS) : ['main'];
  if (wanted.some((component) => index.components.includes(component))) return index;
  throw new Dkms2binError(
    'not-found',
    `${base}/InRelease does not name a usable ${wanted[0] ?? 'main'}/binary-${options.arch}/Packages`,
  );
}

const PACKED: readonly (readonly [suffix: string, compression: Compression])[] = [
  ['.xz', 'xz'],
  ['.gz', 'gzip'],
  ['', 'none'],
];

/** The unpacked Packages file in a folder, undefined when the suite or the mirror lacks it. */
async function readPackages(
  base: string,
  folder: string,
  release: ReleaseFile,
  options: IndexOptions,
): Promise<Buffer | undefined> {
  for (const [suffix, compression] of PACKED) {
    const sum = release.files.get(`${folder}/Packages${suffix}`);
    if (sum === undefined || sum.size > MAX_PACKAGES_BYTES) continue;
    const hashed = `${base}/${folder}/by-hash/SHA256/${sum.sha256}`;
    const named = `${base}/${folder}/Packages${suffix}`;
    // The name is the fallback: a mirror may lack by-hash, and race with its own update when asked by name.
    const bytes =
      (release.byHash ? await fetchBytes(hashed, sum.size, options) : undefined) ??
      (await fetchBytes(named, sum.size, options));
    // Release lists the plain file too, which mirrors do not carry.
    if (bytes === undefined) continue;
    const actual = createHash('sha256').update(bytes).digest('hex');
    if (actual !== sum.sha256) {
      throw new Dkms2binError('transient', `${named} does not have the checksum that InRelease gives`, {
        hint: 'The mirror may be in the middle of an update; try again in a few minutes, or use another --mirror.',
      });
    }
    return decompress(bytes, compression, MAX_UNPACKED_BYTES, named).catch((error: unknown) => {
      // Not the user's fault: it is what the mirror signs.
      if (!(error instanceof Dkms2binError) || error.fault !== 'usage') throw error;
      throw new Dkms2binError('transient', error.message, { cause: error });
    });
  }
  return undefined;
}
