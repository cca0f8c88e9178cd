import { FrameReader } from '../frames.js';
import type { Guest } from '../guest.js';

export interface RpmOrder {
  spec: Buffer;
  /** The files that the spec file names by their numbers. */
  sources: readonly Buffer[];
  /** File names that have to come out, in order. */
  packages: readonly string[];
  arch: string;
  /** Seconds since 1970 that all timestamps get. */
  epoch: number;
}

/** The .rpm files that the guest's rpmbuild made, none when it failed, and what it printed. Throws `transient`. */
export async function rpmbuild(
  guest: Guest,
  { spec, sources, packages, arch, epoch }: RpmOrder,
  silenceMs: number,
): Promise<{ rpms: Buffer[]; log: string }> {
  const bytes = [spec, ...sources];
  const vars = { SIZES: bytes.map(({ length }) => length), PACKAGES: packages, ARCH: arch, EPOCH: epoch };
  const made = await guest.program('pack-rpm.py', vars, { silenceMs, input: Buffer.concat(bytes) });
  const frames = await new FrameReader(made.stdout, {
    kinds: ['log', 'rpm'],
    limits: { count: packages.length + 1 },
  }).all();
  await made.done;
  const of = (kind: string): Buffer[] =>
    frames.filter((each) => each.kind === kind).map((each) => each.bytes);
  return { rpms: of('rpm'), log: Buffer.concat(of('log')).toString('utf8') };
}
