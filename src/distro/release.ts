import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { DistroRow } from './row.js';

type ReleaseFamily = 'debian' | 'ubuntu' | 'rhel' | 'fedora' | 'amazon' | 'suse';

export interface ParsedRelease {
  release: string;
  family: ReleaseFamily;
  /** `amd64`, `cloud-amd64`, `generic`, `default`; of RPM families `rt`, `uek`, `64k`, or `default`. */
  flavour: string;
  /** The distro's major version when the release tells: 12 for `6.1.0-56-amd64`, 9 for `.el9`. */
  major: number | null;
}

/** Kernel series of Debian's stable releases, whose releases carry an ABI number and no suffix. */
const DEBIAN_SERIES: Record<string, number> = { '4.9.0': 9, '4.19.0': 10, '5.10.0': 11, '6.1.0': 12 };

const FAMILY_NAME: Record<ReleaseFamily, string> = {
  debian: 'Debian',
  ubuntu: 'Ubuntu',
  rhel: 'CentOS/RHEL family',
  fedora: 'Fedora',
  amazon: 'Amazon Linux',
  suse: 'SUSE',
};

/** The catalogue's families whose kernels are named alike. */
const ROW_FAMILIES: Record<ReleaseFamily, readonly string[]> = {
  debian: ['debian'],
  ubuntu: ['ubuntu'],
  rhel: ['centos', 'rocky', 'alma', 'oracle'],
  fedora: ['fedora'],
  amazon: ['amazon'],
  suse: ['opensuse'],
};

/** First words of Ubuntu's flavours; more may follow (`generic-64k`, `aws-fips`, `oem-osp1`). */
const UBUNTU_FLAVOURS =
  'generic|lowlatency|virtual|server|realtime|kvm|aws|azure|gcp|gke|gkeop|oracle|oem|ibm|nvidia|raspi|raspi2|xilinx|intel|bluefield|snapdragon|euclid|fips|hwe|qcom|mtk|starfive|laptop|vmware';

const MAX_RELEASE = 64;

/** A kernel release: of a user (fault `usage`), so it must be harmless in paths, package names and apt's words. */
export function checkRelease(release: string): string {
  if (release.length > MAX_RELEASE || !/^[0-9][A-Za-z0-9+._~-]*$/.test(release) || release.includes('..')) {
    throw new Dkms2binError('usage', `Not a kernel release: ${JSON.stringify(release.slice(0, 100))}`, {
      hint: 'A kernel release is what `uname -r` prints, such as 6.1.0-56-amd64.',
    });
  }
  return release;
}

/** What follows the version of an apt or SUSE kernel release: `cloud-amd64`, `generic-64k`, `default`. */
export function flavourOf(release: string): string | undefined {
  return /-((?!rc\d)[a-z][a-z0-9]*(?:-[a-z0-9]+)*)$/.exec(release)?.[1];
}

/**
 * The architecture that kernel releases, patterns of them or file names of kernel packages tell by their endings, else
 * `given`. Throws fault `usage` when they differ from it or from each other.
 */
export function archOf(texts: readonly string[], given?: Arch): Arch | undefined {
  let arch = given;
  let by = '--arch';
  for (const text of texts) {
    const ending =
      /[-_.](?:(amd64|x86_64)|arm64|aarch64|rpi-(?:v8|2712))(?:[-+][a-z0-9]+)*(?:\.deb|\.rpm)?$/.exec(text);
    if (!ending) continue;
    const told = ending[1] === undefined ? 'aarch64' : 'x86_64';
    if (arch !== undefined && told !== arch) {
      throw new Dkms2binError('usage', `${text} is for ${told}, but ${by} says ${arch}`, {
        hint: 'Build for one architecture at a time.',
      });
    }
    if (arch === undefined) by = text;
    arch = told;
  }
  return arch;
}

type Read = Omit<ParsedRelease, 'release'> | undefined;

function readDebian(release: string): Read {
  const match =
    /^(\d+\.\d+(?:\.\d+)?)(?:[-~]rc\d+)?(?:\+(deb(\d+)(?:[.+]\d+)*|bpo(?:\.\d+)?))?(?:-(?:0\.(?:deb|bpo)(\d+)\.)?[\d.]+)?-((?:cloud-|rt-)?(?:amd64|arm64(?:-16k)?))$/.exec(
      release,
    );
  if (!match) return undefined;
  const [, base = '', suffix, suffixMajor, backportMajor, flavour = ''] = match;
  let major: number | null = null;
  if (suffixMajor !== undefined) major = Number(suffixMajor);
  else if (backportMajor !== undefined) major = Number(backportMajor);
  // Only bookworm's backports were called +bpo: earlier ones say 0.debNN, later ones +debNN.
  else if (suffix !== undefined) major = 12;
  else major = DEBIAN_SERIES[base] ?? null;
  return { family: 'debian', flavour, major };
}

function refuseForeign(release: string): undefined {
  const foreign =
    /(?:-(?:cloud-|rt-)?(armmp(?:-lpae)?|rpi-v[67]l?|686(?:-pae)?|ppc64el|powerpc64le|s390x|riscv64|loong64)|\.(ppc64le|s390x|i[36]86|riscv64)(?:\+[a-z0-9-]+)?)$/.exec(
      release,
    );
  if (!foreign) return undefined;
  throw new Dkms2binError(
    'usage',
    `${release} is a kernel for ${foreign[1] ?? foreign[2]}; only x86_64 (amd64) and aarch64 (arm64) can be built for`,
  );
}

const RPM_FAMILIES = { el: 'rhel', fc: 'fedora', amzn: 'amazon' } as const;

