import { got } from 'got';
import { DEB_ARCH, type Arch, type KernelTarget } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { proxyOptions } from '../lib/proxy.js';
import { fetchBytes, listKernels } from './apt-index.js';
import { proxyFor } from './mirrors.js';
import { kernelPackages, type KernelPackages } from './packages.js';
import type { ResolveOptions } from './resolve.js';
import type { DistroRow, RowArchive } from './row.js';
import { fillUrl, readRepo, versionOf } from './rpm-index.js';
import { compareVersions } from '../formats/versions.js';

/** One place where a kernel was looked for, and what came of it. */
export interface Place {
  where: string;
  outcome: string;
}

const MAX_JSON_BYTES = 8 << 20;
/** snapshot.ubuntu.com has nothing from before. */
const UBUNTU_SNAPSHOTS_SINCE = '20230301T000000Z';
/** A package is published some hours before the archive's indexes name it. */
const PUBLICATION_MS = 6 * 3600_000;

/** A kernel that the archives of old packages were asked for. */
interface Wanted {
  row: DistroRow;
  release: string;
  arch: Arch;
  options: ResolveOptions;
}

/**
 * Looks for a kernel in the row's archives of old packages, in their order; each place without it is added to `places`.
 * Throws `transient` when an archive breaks off. One that cannot be connected to is a place without it.
 */
export async function fromArchives(
  row: DistroRow,
  release: string,
  arch: Arch,
  options: ResolveOptions,
  places: Place[],
): Promise<KernelTarget | undefined> {
  const tell = (where: string, outcome: string): void => {
    if (!places.some((place) => place.where === where)) places.push({ where, outcome });
  };
  for (const listed of row.archives ?? []) {
    const archive = rebased(listed, options.archiveUrl);
    const place = nameOf(archive);
    if (options.offline) {
      tell(place, 'not asked (--offline)');
      continue;
    }
    try {
      const target = await find(archive, { row, release, arch, options }, tell);
      if (target) return target;
      tell(`${place} (${row.id})`, 'not there');
    } catch (error) {
      // The live mirrors answered. An archive that cannot even be connected to from here is one more place without the
      // kernel; one that breaks off is worth a retry.
      if (!isUnreachable(error)) throw error;
      tell(place, `cannot be reached from this host (${codeOf(error)!})`);
    }
  }
  return undefined;
}

function find(
  archive: RowArchive,
  wanted: Wanted,
  tell: (where: string, outcome: string) => void,
): Promise<KernelTarget | undefined> {
  switch (archive.kind) {
    case 'snapshot':
      return debianSnapshot(archive.url, wanted);
    case 'ubuntu-snapshot':
      return ubuntuSnapshot(archive, wanted, tell);
    case 'launchpad':
      return launchpad(archive, wanted);
    case 'vault':
      return vault(archive, wanted, tell);
    case 'koji':
      return koji(archive, wanted, tell);
  }
}

/** Asks the snapshot API where and when the image package was seen, then which suite held it then. */
async function debianSnapshot(
  url: string,
  { row, release, arch, options }: Wanted,
): Promise<KernelTarget | undefined> {
  const name = `linux-image-${release}`;
  const base = url.replace(/\/+$/, '');
  const path = `${base}/mr/binary/${encodeURIComponent(name)}/`;
  const versions = resultOf(await json(path, options), 'binary_version').sort((a, b) =>
    compareVersions(b, a),
  );
  for (const version of versions) {
    const answer = await json(`${path}${encodeURIComponent(version)}/binfiles?fileinfo=1`, options);
    for (const { archiveName, timestamp } of seen(answer, DEB_ARCH[arch])) {
      const uri = `${base}/archive/${archiveName}/${timestamp}/`;
      for (const suite of archiveSuites(archiveName, row, version)) {
        if (!(await datedSuiteHas(uri, suite, { row, release, arch, options }))) continue;
        return { release, distro: row.id, arch, packageVersion: version, suite, archive: { uri, suite } };
      }
    }
  }
  return undefined;
}

