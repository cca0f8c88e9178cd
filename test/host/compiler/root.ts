import { execFileSync } from 'node:child_process';
import { cpSync, lstatSync, mkdirSync, readlinkSync, realpathSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';

const ask = (...args: string[]): string => execFileSync('gcc', args, { encoding: 'utf8' }).trim();

/** This host's gcc with its parts and libraries, in a folder as it is taken out of a layer. */
export function hostCompiler(root: string): void {
  const programs = ['/usr/bin/gcc', ask('-print-prog-name=cc1'), realpathSync('/usr/bin/as'), '/usr/bin/as'];
  const libraries = programs.flatMap((program) =>
    [...execFileSync('ldd', [realpathSync(program)], { encoding: 'utf8' }).matchAll(/(\/\S+) \(0x/g)].map(
      ([, path = '']) => path,
    ),
  );
  for (const path of new Set([...programs, ...libraries])) copy(root, path.replace(/^\/lib/, '/usr/lib'));
  for (const name of ['bin', 'lib', 'lib64']) symlinkSync(`usr/${name}`, join(root, name));
  mkdirSync(join(root, 'usr/src/linux-headers-1/include'), { recursive: true });
  mkdirSync(join(root, 'usr/include'), { recursive: true });
}

/** A file, and what it leads to. */
function copy(root: string, path: string): void {
  const to = join(root, path);
  if (lstatSync(to, { throwIfNoEntry: false })) return;
  mkdirSync(dirname(to), { recursive: true });
  cpSync(path, to, { verbatimSymlinks: true });
  if (lstatSync(path).isSymbolicLink()) {
    const target = readlinkSync(path);
    copy(root, target.startsWith('/') ? target.replace(/^\/lib/, '/usr/lib') : join(dirname(path), target));
  }
}
