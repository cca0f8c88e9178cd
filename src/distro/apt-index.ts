import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { constants } from 'node:fs';
import { access, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { got, HTTPError } from 'got';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { run } from '../lib/exec.js';
import { proxyOptions } from '../lib/proxy.js';
import { cachedIndex, type IndexCacheOptions } from './index-cache.js';
import { proxyFor } from './mirrors.js';
import { flavourOf } from './release.js';
import { compareVersions } from '../formats/versions.js';

export const DEBIAN_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** One bootable kernel image package of a suite. */
export interface KernelEntry {
  release: string;
  packageVersion: string;
  suite: string;
  flavour: string;
  /** The Source field of an apt package, without its version; absent when the package is called like its source. */
  source?: string;
  /** No suite has its headers any more, as Debian's backports keep old images: nothing can be built for it from there. */
  headless?: true;
}

/** A package that depends on the current kernel of a flavour: `linux-image-cloud-amd64`. */
export interface MetaEntry {
  name: string;
  /** The kernel release that it points to. */
  release: string;
  packageVersion: string;
  suite: string;
}

export interface KernelIndex {
  kernels: KernelEntry[];
  metas: MetaEntry[];
  /** What was asked, in order, for an error that has to name every place tried. */
  places: { suite: string; url: string; present: boolean }[];
}

/** One package that carries DKMS modules, or depends on dkms. */
export interface DkmsPackage {
  name: string;
  version: string;
  suite: string;
  architecture: string;
  /** Where the mirror has it, without a leading slash: `pool/main/a/acpi-call/acpi-call-dkms_1.2.2-2_all.deb`. */
  filename: string;
  /** Bytes. */
  size: number;
  /** Bytes on the disk, as its Installed-Size has them. */
  installedBytes: number;
  sha256: string;
  /** Its fields as they stand there, empty without. */
  depends: string;
  preDepends: string;
  provides: string;
}

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

export interface IndexOptions extends IndexCacheOptions {
  mirror: string;
  securityMirror?: string | undefined;
  suites: readonly { name: string; mirror: 'main' | 'security' }[];
  /** Debian's name of the architecture. */
  arch: string;
  signal?: AbortSignal | undefined;
  /**
   * Keyring for the signature of InRelease. `false` switches the check off. When the keyring or gpgv is missing on this
   * host the check is skipped with a warning: such an index only finds names, the guest's apt verifies what it installs.
   */
  keyring?: string | false | undefined;
  /** Accept a signature by a key that has expired since: only for dated archives. */
  expiredKeys?: boolean | undefined;
  /** URL of an HTTP proxy, '' for none. By default the one of this host's apt, else what the environment says. */
  proxy?: string | undefined;
  /** Debian's four by default, as far as the suite has them; kernels are in main. */
  components?: readonly string[] | undefined;
}

interface SuiteIndex {
  fetchedAt: number;
  present: boolean;
  verified: boolean;
  /** Those that the mirror has. */
  components: string[];
  kernels: KernelEntry[];
  metas: MetaEntry[];
  /** Kernel releases that it has headers of. */
  headers: string[];
  packages: DkmsPackage[];
}

const MAX_RELEASE_BYTES = 16 << 20;
const MAX_PACKAGES_BYTES = 256 << 20;

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
  const key = createHash('sha256')
    .update(
      JSON.stringify([
        4,
        mirror,
        suite,
        options.arch,
        options.keyring ?? DEBIAN_KEYRING,
        options.components ?? COMPONENTS,
      ]),
    )
    .digest('hex')
    .slice(0, 20);
  return cachedIndex(
    `${suite.replaceAll('/', '_')}-${key}.json`,
    `the index of ${suite} at ${mirror}`,
    options,
    (index) => Array.isArray(index.kernels) && Array.isArray(index.packages),
    () => readSuite(mirror, suite, options),
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
  const release = await verifiedRelease(signed, `${base}/InRelease`, options);
  index.verified = release.verified;
  // Valid-Until is left to the guest's apt: a mirror that lags a day still names its kernels rightly.
  const files = await Promise.all(
    (options.components ?? COMPONENTS).map(async (component) => ({
      component,
      bytes: await readPackages(base, component, release.text, options),
    })),
  );
  for (const { component, bytes } of files) {
    // A partial mirror may lack what InRelease names.
    if (bytes === undefined) continue;
    index.components.push(component);
    if (component === 'main') Object.assign(index, parsePackages(bytes, suite));
    index.packages.push(...parseDkmsPackages(bytes, suite));
  }
  if (index.components.includes('main')) return index;
  throw new Dkms2binError(
    'not-found',
    `${base}/InRelease names no usable main/binary-${options.arch}/Packages`,
  );
}

/** The unpacked Packages file of a component, undefined when the suite or the mirror lacks it. */
async function readPackages(
  base: string,
  component: string,
  release: string,
  options: IndexOptions,
): Promise<Buffer | undefined> {
  const folder = `${component}/binary-${options.arch}`;
  for (const suffix of ['.xz', '.gz', '']) {
    const sum = checksum(release, `${folder}/Packages${suffix}`);
    if (sum === undefined || sum.size > MAX_PACKAGES_BYTES) continue;
    const hashed = `${base}/${folder}/by-hash/SHA256/${sum.sha256}`;
    const named = `${base}/${folder}/Packages${suffix}`;
    const byHash = /^Acquire-By-Hash: yes$/m.test(release);
    // The name is the fallback: a mirror may lack by-hash, and race with its own update when asked by name.
    const bytes =
      (byHash ? await fetchBytes(hashed, sum.size, options) : undefined) ??
      (await fetchBytes(named, sum.size, options));
    // Release lists the plain file too, which mirrors do not carry.
    if (bytes === undefined) continue;
    const actual = createHash('sha256').update(bytes).digest('hex');
    if (actual !== sum.sha256) {
      throw new Dkms2binError('transient', `${named} does not have the checksum that InRelease gives`, {
        hint: 'The mirror may be in the middle of an update; try again in a few minutes, or use another --mirror.',
      });
    }
    return unpack(bytes, suffix);
  }
  return undefined;
}

/** Bytes at `url`, undefined for 404 (and 403, S3's word for it). Throws `transient` or `interrupted`. */
export async function fetchBytes(
  url: string,
  limit: number,
  options: Pick<IndexOptions, 'signal' | 'proxy'>,
): Promise<Buffer | undefined> {
  try {
    const request = got(url, {
      responseType: 'buffer',
      ...proxyOptions(url, await proxyFor(options.proxy)),
      timeout: { connect: 15_000, response: 30_000, socket: 30_000, request: 600_000 },
      retry: {
        limit: 2,
        backoffLimit: 3000,
        maxRetryAfter: 10_000,
        // Without ENOTFOUND and ECONNREFUSED: an archive that is shut off from this host answers so at once.
        errorCodes: ['ETIMEDOUT', 'ECONNRESET', 'EPIPE', 'EAI_AGAIN'],
      },
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    let tooLarge = false;
    void request.on('downloadProgress', (progress) => {
      if (progress.transferred <= limit || tooLarge) return;
      tooLarge = true;
      (request as unknown as { cancel(): void }).cancel();
    });
    try {
      return (await request).body;
    } catch (error) {
      if (tooLarge)
        throw new Error(`the answer is larger than the ${limit} bytes expected`, { cause: error });
      throw error;
    }
  } catch (error) {
    if (options.signal?.aborted) throw new Dkms2binError('interrupted', 'Interrupted', { cause: error });
    if (error instanceof Dkms2binError) throw error;
    if (error instanceof HTTPError && [403, 404, 410].includes(error.response.statusCode)) return undefined;
    throw new Dkms2binError('transient', `Could not read ${url}: ${messageOf(error)}`, {
      hint: 'Check the network and --proxy, or name another --mirror.',
      cause: error,
    });
  }
}

/** The signed text of an InRelease file, without the armour; `verified` when its signature could be checked. */
async function verifiedRelease(
  signed: Buffer,
  url: string,
  options: IndexOptions,
): Promise<{ text: string; verified: boolean }> {
  const plain = (): { text: string; verified: boolean } => {
    const text = signed.toString('utf8').replaceAll('\r\n', '\n');
    const match =
      /^-----BEGIN PGP SIGNED MESSAGE-----\n(?:[^\n]+\n)*\n([\s\S]*?)\n-----BEGIN PGP SIGNATURE-----/.exec(
        text,
      );
    return { text: (match?.[1] ?? text).replace(/^- /gm, ''), verified: false };
  };
  if (options.keyring === false) return plain();
  const keyring = options.keyring ?? DEBIAN_KEYRING;
  const missing = (await readable(keyring)) ? ((await onPath('gpgv')) ? undefined : 'gpgv') : keyring;
  if (missing !== undefined) {
    options.warn?.(`${url} is used without a check of its signature: ${missing} is missing on this host`);
    return plain();
  }
  const folder = await mkdtemp(join(tmpdir(), 'dkms2bin-gpgv-'));
  try {
    const input = join(folder, 'InRelease');
    const output = join(folder, 'Release');
    await writeFile(input, signed);
    // gpgv exits non-zero as soon as one of several signers is unknown, so the status lines decide, as in apt.
    const { stdout, stderr } = await run(
      'sh',
      ['-c', 'gpgv --status-fd 1 --keyring "$1" --output "$2" "$3" || true', 'gpgv', keyring, output, input],
      { timeout: 60_000, ...(options.signal === undefined ? {} : { cancelSignal: options.signal }) },
    );
    const has = (word: string): boolean => new RegExp(`^\\[GNUPG:\\] ${word}\\b`, 'm').test(stdout);
    const good = has('VALIDSIG') && (has('GOODSIG') || (options.expiredKeys === true && has('EXPKEYSIG')));
    if (!good || has('BADSIG') || has('REVKEYSIG')) {
      throw new Dkms2binError(
        'host',
        `The signature of ${url} is not good:\n${stderr.trim().split('\n').slice(-6).join('\n')}`,
        {
          hint: `It was checked against ${keyring}. Update the package that brings it, or use another --mirror.`,
        },
      );
    }
    return { text: (await readFile(output, 'utf8')).replaceAll('\r\n', '\n'), verified: true };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function readable(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(
    () => true,
    () => false,
  );
}

async function onPath(tool: string): Promise<boolean> {
  const folders = (process.env.PATH ?? '').split(':').filter(Boolean);
  const found = await Promise.all(folders.map((folder) => readable(join(folder, tool))));
  return found.includes(true);
}

function checksum(release: string, name: string): { sha256: string; size: number } | undefined {
  const section = /^SHA256:[ \t]*\n((?:[ \t].*(?:\n|$))*)/m.exec(release)?.[1] ?? '';
  for (const line of section.split('\n')) {
    const [sha256, size, path] = line.trim().split(/\s+/);
    if (path === name && sha256 !== undefined && /^[0-9a-f]{64}$/.test(sha256))
      return { sha256, size: Number(size) };
  }
  return undefined;
}

async function unpack(bytes: Buffer, suffix: string): Promise<Buffer> {
  if (suffix === '') return bytes;
  if (suffix === '.gz') return gunzipSync(bytes, { maxOutputLength: 1 << 30 });
  const folder = await mkdtemp(join(tmpdir(), 'dkms2bin-index-'));
  try {
    // Through a file, because `run` answers with text.
    await writeFile(join(folder, 'Packages.xz'), bytes);
    await run('xz', ['-d', '-k', join(folder, 'Packages.xz')], { timeout: 300_000 });
    return await readFile(join(folder, 'Packages'));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Kernel images, metapackages and headers of a Packages file. Packages files are tens of MB, so only stanzas that matter are read. */
export function parsePackages(
  bytes: Buffer,
  suite: string,
): Pick<SuiteIndex, 'kernels' | 'metas' | 'headers'> {
  const kernels = new Map<string, KernelEntry>();
  const unsigned = new Map<string, KernelEntry>();
  const metas = new Map<string, MetaEntry>();
  const marker = 'Package: linux-image-';
  for (let at = bytes.indexOf(marker); at >= 0; at = bytes.indexOf(marker, at + 1)) {
    if (at > 0 && bytes[at - 1] !== 0x0a) continue;
    const end = bytes.indexOf('\n\n', at);
    const stanza = bytes.toString('utf8', at, end < 0 ? bytes.length : end);
    const field = (key: string): string | undefined => fieldOf(stanza, key);
    const name = field('Package')!;
    const packageVersion = field('Version');
    // linux-image-extra-* of old Ubuntus holds modules and depends on its image as a metapackage does; -fde wraps another
    // flavour's kernel for encrypted disks.
    if (packageVersion === undefined || /-(dbg|fde|signed-template)$|^linux-image-extra-/.test(name))
      continue;
    const target = /(?:^|, )linux-image-(\d[^ ,|]*)/.exec(field('Depends') ?? '')?.[1];
    if (target !== undefined) {
      const known = metas.get(name);
      if (known === undefined || compareVersions(packageVersion, known.packageVersion) > 0) {
        metas.set(name, { name, release: target, packageVersion, suite });
      }
      continue;
    }
    const release = name.slice('linux-image-'.length).replace(/^unsigned-|-unsigned$/, '');
    const flavour = flavourOf(release);
    if (!/^\d/.test(release) || flavour === undefined) continue;
    // Unsigned twins of signed images are the same kernel; the signed one is what a machine runs. Some have no twin.
    const into = name === `linux-image-${release}` ? kernels : unsigned;
    const known = into.get(release);
    if (known === undefined || compareVersions(packageVersion, known.packageVersion) > 0) {
      const source = field('Source')?.split(' ')[0];
      into.set(release, { release, packageVersion, suite, flavour, ...(source !== undefined && { source }) });
    }
  }
  for (const [release, entry] of unsigned) if (!kernels.has(release)) kernels.set(release, entry);
  return { kernels: [...kernels.values()], metas: [...metas.values()], headers: headersOf(bytes) };
}

function headersOf(bytes: Buffer): string[] {
  const marker = '\nPackage: linux-headers-';
  const releases: string[] = [];
  for (let at = bytes.indexOf(marker); at >= 0; at = bytes.indexOf(marker, at + 1)) {
    const end = bytes.indexOf('\n', at + 1);
    const release = bytes.toString('utf8', at + marker.length, end < 0 ? bytes.length : end);
    if (/^\d/.test(release)) releases.push(release);
  }
  return releases;
}

/**
 * Packages of a Packages file that are named after dkms, depend on it, recommend it or provide what is named after it.
 * One whose fields are not fit for a path or a URL is passed over.
 */
export function parseDkmsPackages(bytes: Buffer, suite: string): DkmsPackage[] {
  const packages: DkmsPackage[] = [];
  for (let at = bytes.indexOf('dkms'), end = 0; at >= 0; at = end < 0 ? -1 : bytes.indexOf('dkms', end)) {
    const start = bytes.lastIndexOf('\n\n', at);
    end = bytes.indexOf('\n\n', at);
    const stanza = bytes.toString('utf8', start < 0 ? 0 : start + 2, end < 0 ? bytes.length : end);
    const field = (key: string): string => fieldOf(stanza, key) ?? '';
    const name = field('Package');
    const needs = ['Depends', 'Pre-Depends', 'Recommends'].map(field);
    if (
      !name.includes('dkms') &&
      !field('Provides').includes('dkms') &&
      !needs.some((list) => /(?:^|[\s,|])dkms(?![a-z0-9+.-])/.test(list))
    ) {
      continue;
    }
    const found: DkmsPackage = {
      name,
      version: field('Version'),
      suite,
      architecture: field('Architecture'),
      filename: field('Filename').replace(/^\.\//, ''),
      size: Number(field('Size')),
      installedBytes: Number(field('Installed-Size')) * 1024,
      sha256: field('SHA256').toLowerCase(),
      depends: field('Depends'),
      preDepends: field('Pre-Depends'),
      provides: field('Provides'),
    };
    if (
      /^[a-z0-9][a-z0-9+.-]+$/.test(name) &&
      /^[0-9A-Za-z][0-9A-Za-z.+~:-]*$/.test(found.version) &&
      /^[a-z0-9-]+$/.test(found.architecture) &&
      /^[\w.+~%:-]+(?:\/[\w.+~%:-]+)*$/.test(found.filename) &&
      !found.filename.split('/').includes('..') &&
      Number.isSafeInteger(found.size) &&
      Number.isSafeInteger(found.installedBytes) &&
      /^[0-9a-f]{64}$/.test(found.sha256)
    ) {
      packages.push(found);
    }
  }
  return packages;
}

function fieldOf(stanza: string, key: string): string | undefined {
  return new RegExp(`^${key}: *(.*)$`, 'm').exec(stanza)?.[1];
}
