import { lstat, readdir, readlink } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { Refusal } from './arguments.js';

/** What lies at a path of the guest's; null: nothing. */
export type Found = { type: 'file' | 'folder' } | { type: 'link'; target: string } | null;

/** Folders that the host has as the layer has them, with all that is in them. A new one beside them is not. */
const WHOLE = [
  /^\/usr\/src\/[^/]+/,
  /^\/usr\/lib\/gcc(?=\/|$)/,
  /^\/usr\/lib\/linux-kbuild-[^/]+/,
  /^\/usr\/include(?=\/|$)/,
  /^\/usr\/lib\/modules\/[^/]+\/(?:build|source)(?=\/|$)/,
];
const MAX_LINKS = 40;

/** A path of the guest's, and what lies at a path below it. */
interface BuildFolder {
  path: string;
  find: (relative: string) => Found;
}

/** The compiler's files and the kernel's headers as a layer has them, in a folder of the host's. */
export class Places {
  readonly #root: string;
  readonly #known = new Map<string, Found>();

  constructor(root: string) {
    this.#root = root;
  }

  /**
   * What a path of the guest's leads to. `passed` hears of every file, folder and link on the way that has to be the guest's, too.
   * `tree` tells of paths in the build folder. Throws a Refusal for a path of which the host cannot know what the guest has.
   */
  async walk(path: string, tree: BuildFolder, passed: Set<string>): Promise<'file' | 'folder' | null> {
    const rest = path.split('/').filter((part) => part !== '' && part !== '.');
    let at = '/';
    let type: 'file' | 'folder' = 'folder';
    let isKnown = false;
    for (let links = 0; rest.length > 0;) {
      const part = rest.shift() ?? '';
      if (part === '..') {
        at = posix.dirname(at);
        isKnown = at.startsWith(tree.path) || this.#isWhole(at, { type });
        continue;
      }
      const next = posix.join(at, part);
      const { found, known } = await this.#look(next, tree);
      isKnown = known !== 'not';
      if (!isKnown && found === null) throw unknown(path);
      // Of what is not there, the folder that it is not in tells.
      if (found === null) return null;
      if (known === 'whole') passed.add(next);
      if (found.type === 'link') {
        if (++links > MAX_LINKS) return null;
        rest.unshift(...found.target.split('/').filter((each) => each !== '' && each !== '.'));
        if (found.target.startsWith('/')) at = '/';
        continue;
      }
      at = next;
      type = found.type;
    }
    if (!isKnown) throw unknown(path);
    return type;
  }

  /** What lies at a path without links, and whether it lies in the build folder or in one that the host has whole. */
  async #look(path: string, tree: BuildFolder): Promise<{ found: Found; known: 'tree' | 'whole' | 'not' }> {
    if (path.startsWith(`${tree.path}/`))
      return { found: tree.find(path.slice(tree.path.length + 1)), known: 'tree' };
    if (path === tree.path) return { found: { type: 'folder' }, known: 'tree' };
    if (tree.path.startsWith(`${path}/`)) return { found: { type: 'folder' }, known: 'not' };
    const found = await this.#find(path);
    return { found, known: this.#isWhole(path, found) ? 'whole' : 'not' };
  }

  /** Every folder of those that are whole, for a look whether anything was added to one. */
  async folders(): Promise<string[]> {
    const all: string[] = [];
    const visit = async (path: string): Promise<void> => {
      if (isWithin(path)) all.push(path);
      for (const entry of await readdir(join(this.#root, path), { withFileTypes: true }).catch(() => [])) {
        if (entry.isDirectory()) await visit(posix.join(path, entry.name));
      }
    };
    const kbuild = (await readdir(join(this.#root, 'usr/lib'))).filter((name) =>
      name.startsWith('linux-kbuild-'),
    );
    const tops = ['/usr/src', '/usr/lib/gcc', '/usr/include', ...kbuild.map((name) => `/usr/lib/${name}`)];
    for (const top of tops) await visit(top);
    return all;
  }

  /** Whether the path is, or lies in, a folder that the host has whole. Without its top there is nothing to know of it. */
  #isWhole(path: string, found: Found): boolean {
    return WHOLE.some((form) => {
      const top = form.exec(path)?.[0];
      if (top === undefined) return false;
      return top === path ? found !== null : (this.#known.get(top) ?? null) !== null;
    });
  }

  async #find(path: string): Promise<Found> {
    const known = this.#known.get(path);
    if (known !== undefined) return known;
    const info = await lstat(join(this.#root, path)).catch(() => null);
    let found: Found = null;
    if (info?.isSymbolicLink()) found = { type: 'link', target: await readlink(join(this.#root, path)) };
    else if (info) found = { type: info.isDirectory() ? 'folder' : 'file' };
    this.#known.set(path, found);
    return found;
  }
}

const unknown = (path: string): Refusal => new Refusal(`${path} is outside what the host knows`);

/** Whether it is one of the whole folders or lies in one; not a folder that holds such. */
const isWithin = (path: string): boolean => WHOLE.some((form) => form.test(path));
