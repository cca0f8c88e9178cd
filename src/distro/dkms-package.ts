import { join } from 'node:path';
import { DEB_ARCH, type Arch } from '../model/cell.js';
import { download, hasDigest, type Digest } from '../lib/download.js';
import type { Emit } from '../model/events.js';
import { Dkms2binError } from '../model/errors.js';
import { listDkmsPackages, type DkmsIndex } from './apt-index.js';
import { debFile } from './deb-names.js';
import type { LookupOptions } from './kernel-index.js';
import type { KernelOptions } from './kernels.js';
import { mirrorsOf, proxyFor } from './mirrors.js';
import { listed } from './places.js';
import { requireApt, type DistroRow } from './row.js';
import { compareVersions } from '../formats/versions.js';

/** A package of the index that was chosen for a `--dkms` name. */
export type FoundPackage = DkmsIndex['packages'][number];

export type FindOptions = KernelOptions;

export interface FetchOptions extends Pick<LookupOptions, 'cacheDir' | 'offline' | 'signal' | 'proxy'> {
  emit: Emit;
}

/** An installed package as dpkg knows it; `provides` is the field's text. */
export interface InstalledPackage {
  name: string;
  version: string;
  provides: string;
  /** Debian's name, `all` included; absent when the list does not say. */
  architecture?: string;
}

interface Wanted {
  name: string;
  version?: string | undefined;
  /** As the user typed it, when name and version are one reading of it. */
  text?: string;
  /** The DKMS module that was asked for by its own name. */
  module?: string | undefined;
}

/** What a name with dashes can mean: the package of that very name, then each split before a digit, the shortest name first. */
function readingsOf({ name, version = '', text = '' }: Wanted): { name: string; version: string }[] {
  const whole = text.toLowerCase();
  if (whole === '' || text.includes('=') || !whole.startsWith(name)) return [{ name, version }];
  const splits = [...whole.matchAll(/-(?=\d)/g)].filter(({ index }) => index > 0);
  return [
    { name: whole, version: '' },
    ...splits.map(({ index }) => ({ name: whole.slice(0, index), version: text.slice(index + 1) })),
  ];
}

/**
 * The package that a `--dkms` name means in the row's suites: of the name, and of the version as `matchesVersion` has it.
 * The newest one wins, but one of backports only when no other suite has any. Throws `not-found` with near names or
 * versions and every suite tried, `transient` when a mirror does not answer.
 */
export async function findDkmsPackage(
  row: DistroRow,
  wanted: Wanted,
  options: FindOptions,
): Promise<FoundPackage> {
  requireApt(row);
  const { arch = 'x86_64', mirror, securityMirror, ...rest } = options;
  const mirrors = await mirrorsOf(row, { mirror, securityMirror });
  const { packages, places } = await listDkmsPackages({
    ...rest,
    mirror: mirrors.main,
    securityMirror: mirrors.security,
    suites: row.suites,
    arch: DEB_ARCH[arch],
    keyring: rest.keyring ?? row.keyring,
    ...(row.family === 'debian' ? {} : { components: row.components }),
  });
  const rank = (suite: string): number => row.suites.findIndex((each) => each.name === suite);
  const backport = (suite: string): number => Number(row.suites[rank(suite)]?.role === 'backports');
  const namedAs = (name: string): FoundPackage[] =>
    packages
      .filter((each) => each.name === name)
      .sort(
        (a, b) =>
          backport(a.suite) - backport(b.suite) ||
          compareVersions(b.version, a.version) ||
          rank(a.suite) - rank(b.suite),
      );
  const readings = [...readingsOf(wanted), ...readingsOfModule(wanted)];
  for (const { name, version } of readings) {
    const found = namedAs(name).find((each) => matchesVersion(each.version, version));
    if (found) return found;
  }
  // The most likely of what was meant.
  const { name, version } = readings.find((each) => namedAs(each.name).length > 0) ?? {
    name: wanted.name,
    version: wanted.version ?? '',
  };
  const named = namedAs(name);

  const tried = places.map(({ suite, url, components }) => ({
    where: `${url} ${suite}${components.length > 0 ? ` (${components.join(' ')})` : ''}`,
    outcome: components.length > 0 ? 'not there' : 'the mirror has no such suite',
  }));
  const there = [...new Set(named.map((each) => each.version))];
  const near =
    there.length > 0
      ? there.map((each) => `${name}=${each}`)
      : nearNames(
          name,
          packages.map((each) => each.name),
        );
  throw new Dkms2binError(
    'not-found',
    (there.length > 0
      ? `${name} has no version ${version} in ${row.id}; there is ${there.join(' ')}`
      : `There is no DKMS package ${name} in ${row.id}`) + listed(tried),
    near.length > 0 ? { hint: `Similar names: ${near.join(', ')}` } : {},
  );
}

