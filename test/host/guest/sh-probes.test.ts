import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

// What stands at /bin/sh in a build VM, compiled for a folder of the test's, with this host's shell behind it. The compiler is a
// script that counts its calls: what is answered from memory starts no program.
const GUEST = join(import.meta.dirname, '../../../cloud-init/guest');
let dir = '';
const at = (...names: string[]): string => join(dir, ...names);

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'sh-probes-'));
  for (const name of ['memory', 'bin', 'one', 'two']) mkdirSync(at(name));
  const files = ['sh-probes.c', 'probes.c'].map((name) => join(GUEST, name));
  const places = [`-DSHELL="/bin/sh"`, `-DFOLDER="${at('memory')}"`];
  execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', ...places, '-o', at('sh'), ...files]);
  for (const name of ['gcc', 'rm', 'uname']) {
    writeFileSync(at('bin', name), `#!/bin/sh\necho ${name} >>${at('calls')}\nexec /usr/bin/${name} "$@"\n`);
    chmodSync(at('bin', name), 0o755);
  }
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));
beforeEach(() => writeFileSync(at('calls'), ''));

interface Asked {
  env?: Record<string, string>;
  cwd?: string;
  learn?: boolean;
}
/** What the shell says, and which programs it started meanwhile. */
function ask(text: string, { env, cwd = '/', learn = false }: Asked = {}) {
  writeFileSync(at('calls'), '');
  const learning = learn ? { DKMS2BIN_LEARN_PROBES: '1' } : {};
  const PATH = `${at('bin')}:/usr/bin:/bin`;
  const ended = spawnSync(at('sh'), ['-c', text], {
    cwd,
    encoding: 'utf8',
    env: { PATH, ...learning, ...env },
  });
  const calls = readFileSync(at('calls'), 'utf8').split('\n').filter(Boolean);
  return { code: ended.status, out: ended.stdout, err: ended.stderr, calls };
}

/** As make expands try-run of scripts/Makefile.compiler. */
const trial = (folder: string, option: string): string => {
  const place = `${folder}.tmp_$$`;
  return `set -e; TMP=${place}/tmp; trap "rm -rf ${place}" EXIT; mkdir -p ${place}; if ( gcc -Werror ${option} -c -x c /dev/null -o "$TMP") >/dev/null 2>&1; then echo "${option}"; else echo "other"; fi`;
};

test('a trial of the compiler is answered for any module, once one was asked', () => {
  const learned = ask(trial(`${at('one')}/`, '-O2'), { learn: true });
  expect(learned).toEqual({ code: 0, out: '-O2\n', err: '', calls: ['gcc', 'rm'] });
  const bad = ask(trial(`${at('one')}/`, '-no-such-option'), { learn: true });
  expect(bad).toMatchObject({ code: 0, out: 'other\n' });

  expect(ask(trial(`${at('two')}/`, '-O2'))).toEqual({ code: 0, out: '-O2\n', err: '', calls: [] });
  expect(ask(trial(`${at('two')}/`, '-no-such-option'))).toMatchObject({ out: 'other\n', calls: [] });
  // Kernels from 6.13 on ask in the module's own folder.
  expect(ask(trial('', '-O2'), { cwd: at('one'), learn: true }).calls).toEqual(['gcc', 'rm']);
  expect(ask(trial('', '-O2'), { cwd: at('two') })).toMatchObject({ out: '-O2\n', calls: [] });
});

test('whatever is not the same question goes to the shell', () => {
  const known = trial(`${at('one')}/`, '-O1');
  expect(ask(known, { learn: true }).out).toBe('-O1\n');
  expect(ask(known).calls).toEqual([]);
  const asked = (text: string, more: Asked = {}): string[] => ask(text, more).calls;
  expect(asked(trial(`${at('one')}/`, '-O3'))).toEqual(['gcc', 'rm']);
  expect(asked(known, { env: { PATH: `${at('bin')}:/usr/bin` } })).toEqual(['gcc', 'rm']);
  // dkms adds its own folder.
  expect(asked(known, { env: { PATH: `${at('bin')}:/usr/bin:/bin:/usr/lib/dkms` } })).toEqual([]);
  expect(asked(known, { env: { CPATH: at('one') } })).toEqual(['gcc', 'rm']);
  expect(asked(known, { cwd: '/tmp' })).toEqual(['gcc', 'rm']);
  // What was asked so far was answered, and not learned.
  expect(asked(trial(`${at('one')}/`, '-O3'))).toEqual(['gcc', 'rm']);
});

test('a trial that cannot make its folder fails as the shell has it', () => {
  expect(ask(trial(`${at('one')}/`, '-Os'), { learn: true }).code).toBe(0);
  const nowhere = trial(`${at('calls')}/`, '-Os');
  const ended = ask(nowhere);
  expect(ended.code).not.toBe(0);
  expect(ended.err).toContain('mkdir');
  // A bad end is not learned either.
  expect(ask(nowhere, { learn: true }).code).not.toBe(0);
  expect(ask(trial(`${at('two')}/`, '-Os'))).toMatchObject({ code: 0, calls: [] });
});

test('facts about the machine are answered, and nothing that does something', () => {
  const fact = 'uname -m | sed -e s/i.86/x86/ -e s/x86_64/x86/';
  expect(ask(fact, { learn: true })).toMatchObject({ out: 'x86\n', calls: ['uname'] });
  expect(ask(fact)).toMatchObject({ code: 0, out: 'x86\n', calls: [] });
  for (const text of ['uname -m', `${fact}; rm -f x`, `set -e;  echo '  CC [M]'; rm -f ${at('x')}`]) {
    const first = ask(text, { learn: true });
    expect(first.calls.length, text).toBeGreaterThan(0);
    expect(ask(text), text).toEqual(first);
  }
});

test('as a shell it is the one that it stands for', () => {
  writeFileSync(at('script'), 'echo "$0 $1"; exit 7');
  const ended = spawnSync(at('sh'), [at('script'), 'one'], { encoding: 'utf8' });
  expect([ended.status, ended.stdout]).toEqual([7, `${at('script')} one\n`]);
  const piped = spawnSync(at('sh'), ['-s', 'two'], { encoding: 'utf8', input: 'echo "$1"; kill -9 $$' });
  expect([piped.signal, piped.stdout]).toEqual(['SIGKILL', 'two\n']);
  expect(spawnSync(at('sh'), ['-c', 'exit 3'], { argv0: '-sh' }).status).toBe(3);
});
