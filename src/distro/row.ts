import type { RpmForm } from './rpm-names.js';

/** What resolving kernels asks of a catalogue row; the rows of `image/catalogue.ts` fit it. */
export interface DistroRow {
  /** `debian-12`, `debian-sid`. */
  id: string;
  aliases?: readonly string[];
  family: string;
  /** apt when it is not said. */
  packageManager?: 'apt' | 'dnf' | 'zypper';
  codename: string;
  version: string;
  mirrors: { main: string; security?: string | undefined };
  suites: readonly {
    name: string;
    role: 'release' | 'updates' | 'security' | 'backports';
    mirror: 'main' | 'security';
  }[];
  arch: { x86_64: { defaultKernel: string } };
  archive?: { kind: string; url: string } | undefined;
}

/** The form of the distro's module packages: Debian's .deb, or one of the forms of .rpm. */
export type PackageForm = 'deb' | RpmForm;

export function packageForm({ packageManager = 'apt' }: DistroRow): PackageForm {
  return ({ apt: 'deb', dnf: 'kmod', zypper: 'kmp' } as const)[packageManager];
}