async function datedSuiteHas(uri: string, suite: string, wanted: Wanted): Promise<boolean> {
  const { row, arch, options } = wanted;
  const index = await listKernels({
    ...options,
    keyring: options.keyring ?? row.keyring,
    mirror: uri,
    suites: [{ name: suite, mirror: 'main' }],
    arch: DEB_ARCH[arch],
    maxAge: Infinity,
    expiredKeys: true,
    components: ['main'],
  });
  return index.kernels.some((entry) => entry.release === wanted.release);
}

/** A signed dated archive; Launchpad tells when the package was published, and where. */
async function ubuntuSnapshot(
  archive: { url: string; api: string },
  wanted: Wanted,
  tell: (where: string, outcome: string) => void,
): Promise<KernelTarget | undefined> {
  const { row, release, arch } = wanted;
  const base = archive.url.replace(/\/+$/, '');
  for (const each of await publications(archive.api, imageName(wanted), wanted)) {
    const stamp = new Date(each.published.getTime() + PUBLICATION_MS)
      .toISOString()
      .replace(/[-:]|\.\d+/g, '');
    if (stamp < UBUNTU_SNAPSHOTS_SINCE) {
      tell(`${base} (${row.id})`, `keeps nothing from before ${UBUNTU_SNAPSHOTS_SINCE.slice(0, 8)}`);
      continue;
    }
    const uri = `${base}/${stamp}/`;
    const suite = `${row.codename}${each.pocket === 'Release' ? '' : `-${each.pocket.toLowerCase()}`}`;
    if (!(await datedSuiteHas(uri, suite, wanted))) continue;
    return { release, distro: row.id, arch, packageVersion: each.version, suite, archive: { uri, suite } };
  }
  return undefined;
}

/** Launchpad keeps every file that was ever published, by name. Nothing signs them but the connection. */
async function launchpad(
  archive: { url: string; api: string },
  wanted: Wanted,
): Promise<KernelTarget | undefined> {
  const { row, release, arch, options } = wanted;
  // A kernel's image, modules and headers have one version; Launchpad knows the source of the headers.
  const headers = (await publications(archive.api, `linux-headers-${release}`, wanted))[0];
  if (!headers) return undefined;
  const names = kernelPackages(row, release, headers.source);
  const debArch = DEB_ARCH[arch];
  const version = headers.version.replace(/^\d+:/, '');
  const url = (name: string): string[] => {
    // Common headers are for all architectures.
    const archs = name.endsWith(`-${release}`) ? [debArch] : ['all', debArch];
    return archs.map(
      (each) =>
        `${archive.url.replace(/\/+$/, '')}/ubuntu/+archive/primary/+files/${name}_${encodeURIComponent(version)}_${each}.deb`,
    );
  };
  const files = await filesOf(names, url, options);
  return files && { release, distro: row.id, arch, packageVersion: headers.version, files };
}

interface Publication {
  version: string;
  pocket: string;
  source: string;
  published: Date;
}

/** Where Launchpad says that a binary package was published in the row's series, newest version first. */
async function publications(api: string, name: string, wanted: Wanted): Promise<Publication[]> {
  const { row, arch, options } = wanted;
  const root = api.replace(/\/+$/, '');
  const series = `${root}/ubuntu/${row.codename}/${DEB_ARCH[arch]}`;
  const query = new URLSearchParams({
    'ws.op': 'getPublishedBinaries',
    binary_name: name,
    exact_match: 'true',
    distro_arch_series: series,
  });
  const answer = await json(`${root}/ubuntu/+archive/primary?${String(query)}`, options);
  const { entries } = (answer ?? {}) as { entries?: Record<string, unknown>[] };
  return (Array.isArray(entries) ? entries : [])
    .flatMap((entry): Publication[] => {
      const text = (key: string): string => (typeof entry[key] === 'string' ? entry[key] : '');
      const published = new Date(text('date_published'));
      const [version, pocket, source] = ['binary_package_version', 'pocket', 'source_package_name'].map(text);
      const fit =
        !Number.isNaN(published.getTime()) &&
        ['Release', 'Updates', 'Security', 'Proposed'].includes(pocket!) &&
        /^[0-9][0-9A-Za-z.+~:-]*$/.test(version!) &&
        // Of another series when the server ignores what it was asked.
        (entry.distro_arch_series_link === undefined ||
          text('distro_arch_series_link').endsWith(`/ubuntu/${row.codename}/${DEB_ARCH[arch]}`));
      return fit ? [{ version: version!, pocket: pocket!, source: source || 'linux', published }] : [];
    })
    .sort((a, b) => compareVersions(b.version, a.version) || a.published.getTime() - b.published.getTime());
}

