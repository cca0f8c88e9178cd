/** What resolving kernels asks of a catalogue row; the rows of `image/catalogue.ts` fit it. */
export interface DistroRow {
  /** `debian-12`, `debian-sid`. */
  id: string;
  aliases?: readonly string[];
  family: string;
  codename: string;
  version: string;
  mirrors: { main: string; security?: string | undefined };
  suites: readonly {
    name: string;
    role: 'release' | 'updates' | 'security' | 'backports';
    mirror: 'main' | 'security';
  }[];
  /** The suite where the next kernels of this release wait. */
  proposed?: string | undefined;
  /** Id of the row of the release that follows. */
  next?: string | undefined;
  arch: { x86_64: { defaultKernel: string } };
  archive?: { kind: string; url: string } | undefined;
}
