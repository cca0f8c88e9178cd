import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { dist } from './tool.mjs';

/** One digest for modules, by the names of their files. */
function digestOf(files) {
  const hash = createHash('sha256');
  for (const { name, bytes } of files.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    hash.update(`${name} ${bytes.length}\n`);
    hash.update(bytes);
  }
  return hash.digest('hex');
}

/** Of the modules in a .deb, which are not compressed in Debian 12. */
export async function digestOfModules(file) {
  const { readDeb } = await dist('formats/deb.js');
  const { files } = await readDeb(file);
  const modules = files.filter(({ path }) => path.endsWith('.ko'));
  if (modules.length === 0) throw new Error(`${file} holds no .ko`);
  return digestOf(modules.map((each) => ({ name: basename(each.path), bytes: each.bytes() })));
}

/** Of the modules in a folder. */
export async function digestOfFolder(folder) {
  const names = await readdir(folder);
  return digestOf(
    await Promise.all(names.map(async (name) => ({ name, bytes: await readFile(join(folder, name)) }))),
  );
}
