import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { plainSources } from '../fixtures/plain-sources.js';

const has = (program: string): boolean =>
  (process.env['PATH'] ?? '').split(delimiter).some((folder) => existsSync(join(folder, program)));

let folder = '';
let sources = '';
let env: NodeJS.ProcessEnv = {};
beforeAll(async () => {
  sources = await plainSources();
  folder = await mkdtemp(join(tmpdir(), 'dk2b-completion-'));
  await mkdir(join(folder, 'bin'));
  const program = join(folder, 'bin', 'dkms2bin');
  await writeFile(program, `#!/bin/sh\nexec '${process.execPath}' '${join(sources, 'src/main.js')}' "$@"\n`);
  await chmod(program, 0o755);
  await writeFile(join(folder, 'my module.deb'), '');
  env = {
    ...process.env,
    PATH: `${join(folder, 'bin')}${delimiter}${process.env['PATH']}`,
    ...{ DKMS2BIN_CACHE: join(folder, 'cache'), DKMS2BIN_STATE: join(folder, 'state'), HOME: folder },
  };
});
afterAll(() => Promise.all([folder, sources].map((path) => rm(path, { recursive: true, force: true }))));

async function shell(program: string, script: string): Promise<string[]> {
  const ran = await promisify(execFile)(program, ['-c', script], { env, cwd: folder });
  expect(ran.stderr).toBe('');
  return ran.stdout.split('\n').slice(0, -1);
}

/** What bash would offer for the last of these words, which it has split as it does. */
const inBash = (...words: string[]): Promise<string[]> =>
  shell(
    'bash',
    `source <(dkms2bin completion bash)
COMP_WORDS=(dkms2bin ${words.map((word) => `'${word}'`).join(' ')})
COMP_CWORD=${words.length}
_dkms2bin
printf '%s\\n' "\${COMPREPLY[@]}"`,
  );

describe('bash', () => {
  test.each<[string[], string[]]>([
    [['mat'], ['matrix']],
    [['--accel', '=', 't'], ['tcg']],
    [
      ['--accel', '='],
      ['auto', 'kvm', 'tcg'],
    ],
    [
      ['kernels', '--distro', 'debian-1'],
      ['debian-11', 'debian-12', 'debian-13'],
    ],
    [['inspect', 'my'], ['my module.deb']],
  ])('%j', async (words, expected) => {
    const offered = await inBash(...words);
    expect(offered).toEqual(expect.arrayContaining(expected));
    const begun = (words.at(-1) ?? '').replace('=', '');
    expect(offered.filter((word) => !word.startsWith(begun))).toEqual([]);
  });

  test('is registered for the command', async () => {
    const said = await shell('bash', 'source <(dkms2bin completion bash); complete -p dkms2bin');
    expect(said).toEqual(['complete -F _dkms2bin dkms2bin']);
  });
});

test.skipIf(!has('zsh'))('zsh takes the script (skipped where zsh is not installed)', async () => {
  const said = await shell(
    'zsh',
    'autoload -U compinit; compinit -u -d $HOME/dump; source <(dkms2bin completion zsh); print -r -- $_comps[dkms2bin]',
  );
  expect(said).toEqual(['_dkms2bin']);
});

test.skipIf(!has('fish'))('fish completes (skipped where fish is not installed)', async () => {
  const said = await shell('fish', "dkms2bin completion fish | source; complete -C 'dkms2bin mat'");
  expect(said).toEqual([expect.stringMatching(/^matrix\t/)]);
});

test.skipIf(!has('man') || !has('groff'))('the man page renders without warnings', async () => {
  const page = new URL('../../../man/dkms2bin.1', import.meta.url).pathname;
  const ran = await promisify(execFile)('man', ['--warnings', '-E', 'UTF-8', '-l', page], {
    env: { ...env, MANWIDTH: '80', LC_ALL: 'C.UTF-8' },
    maxBuffer: 1 << 24,
  });
  expect(ran.stderr).toBe('');
  expect(ran.stdout).toMatch(/--name-style <style>/);
});