/** Modules whose package a distro calls after something else; the package without its -dkms. */
const PACKAGE_OF_MODULE: Readonly<Record<string, string>> = {
  ...{ '8812au': 'realtek-rtl88xxau', '88XXau': 'realtek-rtl88xxau', wl: 'broadcom-sta' },
  ...{ spl: 'zfs', vboxdrv: 'virtualbox', vboxguest: 'virtualbox-guest', openafs: 'openafs-modules' },
  ...{ nvidia: 'nvidia-kernel', 'nvidia-current': 'nvidia-kernel', ddcci_backlight: 'ddcci' },
  ...{ thinkpad_ec: 'tp-smapi', hdaps: 'tp-smapi', ipt_NETFLOW: 'iptables-netflow', lime: 'lime-forensics' },
  ...{ xt_RTPENGINE: 'ngcp-rtpengine-kernel', scap: 'falcosecurity-scap', lttng_tracer: 'lttng-modules' },
  ...{
    hid_uclogic: 'digimend',
    hid_kye: 'digimend',
    xt_geoip: 'xtables-addons',
    xt_ACCOUNT: 'xtables-addons',
  },
};

/** What may bring a module of that name, where no package is called so. */
function readingsOfModule({
  name,
  version = '',
  module = name,
}: Wanted): { name: string; version: string }[] {
  const plain = module.toLowerCase().replaceAll('_', '-');
  const likely = PACKAGE_OF_MODULE[module] ?? PACKAGE_OF_MODULE[module.replaceAll('-', '_')];
  const names = [plain, ...(likely === undefined ? [] : [likely])];
  return names.filter((each) => !each.endsWith('-dkms')).map((each) => ({ name: `${each}-dkms`, version }));
}

/**
 * Whether a package version is `wanted`: with or without its epoch and Debian revision, or, when `wanted` ends in `~`,
 * beginning with what stands before it. All are when nothing is wanted.
 */
function matchesVersion(version: string, wanted: string): boolean {
  const bare = version.replace(/^\d+:/, '');
  if (wanted.endsWith('~')) {
    const start = wanted.slice(0, -1);
    return bare.startsWith(start) || version.startsWith(start);
  }
  const plain = (text: string): string => text.replace(/-[^-]*$/, '');
  return wanted === '' || [version, bare, plain(version), plain(bare)].includes(wanted);
}

/** Up to eight packages of modules: those that hold the name's stem first, then those that begin like it. */
function nearNames(name: string, names: readonly string[]): string[] {
  const modules = [...new Set(names)].filter((each) => each.endsWith('-dkms')).sort();
  const stem = name.replace(/-dkms$/, '');
  return [
    ...new Set([
      ...modules.filter((each) => each.includes(stem)),
      ...modules.filter((each) => each.startsWith(stem.slice(0, 3))),
    ]),
  ].slice(0, 8);
}

/**
 * The package's file in the cache, read-only: `packages/<sha256>/<name>_<version>_<arch>.deb`, hashed again when it is
 * there already. Throws `host` when no signature vouches for the index, `not-found` for what --offline lacks,
 * `transient` when the mirror does not deliver, also for a file that it dropped since the index was read.
 */
