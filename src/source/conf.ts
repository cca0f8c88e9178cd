import { Dkms2binError } from '../model/errors.js';
import { foldersAbove, findVersion, type FoundVersion, type VersionHints } from './version.js';
import { folderOf, makefileIn, moduleFolders, modulesOf } from './makefile.js';
import type { SourceTree } from './tree.js';

/** What a source is called by, and may have its version from. */
export interface ConfHints extends VersionHints {
  /** In errors. */
  text: string;
  /** Of the repository, folder or archive. */
  name: string;
  /** Folder of the tree to look in; what is above it may still tell the version. */
  within?: string | undefined;
}

export interface FoundConf {
  /** The source as dkms takes it: with dkms.conf at its top, or deeper when it has several. */
  tree: SourceTree;
  /** Where in the given tree that is. */
  folder: string;
  /** Whether its files are those of the given folder, to the byte. */
  asGiven: boolean;
  /** In a line, what was found or made; null for a dkms.conf at the top that stays as it is. */
  said: string | null;
  /** The text of a dkms.conf that was made of a makefile. */
  made: string | null;
  warnings: string[];
}

/** dkms.conf files nearest to the top: a source may have several modules. */
function nearest(paths: readonly string[]): string[] {
  const depth = (path: string): number => path.split('/').length;
  const least = Math.min(...paths.map(depth));
  return paths.filter((path) => depth(path) === least).sort();
}

const named = (tree: SourceTree, { within = '' }: ConfHints, form: RegExp): string[] =>
  tree.paths.filter(
    (path) =>
      form.test(path) && (within === '' || path.startsWith(`${within}/`)) && tree.file(path) !== undefined,
  );

/** Whether a dkms.conf cannot be used as it stands. */
export const wantsFilling = (conf: string): boolean => tokensOf(conf).length > 0 || OPEN_VERSION.test(conf);

/**
 * Finds a source's dkms.conf: at the top, deeper, as dkms.conf.in, as debhelper's debian/PACKAGE.dkms, or else makes one of its
 * makefile. Placeholders are filled. Nothing of the source is run. Throws fault `usage` where nothing helps, and says what would.
 */
export function findConf(tree: SourceTree, hints: ConfHints): FoundConf {
  const confs = named(tree, hints, /(?:^|\/)dkms\.conf$/);
  if (confs.length > 0) return takeConfs(tree, nearest(confs), hints);
  const [template] = nearest(named(tree, hints, /(?:^|\/)dkms\.conf\.in$/));
  if (template !== undefined) return takeText(tree, { path: template, folder: folderOf(template) }, hints);
  const debian = nearest(named(tree, hints, /(?:^|\/)debian\/(?:[^/]+\.)?dkms(?:\.in)?$/));
  const [first, ...others] = debian;
  if (first !== undefined) {
    if (others.length > 0) throw several(hints, 'files for dh_dkms', debian);
    return takeText(tree, debianConf(tree, first), hints);
  }
  return makeConf(tree, hints);
}

const several = ({ text }: ConfHints, what: string, paths: readonly string[]): Dkms2binError =>
  new Dkms2binError(
    'usage',
    `${text} has no dkms.conf, and several ${what}: ${paths.slice(0, 8).join(', ')}`,
    {
      hint: 'Name the folder of the one to build; of a git repository as #REF:FOLDER.',
    },
  );

function takeConfs(tree: SourceTree, paths: readonly string[], hints: ConfHints): FoundConf {
  const said: string[] = [];
  const warnings: string[] = [];
  let filled = tree;
  for (const path of paths) {
    const text = tree.text(path);
    const result = text === undefined ? null : fill(tree, { path, folder: folderOf(path) }, text, hints);
    if (!result) continue;
    if (result.conf !== text) filled = filled.with(path, result.conf);
    if (result.said !== '') said.push(`${path}: ${result.said}`);
    warnings.push(...result.warnings);
  }
  const [only = ''] = paths.length === 1 ? paths.map(folderOf) : [];
  if (only !== '' && said.length === 0) said.push(`its dkms.conf is ${only}/dkms.conf`);
  return {
    tree: filled.below(only),
    folder: only,
    asGiven: filled === tree,
    said: said.length > 0 ? said.join('; ') : null,
    made: null,
    warnings,
  };
}

/** A text that becomes the dkms.conf of a folder. */
interface ConfPlace {
  path: string;
  folder: string;
}

