import { mkdir, mkdtemp, cp, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** A folder with the sources as plain JavaScript, of some folders of src/ or of all, for tests with processes of their own. */
export async function plainSources(folders?: readonly string[]): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), 'dk2b-processes-'));
  for (const name of await readdir(join(ROOT, 'src'), { recursive: true })) {
    if (!name.endsWith('.ts') || (folders && !folders.includes(name.split('/')[0]!))) continue;
    const { outputText } = ts.transpileModule(await readFile(join(ROOT, 'src', name), 'utf8'), {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
    });
    const to = join(home, 'src', name.replace(/\.ts$/, '.js'));
    await mkdir(join(to, '..'), { recursive: true });
    await writeFile(to, outputText);
  }
  await cp(join(ROOT, 'package.json'), join(home, 'package.json'));
  for (const name of ['node_modules', 'images', 'cloud-init'])
    await symlink(join(ROOT, name), join(home, name));
  return home;
}