function imageName({ row, release }: Wanted): string {
  return kernelPackages(row, release).image[0]!;
}

/** The repositories of the minor releases that a kernel may be of: `.el9_4` says 9.4, else the row's list. */
async function vault(
  archive: { repos: readonly string[]; minors: readonly string[] },
  wanted: Wanted,
  tell: (where: string, outcome: string) => void,
): Promise<KernelTarget | undefined> {
  const { row, release, arch, options } = wanted;
  const said = /\.el(\d+)_(\d+)/.exec(release);
  const minors = said ? [`${said[1]!}.${said[2]!}`] : archive.minors;
  const names = kernelPackages(row, release);
  for (const minor of minors.length > 0 ? minors : [row.version]) {
    const urls = archive.repos.map((url) => fillUrl(url, { minor, arch }));
    const repos = await Promise.all(
      urls.map((url) => readRepo(row, arch, url, { ...options, maxAge: Infinity })),
    );
    const packages = repos.flatMap(({ packages }) => packages);
    const lookup = (name: string): { url: string; sha256: string } | undefined =>
      packages.find((rpm) => `${rpm.name}-${rpm.version}-${rpm.release}.${rpm.arch}` === name);
    const files = pick(names, lookup);
    repos.forEach(({ present }, i) => {
      if (!files) tell(`${urls[i]!} (${row.id})`, present ? 'not there' : 'no such repository');
    });
    if (!files) continue;
    const image = packages.find(({ url }) => url === files[0]!.url)!;
    return {
      release,
      distro: row.id,
      arch,
      packageVersion: versionOf(image),
      files: files.map(({ url, sha256 }) => ({ url, sha256 })),
    };
  }
  return undefined;
}

/** A build in Koji lies under its name, version, release and architecture. Its files are not signed. */
async function koji(
  archive: { url: string; source: string },
  wanted: Wanted,
  tell: (where: string, outcome: string) => void,
): Promise<KernelTarget | undefined> {
  const { row, release, arch, options } = wanted;
  const [, version, rpmRelease] = /^([^-]+)-(.+)\.[^.]+$/.exec(release.replace(/\+[a-z0-9-]+$/, '')) ?? [];
  if (version === undefined || rpmRelease === undefined) return undefined;
  const folder = `${archive.url.replace(/\/+$/, '')}/${archive.source}/${version}/${rpmRelease}/${arch}`;
  const files = await filesOf(kernelPackages(row, release), (name) => [`${folder}/${name}.rpm`], options);
  if (!files) tell(`${folder}/ (${row.id})`, 'not there');
  return files && { release, distro: row.id, arch, packageVersion: `${version}-${rpmRelease}`, files };
}

/** The files of a kernel that exist, undefined when one that must be there is missing. */
async function filesOf(
  names: KernelPackages,
  urls: (name: string) => string[],
  options: ResolveOptions,
): Promise<{ url: string }[] | undefined> {
  const all = [...new Set([...names.image, ...names.modules, ...names.extra, ...names.headers])];
  const found = new Map<string, { url: string }>();
  await Promise.all(
    all.map(async (name) => {
      for (const url of urls(name)) {
        if (found.has(name) || !(await exists(url, options))) continue;
        found.set(name, { url });
      }
    }),
  );
  return pick(names, (name) => found.get(name));
}

function pick<T>(names: KernelPackages, lookup: (name: string) => T | undefined): T[] | undefined {
  const image = names.image.map(lookup).find((file) => file !== undefined);
  const must = [...names.modules, ...names.headers].map(lookup);
  if (image === undefined || must.includes(undefined)) return undefined;
  return [image, ...must, ...names.extra.map(lookup)].filter((file) => file !== undefined);
}

