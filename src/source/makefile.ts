import { foldersAbove } from './version.js';
import type { SourceTree } from './tree.js';

/** A module that a kbuild makefile builds. */
export interface KbuildModule {
  name: string;
  /** Folder of its .ko below the makefile's, '' for its own. */
  folder: string;
}

/** The kbuild makefile of a folder; where there are both, kbuild reads Kbuild. */
export const makefileIn = (tree: SourceTree, folder: string): string | undefined =>
  ['Kbuild', 'Makefile'].map((name) => inside(folder, name)).find((path) => tree.text(path) !== undefined);

const inside = (folder: string, name: string): string => (folder === '' ? name : `${folder}/${name}`);

/** Deeper ones are tests, examples or drivers of something else. */
const MAX_DEPTH = 4;

/**
 * The folders nearest to the top whose makefile builds modules. Makefiles are read by their text, nothing of them is run: what a
 * shell or a condition would decide is not seen.
 */
export function moduleFolders(tree: SourceTree, within: string): string[] {
  const makefiles = tree.paths.filter(
    (path) => /(?:^|\/)(?:Kbuild|Makefile)$/.test(path) && (within === '' || path.startsWith(`${within}/`)),
  );
  const folders = new Set(makefiles.map(folderOf));
  const byDepth = [...folders]
    .map((folder) => ({ folder, depth: foldersAbove(folder).length }))
    .filter(({ depth }) => depth <= MAX_DEPTH)
    .sort((a, b) => a.depth - b.depth || (a.folder < b.folder ? -1 : 1))
    .filter(({ folder }) => modulesOf(tree, folder).length > 0);
  return byDepth.filter(({ depth }) => depth === byDepth[0]?.depth).map(({ folder }) => folder);
}

export const folderOf = (path: string): string =>
  path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '';

/** What `obj-m` of a folder's makefile, and of the folders that it leads to, names. */
export function modulesOf(tree: SourceTree, folder: string): KbuildModule[] {
  const found = new Map<string, KbuildModule>();
  const visit = (at: string, below: string, depth: number): void => {
    const path = makefileIn(tree, at);
    if (path === undefined || depth > MAX_DEPTH) return;
    for (const word of objects(tree.text(path) ?? '')) {
      const [, name] = /^([A-Za-z0-9_][A-Za-z0-9_+-]*)\.o$/.exec(word) ?? [];
      if (name !== undefined) found.set(`${below}/${name}`, { name, folder: below });
      else if (/^[A-Za-z0-9_][A-Za-z0-9_/.-]*\/$/.test(word) && !word.includes('..')) {
        const next = word.replace(/\/+$/, '');
        visit(inside(at, next), inside(below, next), depth + 1);
      }
    }
  };
  visit(folder, '', 0);
  return [...found.values()];
}

/** Words of obj-m, and of obj-$(CONFIG_X) where the makefile itself sets CONFIG_X to m. */
function objects(text: string): string[] {
  const lines = text
    .replaceAll(/\\\r?\n/g, ' ')
    .replaceAll(/(^|[^\\])#.*$/gm, '$1')
    .split(/\r?\n/);
  const variables = new Map<string, string>();
  const words: string[] = [];
  for (const line of lines) {
    const [, name = '', operator = '', value = ''] =
      /^\s*(?:export\s+|override\s+)*([A-Za-z_][A-Za-z0-9_.()$-]*?)\s*([:?+]?:?=)\s*(.*?)\s*$/.exec(line) ??
      [];
    if (name === '') continue;
    const object = expand(name, variables);
    if (object === 'obj-m') words.push(value);
    else if (!operator.startsWith('?') || !variables.has(name)) {
      const before = operator.startsWith('+') ? `${variables.get(name) ?? ''} ` : '';
      variables.set(name, before + value);
    }
  }
  // A variable may be set below the line that names it.
  return words.flatMap((each) => expand(each, variables).split(/\s+/)).filter((word) => word !== '');
}

/** $(X), ${X}, and the two functions that name objects; the rest stays as it stands, which is no object's name. */
function expand(text: string, variables: ReadonlyMap<string, string>, depth = 0): string {
  if (depth > 8 || text.length > 10_000) return '';
  const again = (value: string): string => expand(value, variables, depth + 1);
  return text
    .replaceAll(
      /\$\(patsubst\s+%,%\.o,((?:[^()]|\$\([^()]*\))*)\)|\$\(addsuffix\s+\.o,((?:[^()]|\$\([^()]*\))*)\)/g,
      (_, a?: string, b?: string) =>
        again(a ?? b ?? '')
          .trim()
          .split(/\s+/)
          .map((word) => `${word}.o`)
          .join(' '),
    )
    .replaceAll(/\$[({]([A-Za-z_][A-Za-z0-9_]*)[)}]/g, (all, name: string) => {
      const value = variables.get(name);
      return value === undefined ? all : again(value);
    });
}
