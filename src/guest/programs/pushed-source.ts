import type { ModuleSource } from '../../model/cell.js';

/** A cell's source as it lies in the guest. */
export interface PushedSource {
  kind: ModuleSource['kind'];
  /** Of a repository's package or of an .rpm; '' when it is not known. */
  name: string;
  version: string;
  /** Path in the guest; '' for a repository's package that the guest fetches itself. */
  path: string;
  /** Other sources, which bring build dependencies. */
  extra: readonly { kind: ModuleSource['kind']; path: string }[];
  /** DKMS names of the modules of those. */
  brings: readonly string[];
}

/** The variables that name a source to fetch-source.sh and build.sh. */
export const sourceVariables = (
  source: PushedSource,
): Record<'KIND' | 'NAME' | 'VERSION' | 'SRC' | 'EXTRA' | 'BROUGHT', string> => ({
  KIND: source.kind,
  NAME: source.name,
  VERSION: source.version,
  SRC: source.path,
  EXTRA: source.extra.map(({ kind, path }) => `${kind}:${path}`).join(' '),
  BROUGHT: source.brings.join(' '),
});
