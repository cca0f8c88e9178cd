import type { SourceTree } from './tree.js';

/** What is known of a source beside its files. */
export interface VersionHints {
  /** --module-version. */
  given?: string | undefined;
  /** Tags of its commit, or the name of the folder that its archive unpacks to. */
  tags?: readonly string[] | undefined;
  /** When and what, for a source that has no version of its own. */
  commit?: { id: string; date: Date } | undefined;
}

export interface FoundVersion {
  version: string;
  /** Where it comes from, in words. */
  from: string;
}

const VERSION = /^[0-9A-Za-z][0-9A-Za-z.+~_-]*$/;

/**
 * A source's version: what is given, else that of debian/changelog, its tag, a VERSION file, in this order; `folder` holds its
 * dkms.conf, and what is above it counts, too. Of a commit without any of these its date. Null when nothing tells.
 */
export function findVersion(tree: SourceTree, folder: string, hints: VersionHints): FoundVersion | null {
  if (hints.given !== undefined) return { version: hints.given, from: '--module-version' };
  const above = foldersAbove(folder);
  for (const at of above) {
    const path = join(at, 'debian/changelog');
    const version = changelogVersion(tree.text(path) ?? '');
    if (version !== null) return { version, from: path };
  }
  for (const tag of hints.tags ?? []) {
    const version = tagVersion(tag);
    if (version !== null) return { version, from: `the tag ${tag}` };
  }
  for (const at of above) {
    for (const name of ['VERSION', 'VERSION.txt', 'version', '.version']) {
      const version = fileVersion(tree.text(join(at, name)) ?? '');
      if (version !== null) return { version, from: join(at, name) };
    }
  }
  if (!hints.commit) return null;
  const { id, date } = hints.commit;
  const day = date.toISOString().slice(0, 10).replaceAll('-', '');
  return { version: `0~git${day}.${id.slice(0, 7)}`, from: 'the commit, which has no tag' };
}

const join = (folder: string, name: string): string => (folder === '' ? name : `${folder}/${name}`);

/** The folder itself and those that it is in, up to the tree's top. */
export function foldersAbove(folder: string): string[] {
  const parts = folder.split('/').filter((part) => part !== '');
  return [...parts.keys(), parts.length].reverse().map((count) => parts.slice(0, count).join('/'));
}

/** The upstream version of a changelog's newest entry. @internal */
export function changelogVersion(text: string): string | null {
  const [, full = ''] = /^[A-Za-z0-9][A-Za-z0-9+.-]* \(([^()\s]+)\) [^;\n]*;/m.exec(text) ?? [];
  const upstream = full.replace(/^\d+:/, '').replace(/-[^-]*$/, '');
  return VERSION.test(upstream) ? upstream : null;
}

/** `v1.2`, `release-1.2`, `evdi-1.2`, `upstream/1.2` are 1.2. @internal */
export function tagVersion(tag: string): string | null {
  const [, version = ''] =
    /(?:^|[-_/.]|^[vV]|[-_/][vV])(\d+(?:\.[0-9A-Za-z+~]+)*(?:[-_+~][0-9A-Za-z.+~_-]+)?)$/.exec(tag) ?? [];
  return VERSION.test(version) ? version : null;
}

/** A line that is a version, or `VERSION=…` as a shell or a makefile has it. */
function fileVersion(text: string): string | null {
  for (const line of text.split('\n').slice(0, 20)) {
    const [, value = ''] =
      /^\s*(?:export\s+)?(?:[A-Z_]*VERSION\s*[:?]?=\s*)?["']?[vV]?(\d[^"'\s#]*)["']?\s*(?:#.*)?$/.exec(
        line,
      ) ?? [];
    if (VERSION.test(value)) return value;
  }
  return null;
}
