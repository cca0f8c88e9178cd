import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { inflateSync } from 'node:zlib';
import { readCapped } from '../lib/read-capped.js';

const ID = /^[0-9a-f]{40}(?:[0-9a-f]{24})?$/;
const MAX_BYTES = 16 << 20;

/**
 * Tags of the commit that a working folder has checked out, by git's own files alone: no git runs, whose configuration in there
 * is its owner's. Empty for what is no working folder.
 */
export async function tagsOfFolder(folder: string): Promise<string[]> {
  const git = join(folder, '.git');
  const text = async (path: string): Promise<string> =>
    (await readCapped(join(git, path), MAX_BYTES).catch(() => Buffer.alloc(0))).toString('utf8').trim();
  const packed = await text('packed-refs');
  const head = await text('HEAD');
  const [, branch] = /^ref: (refs\/heads\/[A-Za-z0-9._/+@-]+)$/.exec(head) ?? [];
  let commit = head;
  if (branch !== undefined && !branch.includes('..')) {
    const line = packed.split('\n').find((each) => each.endsWith(` ${branch}`));
    commit = (await text(branch)) || (line?.split(' ')[0] ?? '');
  }
  if (!ID.test(commit)) return [];
  return [...new Set([...packedTags(packed, commit), ...(await looseTags(git, commit, text))])];
}

/** An annotated tag's commit stands in the line after its own. */
function packedTags(packed: string, commit: string): string[] {
  const lines = packed.matchAll(/^([0-9a-f]+) refs\/tags\/(\S+)(?:\n\^([0-9a-f]+))?$/gm);
  return [...lines].flatMap(([, id, name = '', peeled]) => ((peeled ?? id) === commit ? [name] : []));
}

async function looseTags(
  git: string,
  commit: string,
  text: (path: string) => Promise<string>,
): Promise<string[]> {
  const tags: string[] = [];
  for (const name of await readdir(join(git, 'refs/tags')).catch(() => [])) {
    const id = await text(`refs/tags/${name}`);
    if (id === commit || (ID.test(id) && (await taggedBy(join(git, 'objects'), id)) === commit))
      tags.push(name);
  }
  return tags;
}

/** What an annotated tag names; null for any other object, and for one in a pack. */
async function taggedBy(objects: string, id: string): Promise<string | null> {
  try {
    const packed = await readCapped(join(objects, id.slice(0, 2), id.slice(2)), 1 << 20);
    const object = inflateSync(packed, { maxOutputLength: 1 << 20 }).toString('latin1');
    return /^tag \d+\0object ([0-9a-f]+)\n/.exec(object)?.[1] ?? null;
  } catch {
    return null;
  }
}
