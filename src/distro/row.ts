import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { closest, oneLine } from '../lib/text.js';
import type { KeySource } from '../formats/openpgp.js';
import type { RpmForm } from './rpm-names.js';

/** Package names of one kernel, as the catalogue has them. */
export interface PackageSet {
  image: readonly string[];
  modules: readonly string[];
  extra: readonly string[];
  headers: readonly string[];
}

interface ArchMirrors {
  defaultKernel: string;
  kernelFlavours?: readonly string[] | undefined;
  mirrors?: { main: string; security?: string | undefined } | undefined;
}

export type RowArchive =
  | { kind: 'snapshot'; url: string }
  | { kind: 'ubuntu-snapshot'; url: string; api: string }
  | { kind: 'launchpad'; url: string; api: string }
  | { kind: 'vault'; repos: readonly string[]; minors: readonly string[] }
  | { kind: 'koji'; url: string; source: string }
  | { kind: 'mainline'; url: string };

/** Where the kernels of a row come from that stands on top of another one. */
export interface KernelSource {
  /** Id of the row that the image and all packages but the kernels are of. */
  on: string;
  /** Whether a kernel release alone picks this row; the same repository may stand on top of several. */
  first: boolean;
  /** It was asked for (`--kernel-repo`): kernels come from there and from nowhere else. */
  asked?: true;
  /** Those that there are kernels for. */
  arches: readonly Arch[];
  repositories: readonly { url: string; suite?: string | undefined; components: readonly string[] }[];
  /** Who signs them; absent when nobody does. */
  key?: KeySource | undefined;
  /** Package that leads to the current kernel; without one the newest kernel is it. */
  defaultKernel?: string | undefined;
}

interface RowRepo {
  name: string;
  url: string;
  mirrorList: boolean;
  signed?: boolean;
  /** Of repomd.xml.asc. */
  key?: KeySource | undefined;
}

/** What resolving kernels asks of a catalogue row; the rows of `catalogue.ts` fit it. */
export interface DistroRow {
  /** `debian-12`, `debian-sid`. */
  id: string;
  aliases?: readonly string[];
  family: string;
  codename: string;
  version: string;
  /** apt when it is not said. */
  packageManager?: 'apt' | 'dnf' | 'zypper';
  /** Regular expression that the row's kernel releases fit. */
  releases?: string | undefined;
  mirrors: { main: string; security?: string | undefined; old?: string | undefined };
  keyring?: string | undefined;
  suites: readonly {
    name: string;
    role: 'release' | 'updates' | 'security' | 'backports';
    mirror: 'main' | 'security';
  }[];
  /** The suite where the next kernels of this release wait. */
  proposed?: string | undefined;
  /** Id of the row of the release that follows. */
  next?: string | undefined;
  components?: readonly string[];
  toolchain?: readonly string[];
  repos?: readonly RowRepo[];
  packages?: PackageSet & { variants: readonly (PackageSet & { match: string; suffix: string })[] };
  epel?: { package: string; needs: string; repos: readonly RowRepo[] } | undefined;
  arch: { x86_64: ArchMirrors & { cpuLevel?: number | undefined }; aarch64?: ArchMirrors | undefined };
  archives?: readonly RowArchive[];
  overlay?: KernelSource | undefined;
}

/** Throws fault `host` for a row with packages that nobody signs: their scripts run in no other place than a VM. */
export function requireSigned({ id, overlay, repos = [], epel }: DistroRow): void {
  const unsigned = overlay && !overlay.key ? overlay.repositories[0]?.url : undefined;
  const found = unsigned ?? [...repos, ...(epel?.repos ?? [])].find(({ signed }) => signed === false)?.url;
  if (found === undefined) return;
  throw new Dkms2binError('host', `nobody signs the packages of ${found}, a repository of ${id}`);
}

/** Id of the row that a row's image and toolchain are of. */
export const baseId = ({ id, overlay }: Pick<DistroRow, 'id' | 'overlay'>): string => overlay?.on ?? id;

/** The form of the distro's module packages: Debian's .deb, or one of the forms of .rpm. */
export type PackageForm = 'deb' | RpmForm;

export function packageForm({ packageManager = 'apt' }: DistroRow): PackageForm {
  return ({ apt: 'deb', dnf: 'kmod', zypper: 'kmp' } as const)[packageManager];
}

/** What a row says of an architecture. Throws fault `usage` when it has none of that name. */
export function archRow<R>(
  row: { id: string; arch: Partial<Record<Arch, R>>; overlay?: KernelSource | undefined },
  arch: Arch,
): R {
  const arches = row.overlay?.arches ?? Object.keys(row.arch);
  const found = row.arch[arch];
  if (found && arches.includes(arch)) return found;
  throw new Dkms2binError('usage', `The catalogue has no ${arch} entry for ${row.id}`, {
    hint: `It has ${arches.join(', ')}.`,
  });
}

/** The x86-64 level that a kernel of the row asks of a CPU: the distro's, or a higher one that its release tells. */
export function cpuLevelOf({ arch, releases = '' }: DistroRow, release: string): number {
  const own = new RegExp(releases).exec(release)?.groups?.cpuLevel;
  return Math.max(arch.x86_64.cpuLevel ?? 1, Number(own ?? 1));
}

/** Whether the row's packages lie in an apt archive. */
export function isApt({ packageManager = 'apt' }: Pick<DistroRow, 'packageManager'>): boolean {
  return packageManager === 'apt';
}

/** Throws unless the row's packages lie in an apt archive. */
export function requireApt(row: DistroRow): void {
  if (isApt(row)) return;
  throw new Dkms2binError('not-found', `DKMS packages of ${row.id} cannot be looked up by name yet`, {
    hint: 'Give the package as a file, or a folder with dkms.conf.',
  });
}

/** The error of an id that no row has, with what was probably meant. */
export function unknownDistro(
  name: string,
  rows: readonly Pick<DistroRow, 'id' | 'aliases'>[],
): Dkms2binError {
  const ids = rows.map(({ id }) => id);
  const bare = (text: string): string => text.toLowerCase().replaceAll(/[^a-z0-9]/g, '');
  const names = rows.flatMap(({ id, aliases = [] }) => [id, ...aliases]);
  const same = names.find((each) => bare(each) === bare(name));
  const family = /^[a-z]+/.exec(bare(name))?.[0] ?? '';
  const related = family === '' ? [] : ids.filter((id) => id.startsWith(family));
  const meant = same ?? (related.length === 0 ? closest(name, names) : undefined);
  return new Dkms2binError('usage', `No distro ${oneLine(name)} in the catalogue`, {
    hint:
      meant === undefined
        ? `Known: ${(related.length > 0 ? related : ids).join(', ')}`
        : `Did you mean ${meant}?`,
  });
}