function takeText(tree: SourceTree, place: ConfPlace, hints: ConfHints): FoundConf {
  const { conf, said, warnings } = fill(tree, place, tree.text(place.path) ?? '', hints);
  return {
    tree: tree.below(place.folder).with('dkms.conf', conf),
    folder: place.folder,
    asGiven: false,
    said: `dkms.conf from ${place.path}${said === '' ? '' : `; ${said}`}`,
    made: null,
    warnings,
  };
}

/** Where debhelper's file leads, and the folder that its package is made of: that of the makefile. */
function debianConf(tree: SourceTree, path: string): ConfPlace {
  const above = folderOf(folderOf(path));
  const text = (tree.text(path) ?? '').trim();
  // It may be the path of another file.
  const pointed = above === '' ? text : `${above}/${text}`;
  const conf = !/[=\n]/.test(text) && tree.file(pointed) ? pointed : path;
  const [only, ...more] = makefileIn(tree, above) === undefined ? moduleFolders(tree, above) : [];
  return { path: conf, folder: only !== undefined && more.length === 0 ? only : above };
}

const TOKEN = /(@@?)([A-Za-z_][A-Za-z0-9_]*)\1|#([A-Z_][A-Z0-9_]*)#/g;
const PACKAGE_VERSION = /^([ \t]*(?:export[ \t]+)?PACKAGE_VERSION=)(["']?)([^"'\n]*?)\2[ \t]*(\r?)$/m;
/** An assignment of nothing. */
const OPEN_VERSION = /^[ \t]*PACKAGE_VERSION=(?:["']{2})?[ \t]*\r?$/m;
const PACKAGE_NAME = /^[ \t]*(?:export[ \t]+)?PACKAGE_NAME=["']?([^"'\n;]*)/m;

interface Filled {
  conf: string;
  /** '' when nothing was filled. */
  said: string;
  warnings: string[];
}

/** Fills the placeholders of a dkms.conf; one that says its version keeps it. */
function fill(tree: SourceTree, place: ConfPlace, text: string, hints: ConfHints): Filled {
  const inVersion = tokensOf(PACKAGE_VERSION.exec(text)?.[0] ?? '');
  const isOpen = inVersion.length > 0 || OPEN_VERSION.test(text);
  const isVersion = (token: string): boolean => inVersion.includes(token) || /VERSION|PKGVER/i.test(token);
  const wanted = isOpen || tokensOf(text).some(isVersion);
  const found = wanted ? versionFor(tree, place, hints) : null;
  const { values, said } = valuesOf(text, {
    place,
    hints,
    version: found && { isVersion, text: found.version },
  });
  let conf = mapCode(text, (line) => line.replaceAll(TOKEN, (token: string) => values.get(token) ?? token));
  if (found && OPEN_VERSION.test(text))
    conf = conf.replace(/^([ \t]*PACKAGE_VERSION=)(?:["']{2})?[ \t]*(\r?)$/m, `$1"${found.version}"$2`);
  const unused = !isOpen && hints.given !== undefined && PACKAGE_VERSION.test(text);
  const warning = `${hints.text}: --module-version is not used, since ${place.path} says its version itself`;
  return {
    conf,
    said: [...(found ? [`version ${found.version} from ${found.from}`] : []), ...said].join(', '),
    warnings: unused ? [warning] : [],
  };
}

interface Filling {
  place: ConfPlace;
  hints: ConfHints;
  /** Null for a text that needs none. */
  version: { isVersion: (token: string) => boolean; text: string } | null;
}

/** What goes in place of a text's placeholders, and what is to be said of them. */
function valuesOf(
  text: string,
  { place, hints, version }: Filling,
): { values: Map<string, string>; said: string[] } {
  const inName = tokensOf(PACKAGE_NAME.exec(text)?.[0] ?? '');
  const values = new Map<string, string>();
  const said: string[] = [];
  const unknown: string[] = [];
  for (const token of tokensOf(text)) {
    const other = otherValue(token, inName, hints);
    if (version?.isVersion(token)) values.set(token, version.text);
    else if (other !== null) {
      values.set(token, other);
      said.push(`${token} is ${other || 'left empty'}`);
    } else if (token.startsWith('@')) unknown.push(token);
  }
  if (unknown.length === 0) return { values, said };
  const what = `${place.path} holds ${unknown.join(' and ')}, for which the source has no value`;
  throw new Dkms2binError('usage', `${hints.text}: ${what}`, {
    hint: 'Its own configure or make fills them: run that, and give the folder then.',
  });
}

/** The value of a placeholder that is no version; null when nobody knows. */
function otherValue(token: string, inName: readonly string[], { name }: ConfHints): string | null {
  const isName = /^[@#_]*(?:PACKAGE|PKG|MODULE)?_?(?:NAME|BASE|PACKAGE)[@#_]*$/i;
  if (inName.includes(token) || isName.test(token)) return plainName(name);
  return /FLA?GS|OPTS|OPTIONS|ARGS/i.test(token) ? '' : null;
}

/** The lines that are no comments, changed. */
const mapCode = (text: string, change: (line: string) => string): string =>
  text
    .split('\n')
    .map((line) => (/^\s*#(?![A-Z_][A-Z0-9_]*#)/.test(line) ? line : change(line)))
    .join('\n');

/** The placeholders of a text's code, each once. */
function tokensOf(text: string): string[] {
  const tokens = new Set<string>();
  mapCode(text, (line) => {
    for (const [token] of line.matchAll(TOKEN)) tokens.add(token);
    return line;
  });
  return [...tokens];
}

function versionFor(tree: SourceTree, { path, folder }: ConfPlace, hints: ConfHints): FoundVersion {
  const found = findVersion(tree, folder, hints);
  if (found) return found;
  throw new Dkms2binError(
    'usage',
    `${hints.text}: ${path} leaves PACKAGE_VERSION open, and nothing in the source says it`,
    {
      hint: 'Give it with --module-version. Looked for debian/changelog, a tag of its commit, and a file VERSION.',
    },
  );
}

/** As a dkms package may be called. */
const plainName = (name: string): string =>
  name.replaceAll(/[^A-Za-z0-9._+-]+/g, '-').replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, '') || 'module';

function makeConf(tree: SourceTree, hints: ConfHints): FoundConf {
  const folders = moduleFolders(tree, hints.within ?? '');
  const [folder, ...others] = folders;
  if (folder === undefined) {
    throw new Dkms2binError(
      'usage',
      `${hints.text} holds no dkms.conf, and no Makefile or Kbuild with obj-m to make one of`,
      {
        hint: 'Give a DKMS source: a folder or archive with dkms.conf, as found under /usr/src.',
      },
    );
  }
  if (others.length > 0)
    throw several(
      hints,
      'folders with modules',
      folders.map((each) => each || '.'),
    );
  const makefile = makefileIn(tree, folder) ?? '';
  const modules = modulesOf(tree, folder);
  const [first, ...more] = modules;
  const name = plainName(first !== undefined && more.length === 0 ? first.name : hints.name);
  const found = findVersion(tree, folder, { ...hints, commit: undefined }) ??
    sourceVersion(tree, folder) ??
    findVersion(tree, folder, hints) ?? {
      version: '0.1',
      from: 'dkms2bin, for want of another (--module-version)',
    };
  const lines = [
    `# Made by dkms2bin from obj-m of ${makefile}.`,
    `PACKAGE_NAME="${name}"`,
    `PACKAGE_VERSION="${found.version}"`,
    ...modules.flatMap((each, at) => [
      `BUILT_MODULE_NAME[${at}]="${each.name}"`,
      ...(each.folder === '' ? [] : [`BUILT_MODULE_LOCATION[${at}]="${each.folder}"`]),
      `DEST_MODULE_LOCATION[${at}]="/updates/dkms"`,
    ]),
    'AUTOINSTALL="yes"',
  ];
  const made = `${lines.join('\n')}\n`;
  return {
    tree: tree.below(folder).with('dkms.conf', made),
    folder,
    asGiven: false,
    said: `no dkms.conf; one is made from obj-m of ${makefile}: ${modules.map((each) => each.name).join(', ')}, version ${found.version} from ${found.from}`,
    made,
    warnings: [],
  };
}

/** MODULE_VERSION of its .c files, when they agree and say it in plain words. */
function sourceVersion(tree: SourceTree, folder: string): FoundVersion | null {
  const own = tree.paths.filter(
    (path) => path.endsWith('.c') && foldersAbove(folderOf(path)).includes(folder),
  );
  const found = own.flatMap((path) =>
    [...(tree.text(path) ?? '').matchAll(/^\s*MODULE_VERSION\s*\(\s*"([0-9][0-9A-Za-z.+~_-]*)"\s*\)/gm)].map(
      ([, version = '']) => version,
    ),
  );
  const [version, ...others] = new Set(found);
  return version !== undefined && others.length === 0 ? { version, from: 'MODULE_VERSION' } : null;
}
