import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../src/lib/exec.js';
import { entered, type Root } from './roots.js';
import { koFiles, worstOf, type Outcome } from './outcome.js';

/** What native dkms makes of the source folders in `upper`, of which the last one is the one that it is about. */
export const native = (root: Root, upper: string, folders: readonly string[]): Promise<Outcome> =>
  judged(root, upper, folders, false);

/** The same for a package of the distro. */
export const nativePackage = (root: Root, upper: string, name: string): Promise<Outcome> =>
  judged(root, upper, ['--package', name], true);

async function judged(
  root: Root,
  upper: string,
  what: readonly string[],
  network: boolean,
): Promise<Outcome> {
  const up = join(upper, 'up');
  mkdirSync(join(up, 'srv'), { recursive: true });
  copyFileSync(join(import.meta.dirname, 'native.sh'), join(up, 'srv', 'native.sh'));
  const [file, ...args] = [...entered(root, upper, network), 'bash', '/srv/native.sh', root.release, ...what];
  await run(file!, args, { network });
  const steps = join(up, 'var/lib/native');
  const text = (name: string): string =>
    existsSync(join(steps, name)) ? readFileSync(join(steps, name), 'utf8') : '';
  const files = await koFiles(up, root);
  const verdicts: Outcome['verdict'][] = [];
  let said = text('add.out');
  for (let n = 1; existsSync(join(steps, `${n}.build.code`)); n++) {
    const words = text(`${n}.build.out`) + text(`${n}.install.out`);
    said += words;
    verdicts.push(
      verdictOf(Number(text(`${n}.build.code`)), Number(text(`${n}.install.code`)), words, files),
    );
  }
  // What was not added is not built. With a POST_ADD that fails a source is added all the same.
  return { verdict: worstOf(verdicts), said: said + makeLogs(join(up, 'var/lib/dkms')), files };
}

function verdictOf(
  build: number,
  install: number,
  said: string,
  files: Outcome['files'],
): Outcome['verdict'] {
  // From 3.0.11 on, and Debian's 3.0.10, with a code of its own.
  if (build === 77 || (build === 9 && said.includes('BUILD_EXCLUSIVE'))) return 'skipped';
  if (build !== 0) return 'failed';
  // dkms says nothing is wrong where the kernel's own module is as new, and where OBSOLETE_BY is reached.
  if (
    files.size === 0 &&
    /obsoleted|is not newer|exactly matches|already installed|will not replace/.test(said)
  )
    return 'skipped';
  return install === 0 ? 'built' : 'failed';
}

function makeLogs(folder: string): string {
  if (!existsSync(folder)) return '';
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((each) => each.endsWith('make.log'))
    .map((each) => readFileSync(join(folder, each), 'utf8'))
    .join('');
}
