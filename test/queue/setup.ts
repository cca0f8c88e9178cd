import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import type { TestProject } from 'vitest/node';
import { plainSources } from '../host/fixtures/plain-sources.js';

declare module 'vitest' {
  interface ProvidedContext {
    /** The sources and these tests' programs as plain JavaScript, for processes of their own. */
    programs: string;
  }
}

/** Once for all files of this folder. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const home = await plainSources();
  const from = fileURLToPath(new URL('processes', import.meta.url));
  const to = join(home, 'test/queue/processes');
  await mkdir(to, { recursive: true });
  const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
  const steps = fileURLToPath(new URL('../host/fixtures/steps.ts', import.meta.url));
  for (const path of [...(await readdir(from)).map((name) => join(from, name)), steps]) {
    const text = ts.transpileModule(await readFile(path, 'utf8'), { compilerOptions });
    await writeFile(join(to, basename(path).replace(/\.ts$/, '.js')), text.outputText);
  }
  project.provide('programs', home);
  return () => rm(home, { recursive: true, force: true });
}