/**
 * What stands between version and distro tag of a kernel that the distro built itself: numbers, a release candidate, a commit,
 * a real-time patch. Others put their name there (`114.bazzite.fc42`) or behind the tag (`el9.elrepo`).
 */
const OWN_BUILD = /^(?:\d+|rc\d+|rt\d+|\d*g(?:it)?[0-9a-f]*)$/;

function readRpm(release: string): Read {
  const match =
    /^[^-]+-(.+)\.(el|fc|amzn)(\d+)(?:_\d+)?(uek)?(?:\.\d+)*(?:\.(?:x86_64|aarch64|noarch))?(?:\+[a-z0-9-]+)?$/.exec(
      release,
    );
  if (!match?.[1]?.split('.').every((part) => OWN_BUILD.test(part))) return undefined;
  const [, , tag, digits, uek] = match;
  const variant = /\+([a-z0-9-]+)$/.exec(release)?.[1] ?? (/\.rt\d/.test(release) ? 'rt' : uek);
  const family = RPM_FAMILIES[tag as keyof typeof RPM_FAMILIES];
  return { family, flavour: variant ?? 'default', major: Number(digits) };
}

const UBUNTU = new RegExp(`^\\d+\\.\\d+\\.\\d+-\\d+-((?:${UBUNTU_FLAVOURS})(?:-[a-z0-9.-]+)?)$`);
const SUSE = /^\d+\.\d+\.\d+-[\d.]+-(default|azure|rt|longterm|64kb|kvmsmall|vanilla|debug)$/;

/** A reader for families whose releases tell no more than the flavour. */
const readFlavour =
  (family: ReleaseFamily, form: RegExp) =>
  (release: string): Read => {
    const flavour = form.exec(release)?.[1];
    return flavour === undefined ? undefined : { family, flavour, major: null };
  };

/** The first that can read a release is right about it. */
const READERS: readonly ((release: string) => Read)[] = [
  readDebian,
  refuseForeign,
  readRpm,
  readFlavour('ubuntu', UBUNTU),
  readFlavour('suse', SUSE),
];

/** Reads a kernel release. Throws fault `usage` when it fits no distro's grammar. */
export function parseRelease(release: string): ParsedRelease {
  checkRelease(release);
  for (const read of READERS) {
    const found = read(release);
    if (found) return { release, ...found };
  }
  throw new Dkms2binError('usage', `No known distro names its kernels like this: ${release}`, {
    hint: UNKNOWN_HINT,
  });
}

/** The ways out for a kernel that no row knows. */
const UNKNOWN_HINT =
  'Check it against what `uname -r` prints there, such as 6.1.0-56-amd64. A kernel from elsewhere is found with --distro and its ' +
  'repository (--kernel-repo FILE), or given as its packages (--distro, and --kernel-package for image and headers).';

/** The number of a row; null for Debian's rows that have a name only (forky before its release, sid). */
function majorOf(row: DistroRow): number | null {
  const text = /^(\d+)/.exec(row.family === 'debian' ? row.id.slice('debian-'.length) : row.version)?.[1];
  return text === undefined ? null : Number(text);
}

/** Whether a row on top of another one names its kernels like this. */
export const isNamedBy = ({ releases }: Pick<DistroRow, 'releases'>, release: string): boolean =>
  releases !== undefined && new RegExp(releases).test(release);

/**
 * The rows that a distro means for a kernel release: itself, or where its repositories on top name their kernels like this, those.
 */
export function rowsOn<R extends DistroRow>(chosen: R, rows: readonly R[], fits: (row: R) => boolean): R[] {
  if (chosen.overlay) return [chosen];
  const on = rows.filter((row) => row.overlay?.on === chosen.id && fits(row));
  return on.length > 0 ? on : [chosen];
}

/**
 * The catalogue rows whose kernels are named like `release`. More than one means that only the index can tell.
 * Throws fault `usage` for an unknown grammar, `not-found` when the catalogue has no such distro.
 */
export function candidatesFor<R extends DistroRow>(release: string, rows: readonly R[]): R[] {
  const named = rows.filter((row) => row.overlay?.first && isNamedBy(row, release));
  if (named.length > 0) return named;
  const parsed = parseRelease(release);
  const family = rows.filter((row) => !row.overlay && ROW_FAMILIES[parsed.family].includes(row.family));
  let found: R[];
  if (parsed.major === null) {
    // Unsuffixed and of no stable series: testing and sid called theirs so before +debNN came.
    found = parsed.family === 'debian' ? family.filter((row) => majorOf(row) === null) : family;
  } else {
    found = family.filter((row) => majorOf(row) === parsed.major);
    const highest = Math.max(0, ...family.map((row) => majorOf(row) ?? 0));
    // +deb14 while no debian-14 is in the catalogue: the next release, as testing and unstable carry it.
    if (found.length === 0 && parsed.family === 'debian' && parsed.major > highest) {
      found = family.filter((row) => majorOf(row) === null);
    }
  }
  found = found.filter(({ releases }) => releases === undefined || new RegExp(releases).test(release));
  if (found.length > 0) return found;
  const which =
    parsed.major === null ? FAMILY_NAME[parsed.family] : `${FAMILY_NAME[parsed.family]} ${parsed.major}`;
  throw new Dkms2binError(
    'not-found',
    `${release} is a kernel of ${which}, which is not in the catalogue yet`,
    {
      hint: `Distros in the catalogue: ${rows
        .filter(({ overlay }) => !overlay)
        .map((row) => row.id)
        .join(', ')}. If it is a kernel of one of these after all, give --distro.`,
    },
  );
}