async function exists(url: string, options: ResolveOptions): Promise<boolean> {
  try {
    const { statusCode } = await got.head(url, {
      ...proxyOptions(url, await proxyFor(options.proxy)),
      timeout: { connect: 15_000, response: 30_000, request: 60_000 },
      retry: { limit: 1, errorCodes: ['ETIMEDOUT', 'ECONNRESET', 'EPIPE', 'EAI_AGAIN'] },
      throwHttpErrors: false,
      ...(options.signal && { signal: options.signal }),
    });
    if (statusCode < 300) return true;
    if ([403, 404, 410].includes(statusCode)) return false;
    throw new Error(`it answered ${statusCode}`);
  } catch (error) {
    if (options.signal?.aborted) throw new Dkms2binError('interrupted', 'Interrupted', { cause: error });
    throw new Dkms2binError('transient', `Could not ask for ${url}: ${(error as Error).message}`, {
      hint: 'Check the network and --proxy, or name another --archive.',
      cause: error,
    });
  }
}

async function json(url: string, options: ResolveOptions): Promise<unknown> {
  const bytes = await fetchBytes(url, MAX_JSON_BYTES, options);
  if (bytes === undefined) return undefined;
  try {
    return JSON.parse(bytes.toString('utf8')) as unknown;
  } catch (error) {
    throw new Dkms2binError('transient', `${url} did not answer with JSON`, { cause: error });
  }
}

/** `--archive` takes the stead of an archive's scheme and host; its own path goes in front. */
function rebased(archive: RowArchive, base: string | undefined): RowArchive {
  if (base === undefined) return archive;
  const move = (url: string): string => base.replace(/\/+$/, '') + url.replace(/^https?:\/\/[^/]+/, '');
  if (archive.kind === 'vault') return { ...archive, repos: archive.repos.map(move) };
  if ('api' in archive) return { ...archive, url: move(archive.url), api: move(archive.api) };
  return { ...archive, url: move(archive.url) };
}

function nameOf(archive: RowArchive): string {
  return archive.kind === 'vault'
    ? archive.repos[0]!.replace(/\/?\{minor\}.*$/, '')
    : archive.url.replace(/\/+$/, '');
}

const UNREACHABLE = ['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'ENETUNREACH', 'EHOSTUNREACH'];

/** Whether an error says that a server cannot even be connected to from this host. */
export function isUnreachable(error: unknown): boolean {
  return UNREACHABLE.includes(codeOf(error) ?? '');
}

/** Values of `key` in a snapshot answer's `result` array. */
function resultOf(answer: unknown, key: string): string[] {
  const result = (answer as { result?: unknown } | undefined)?.result;
  if (!Array.isArray(result)) return [];
  return result
    .map((item) => (item as Record<string, unknown>)[key])
    .filter((value): value is string => typeof value === 'string');
}

/** When and in which archive the files of one architecture were first seen; the security archive last. */
function seen(answer: unknown, arch: string): { archiveName: string; timestamp: string }[] {
  const { result, fileinfo } = (answer ?? {}) as {
    result?: { architecture?: string; hash?: string }[];
    fileinfo?: Record<string, { archive_name?: string; first_seen?: string }[]>;
  };
  if (!Array.isArray(result) || typeof fileinfo !== 'object' || fileinfo === null) return [];
  return result
    .filter((item) => item.architecture === arch && typeof item.hash === 'string')
    .flatMap((item) => fileinfo[item.hash!] ?? [])
    .filter(
      (info) =>
        /^\d{8}T\d{6}Z$/.test(info.first_seen ?? '') &&
        ['debian', 'debian-security', 'debian-backports'].includes(info.archive_name ?? ''),
    )
    .map((info) => ({ archiveName: info.archive_name!, timestamp: info.first_seen! }))
    .sort((a, b) => a.archiveName.localeCompare(b.archiveName));
}

/** Suites that may have held a package when an archive first saw it; the small ones come first. */
function archiveSuites(archiveName: string, row: DistroRow, version: string): string[] {
  const { codename } = row;
  if (codename === 'sid') return archiveName === 'debian' ? ['sid'] : [];
  if (archiveName === 'debian-security') return [`${codename}-security`];
  if (archiveName === 'debian-backports' || version.includes('~bpo')) return [`${codename}-backports`];
  // A kernel of a point release is first seen in proposed-updates.
  return [`${codename}-proposed-updates`, `${codename}-updates`, codename];
}

function codeOf(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    const { code } = at as NodeJS.ErrnoException;
    if (typeof code === 'string' && /^E[A-Z_]+$/.test(code) && !code.startsWith('ERR_')) return code;
  }
  return undefined;
}
