import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  interface ProvidedContext {
    /** The sources and these tests' programs as plain JavaScript, for processes of their own. */
    programs: string;
  }
}

/** Once for all files of this folder. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const home = await mkdtemp(join(tmpdir(), 'd2b-queue-'));
  for (const name of ['package.json', 'images', 'cloud-init'])
    await cp(join(root, name), join(home, name), { recursive: true });
  await symlink(join(root, 'node_modules'), join(home, 'node_modules'));
  const options = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
  for (const folder of ['src', 'test/queue/processes']) {
    for (const each of await readdir(join(root, folder), { recursive: true })) {
      if (!each.endsWith('.ts')) continue;
      const text = ts.transpileModule(await readFile(join(root, folder, each), 'utf8'), {
        compilerOptions: options,
      });
      const to = join(home, folder, each.replace(/\.ts$/, '.js'));
      await mkdir(dirname(to), { recursive: true });
      await writeFile(to, text.outputText);
    }
  }
  project.provide('programs', home);
  return () => rm(home, { recursive: true, force: true });
}
