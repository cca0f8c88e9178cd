import type { Arch } from '../core/cell.js';
import { Dkms2binError } from '../core/errors.js';

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
  arch: { x86_64: { defaultKernel: string }; aarch64?: { defaultKernel: string } | undefined };
  archive?: { kind: string; url: string } | undefined;
}

/** What a row says of an architecture. Throws fault `usage` when it has none of that name. */
export function archRow<R>(row: { id: string; arch: Partial<Record<Arch, R>> }, arch: Arch): R {
  const found = row.arch[arch];
  if (found) return found;
  throw new Dkms2binError('usage', `The catalogue has no ${arch} of ${row.id}`, {
    hint: `It has ${Object.keys(row.arch).join(', ')}.`,
  });
}
