import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const SRC = join(import.meta.dirname, '../../../src');

/** What is loaded before a command runs: files of src by their paths, and packages. Types and `import()` are not. */
async function loaded(file: string, seen = new Set<string>()): Promise<Set<string>> {
  if (seen.has(file)) return seen;
  seen.add(file);
  const text = await readFile(join(SRC, file), 'utf8');
  for (const [, names = '', from = ''] of text.matchAll(
    /^(?:import|export) (?!type )([^;]*?) ?from '([^']+)';$/gm,
  )) {
    const members = /^\{([^}]*)\}$/
      .exec(names)?.[1]
      ?.split(',')
      .map((each) => each.trim());
    if (members?.every((each) => each === '' || each.startsWith('type '))) continue;
    if (from.startsWith('.')) await loaded(join(dirname(file), from).replace(/\.js$/, '.ts'), seen);
    else seen.add(from);
  }
  return seen;
}

test('--help, --version and completion load no package but commander', async () => {
  const packages = [...(await loaded('main.ts'))].filter((each) => !/\.ts$|^node:/.test(each));
  expect(packages).toEqual(['commander']);
});