export async function fetchDkmsPackage(found: FoundPackage, options: FetchOptions): Promise<string> {
  const { name, version, architecture, size, sha256 } = found;
  if (!found.verified) {
    throw new Dkms2binError('host', `${name} ${version}: the index of ${found.suite} was not verified`, {
      hint: 'Install gpgv and debian-archive-keyring on this host.',
    });
  }
  const file = debFile({ name, version, architecture });
  const to = join(options.cacheDir, 'packages', sha256, file);
  const digest: Digest = { algorithm: 'sha256', hex: sha256 };
  if (await hasDigest(to, digest)) return to;
  if (options.offline) {
    throw new Dkms2binError('not-found', `--offline is given, but ${name} ${version} is not in the cache`, {
      hint: 'Run once without --offline.',
    });
  }
  const url = `${found.mirror}/${found.filename.split('/').map(encodeURIComponent).join('/')}`;
  try {
    await download({
      url,
      to,
      digest,
      what: file,
      mode: 0o444,
      limits: { maxBytes: size },
      emit: options.emit,
      signal: options.signal,
      proxy: await proxyFor(options.proxy),
    });
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault !== 'not-found') throw error;
    throw new Dkms2binError('transient', `${error.message}; the mirror changed since its index was read`, {
      cause: error,
    });
  }
  return to;
}

/**
 * Reads lines of `name\tversion\tprovides\tarchitecture`, as dpkg-query writes them. Names of another architecture (`libc6:i386`) and
 * packages without a version (removed ones) are passed over.
 */
export function parseInstalled(text: string, arch: Arch = 'x86_64'): InstalledPackage[] {
  return text.split('\n').flatMap((line) => {
    const [full = '', version = '', provides = '', architecture] = line
      .split('\t')
      .map((each) => each.trim());
    const [name = '', qualifier = DEB_ARCH[arch]] = full.split(':');
    return name === '' || version === '' || qualifier !== DEB_ARCH[arch]
      ? []
      : [{ name, version, provides, ...(architecture ? { architecture } : {}) }];
  });
}

/**
 * The first group of a package's Pre-Depends and Depends that no installed package meets, as it stands there; null when
 * all are met. What it cannot read counts as unmet.
 */
export function unmetDependency(
  wanted: Pick<FoundPackage, 'depends' | 'preDepends'>,
  installed: readonly InstalledPackage[],
  arch: Arch = 'x86_64',
): string | null {
  /** Versions under which a name is there; null for one that is provided without a version. */
  const there = new Map<string, (string | null)[]>();
  const add = (name: string, version: string | null): void =>
    void there.set(name, [...(there.get(name) ?? []), version]);
  for (const { name, version, provides } of installed) {
    add(name, version);
    for (const each of provides.split(',')) {
      const relation = parseRelation(each);
      if (relation) add(relation.name, relation.operator === '=' ? relation.version : null);
    }
  }
  const met = (text: string): boolean => {
    const relation = parseRelation(text);
    if (!relation || !['', 'any', 'native', DEB_ARCH[arch]].includes(relation.qualifier)) return false;
    const versions = there.get(relation.name) ?? [];
    return relation.operator === ''
      ? versions.length > 0
      : versions.some((version) => version !== null && holds(version, relation.operator, relation.version));
  };
  for (const group of `${wanted.preDepends},${wanted.depends}`.split(',')) {
    if (group.trim() !== '' && !group.split('|').some(met)) return group.trim();
  }
  return null;
}

interface Relation {
  name: string;
  qualifier: string;
  operator: string;
  version: string;
}

function parseRelation(text: string): Relation | undefined {
  const match =
    /^([a-z0-9][a-z0-9+.-]*)(?::([a-z0-9-]+))?\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([0-9A-Za-z.+~:-]+)\s*\))?$/.exec(
      text.trim(),
    );
  if (!match) return undefined;
  const [, name = '', qualifier = '', operator = '', version = ''] = match;
  return { name, qualifier, operator, version };
}

function holds(version: string, operator: string, than: string): boolean {
  const order = compareVersions(version, than);
  switch (operator) {
    case '<<':
      return order < 0;
    case '=':
      return order === 0;
    case '>>':
      return order > 0;
    // dpkg reads the old `<` and `>` as or-equal.
    case '<=':
    case '<':
      return order <= 0;
    default:
      return order >= 0;
  }
}
